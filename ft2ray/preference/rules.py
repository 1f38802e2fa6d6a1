"""Which two candidates of a prompt group form a preference pair: pure functions of the scores of many groups.

The rule of Talking-NSQ (FantasyTalking2): per dimension, two candidates of one prompt whose answers differ
form a pair in that dimension's own store. A margin on the score is asked on top, and best against worst is
preferred. A missing score is NaN and never becomes a pair.

Shapes: G groups, N candidates, K dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ft2ray.settings import Settings
from ft2ray.systems import SUM

FULL = (
    "full"  # the pool of pairs whose winner is preferred in every dimension; SUM: those of the summed score
)
LOGIT_CLIP = 1e-6  # P(Yes) is kept this far from 0 and 1 before its logit, so that no margin is infinite


@dataclass(frozen=True)
class Pair:
    """Indices of two candidates of one group; `margin` > 0 in the unit of the rule (P(Yes) or logit)."""

    winner: int
    loser: int
    margin: float


class PairRule(Settings):
    """When two candidates form a pair.

    The paper's rule is answers_differ=True with a margin of 0.3 in the space "p". The packaged critic says
    Yes to the lip-sync of 96 % of the candidates, so that this leaves 5 pairs in 24 groups; its order tells
    more.
    """

    # "best_worst" keeps the pair with the largest margin, "all" every admissible one, largest margin first.
    kind: Literal["best_worst", "all"] = "best_worst"
    max_pairs: int | None = Field(None, ge=1)  # of "all", per group and pool; None: no cap
    answers_differ: bool = False  # the winner's answer is Yes (P > 0.5) and the loser's is No
    margin: float = Field(0.7, ge=0)  # least difference of the score in the space below
    # "p" measures it on P(Yes), "logit" on log(P / (1 - P)), in nats. Logits are for a saturated critic:
    # where it puts nearly every candidate at 0.01 or at 0.99 its order still says something that differences
    # of P no longer show.
    margin_space: Literal["p", "logit"] = "logit"
    # What the baseline's score sums: "z", each dimension in standard deviations of its group (the margin is
    # then one of standard deviations too), or "raw", the scores themselves.
    sum_of: Literal["z", "raw"] = "z"
    # Pairs of stage 2, whose winner is preferred in every dimension. Weak: nowhere worse by more than the
    # tolerance, and better by the margin in one dimension at least. Strict: by the margin in all of them.
    full_strict: bool = False
    full_tolerance: float = Field(0.0, ge=0)  # at most the margin, so that a pair never holds both ways round

    @model_validator(mode="after")
    def _tolerance_fits(self) -> PairRule:
        if self.full_tolerance > self.margin:
            raise ValueError(f"full_tolerance {self.full_tolerance} must be at most margin {self.margin}")
        widest = 1.0 if self.margin_space == "p" else 2 * math.log(1 / LOGIT_CLIP)
        if self.margin > widest:
            raise ValueError(
                f"margin {self.margin:g} leaves no pair: no two scores differ by more than {widest:.4g}"
            )
        if self.max_pairs is not None and self.kind != "all":
            raise ValueError(f"max_pairs is of the kind all; {self.kind} takes one pair of a group")
        return self

    def scale(self, p: np.ndarray) -> np.ndarray:
        """Scores in the space in which this rule measures margins; same shape, NaN stays NaN."""
        if self.margin_space == "p":
            return p
        inside = np.clip(p, LOGIT_CLIP, 1 - LOGIT_CLIP)
        return np.log(inside) - np.log1p(-inside)


def admissible_in(
    pool: str, p_GNK: np.ndarray, dimensions: Sequence[str], rule: PairRule
) -> tuple[np.ndarray, np.ndarray]:
    """May winner w and loser l form a pair of this pool (a dimension, SUM, FULL)? How large is their gap?

    Both [G, N, N]. A sum has no Yes or No, so answers are not compared there; nor in FULL, since a winner
    that is Yes in all dimensions against a loser that is No in all of them hardly ever occurs.
    """
    if pool == SUM:
        return _admissible_summed(p_GNK, rule)
    if pool == FULL:
        return _admissible_in_all(p_GNK, rule)
    p_GN = p_GNK[..., dimensions.index(pool)]
    gap_GNN = _gaps(rule.scale(p_GN))
    allowed_GNN = (gap_GNN > 0) & (gap_GNN >= rule.margin)
    if rule.answers_differ:
        allowed_GNN &= (p_GN[..., :, None] > 0.5) & (p_GN[..., None, :] <= 0.5)
    return allowed_GNN, gap_GNN


def pairs(
    p_NK: np.ndarray, dimensions: Sequence[str], rule: PairRule, pools: Sequence[str] | None = None
) -> dict[str, list[Pair]]:
    """Pairs of one group by pool, largest margin first.

    Those of a dimension depend on its own column only: one pair of videos may enter several dimensions, with
    opposite winners.

    Args:
        p_NK: P(Yes), NaN where it is missing.
        dimensions: names of the columns.
        rule: which pairs are kept.
        pools: dimensions, SUM or FULL; None stands for every dimension.

    Raises:
        ValueError: for scores that are not probabilities, or of another number of dimensions.
    """
    p_NK = checked(p_NK)
    if p_NK.shape[1] != len(dimensions):
        raise ValueError(f"scores have {p_NK.shape[1]} columns for {len(dimensions)} dimensions {dimensions}")
    found = {}
    for pool in dimensions if pools is None else pools:
        _, winner, loser, margin = ranked(*admissible_in(pool, p_NK[None], dimensions, rule), rule)
        found[pool] = [
            Pair(*one) for one in zip(winner.tolist(), loser.tolist(), margin.tolist(), strict=True)
        ]
    return found


def ranked(
    allowed_GNN: np.ndarray, gap_GNN: np.ndarray, rule: PairRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Group, winner, loser, margin of the pairs that the rule keeps, by group and falling margin.

    Of equal margins the lowest indices come first, so that the best-worst pair is always the first of all.
    """
    if rule.kind == "best_worst":
        count, size, _ = gap_GNN.shape
        best_G = np.where(allowed_GNN, gap_GNN, -np.inf).reshape(count, -1).argmax(1)
        g = np.flatnonzero(allowed_GNN.any((1, 2)))
        w, lo = np.divmod(best_G[g], size)
    else:
        g, w, lo = np.nonzero(allowed_GNN)
        order = np.lexsort((lo, w, -gap_GNN[g, w, lo], g))
        g, w, lo = g[order], w[order], lo[order]
        if rule.max_pairs is not None:
            rank = np.arange(len(g)) - np.searchsorted(g, g)
            g, w, lo = (column[rank < rule.max_pairs] for column in (g, w, lo))
    return g, w, lo, gap_GNN[g, w, lo]


