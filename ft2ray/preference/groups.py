"""What a whole prompt group teaches: how good each of its candidates is beside the others, by dimension.

Pairs keep two of N candidates and forget by how much they differ. A loss on groups visits all of them, each
with its share of good r in [0, 1]:

    z_nk = (s_nk - mean_n s_nk) / std_n s_nk        by dimension, inside the group (GDPO, 2601.05242)
    z_n  = the same of sum_k z_nk                   for the summed score and for the gate
    r_n  = 1/2 + 1/2 clip(z_n / c, -1, 1)           DiffusionNFT (2509.16117)

with s the logit of P(Yes): a saturated critic still orders candidates that all have P near 1. The advantage
of a dimension goes to its own expert, as OmniNFT (2605.12480) routes rewards to the parts of a model.

Two candidates of a group go through the transformer together, with one noise and one time: the best with the
worst, the second best with the second worst and so on, so that what they have in common falls out.

Shapes: N candidates, K dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ft2ray.preference.draws import DrawRule, PairDraw, number_below
from ft2ray.preference.rules import Pair, PairRule, checked, standardised


def advantages(p_NK: np.ndarray, dimensions: Sequence[str], pool: str) -> np.ndarray:
    """z_N of one dimension, or of the sum for any other pool; NaN where a score is missing.

    Candidates that all score the same are all 0.
    """
    z_NK = standardised(PairRule(margin_space="logit").scale(checked(p_NK)))
    if pool in dimensions:
        return z_NK[:, list(dimensions).index(pool)]
    return standardised(z_NK.sum(1, keepdims=True))[:, 0]


def shares(z_N: np.ndarray, clip: float) -> np.ndarray:
    """r_N in [0, 1] of advantages; 1/2 is neither good nor bad."""
    return 0.5 + 0.5 * np.clip(z_N / clip, -1, 1)


def couple(rule: DrawRule, pool: str, cursor: int, draw: PairDraw, z_N: np.ndarray) -> PairDraw:
    """Draw number `cursor` of a pool with two of all candidates in place of its pair, the better one first.

    Every candidate with a score comes up equally often; the middle one of an odd number meets the best.
    """
    order = [int(n) for n in np.argsort(-z_N, kind="stable") if np.isfinite(z_N[n])]
    rank = number_below(len(order), "couple", rule.seed, pool, cursor)
    other = len(order) - 1 - rank
    better, worse = sorted((rank, 0 if other == rank else other))
    winner, loser = order[better], order[worse]
    return replace(draw, pair=Pair(winner, loser, float(z_N[winner] - z_N[loser])))