def checked(p_NK: np.ndarray) -> np.ndarray:
    """The scores as float64; ValueError where they are not probabilities."""
    p_NK = np.asarray(p_NK, dtype=np.float64)
    if p_NK.ndim != 2:
        raise ValueError(f"scores must be [candidates, dimensions], got shape {p_NK.shape}")
    known = p_NK[~np.isnan(p_NK)]
    if ((known < 0) | (known > 1)).any():
        raise ValueError("scores must be probabilities in [0, 1], with NaN for a missing one")
    return p_NK


def _admissible_summed(p_GNK: np.ndarray, rule: PairRule) -> tuple[np.ndarray, np.ndarray]:
    score_GNK = rule.scale(p_GNK)
    if rule.sum_of == "z":
        score_GNK = standardised(score_GNK)
    gap_GNN = _gaps(score_GNK.sum(-1))
    return (gap_GNN > 0) & (gap_GNN >= rule.margin), gap_GNN


def standardised(score_GNK: np.ndarray) -> np.ndarray:
    """Scores [..., N, K] in standard deviations of their group, by dimension; NaN stays NaN.

    As GDPO does: without it, the dimension whose scores spread most decides the sum. Where all candidates of
    a group score the same, all are 0.
    """
    known_G1K = (~np.isnan(score_GNK)).sum(-2, keepdims=True).clip(1)
    away_GNK = score_GNK - np.nansum(score_GNK, -2, keepdims=True) / known_G1K
    spread_G1K = np.sqrt(np.nansum(away_GNK**2, -2, keepdims=True) / known_G1K)
    return away_GNK / np.where(spread_G1K > 1e-9, spread_G1K, 1.0)


def _admissible_in_all(p_GNK: np.ndarray, rule: PairRule) -> tuple[np.ndarray, np.ndarray]:
    gap_KGNN = _gaps(np.moveaxis(rule.scale(p_GNK), -1, 0))
    better_KGNN = (gap_KGNN > 0) & (gap_KGNN >= rule.margin)
    weak_GNN = (gap_KGNN >= -rule.full_tolerance).all(0) & better_KGNN.any(0)
    allowed_GNN = better_KGNN.all(0) if rule.full_strict else weak_GNN
    total_GNN = gap_KGNN.sum(0)
    return allowed_GNN & (total_GNN > 0), total_GNN


def _gaps(score: np.ndarray) -> np.ndarray:
    """gap[..., w, l] = score[..., w] - score[..., l]; NaN, which is not a pair, where one is missing."""
    return score[..., :, None] - score[..., None, :]
