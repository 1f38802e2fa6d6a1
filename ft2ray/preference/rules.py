"""Which two candidates of one prompt group form a preference pair: pure functions of its scores.

The rule of Talking-NSQ (FantasyTalking2): per dimension, two candidates of one prompt whose answers differ
form a pair in that dimension's own store. A margin on the score is asked on top, and best against worst is
preferred. A missing score is NaN and never becomes a pair.

Shapes: G groups, N candidates, K dimensions.
"""

from __future__ import annotations

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
        return self

    def scale(self, p: np.ndarray) -> np.ndarray:
        """Scores in the space in which this rule measures margins; same shape, NaN stays NaN."""
        if self.margin_space == "p":
            return p
        inside = np.clip(p, LOGIT_CLIP, 1 - LOGIT_CLIP)
        return np.log(inside) - np.log1p(-inside)


def column_pairs(p_N: np.ndarray, rule: PairRule) -> list[Pair]:
    """Pairs of one dimension from its scores alone, largest margin first."""
    return _ranked(*admissible(np.asarray(p_N, dtype=np.float64), rule), rule)


def admissible_in(
    pool: str, p_GNK: np.ndarray, dimensions: Sequence[str], rule: PairRule
) -> tuple[np.ndarray, np.ndarray]:
    """May winner w and loser l form a pair of this pool (a dimension, SUM, FULL)? How large is their gap?

    Both [..., N, N], for scores of one group [N, K] or of many [G, N, K].
    """
    if pool == SUM:
        return _admissible_summed(p_GNK, rule)
    if pool == FULL:
        return _admissible_in_all(p_GNK, rule)
    return admissible(p_GNK[..., dimensions.index(pool)], rule)


def admissible(p_GN: np.ndarray, rule: PairRule) -> tuple[np.ndarray, np.ndarray]:
    """`admissible_in` of a single dimension, by its own scores [..., N]."""
    gap_GNN = _gaps(rule.scale(p_GN))
    allowed_GNN = (gap_GNN > 0) & (gap_GNN >= rule.margin)
    if rule.answers_differ:
        allowed_GNN &= (p_GN[..., :, None] > 0.5) & (p_GN[..., None, :] <= 0.5)
    return allowed_GNN, gap_GNN


def pairs(p_NK: np.ndarray, dimensions: Sequence[str], rule: PairRule) -> dict[str, list[Pair]]:
    """Pairs of every dimension; those of one dimension depend on its own column only.

    One pair of videos may enter several dimensions, with opposite winners.
    """
    p_NK = checked(p_NK)
    if p_NK.shape[1] != len(dimensions):
        raise ValueError(f"scores have {p_NK.shape[1]} columns for {len(dimensions)} dimensions {dimensions}")
    return {name: column_pairs(p_NK[:, k], rule) for k, name in enumerate(dimensions)}


def full_dimension_pairs(p_NK: np.ndarray, rule: PairRule) -> list[Pair]:
    """Pairs whose winner is preferred in every dimension: the data of stage 2.

    Whether answers differ is not asked: a winner that is Yes in all three against a loser that is No in all
    three hardly ever occurs. `Pair.margin` is the sum of the K gaps.
    """
    return _ranked(*_admissible_in_all(checked(p_NK), rule), rule)


def summed_pairs(p_NK: np.ndarray, rule: PairRule) -> list[Pair]:
    """Pairs of the plain-DPO baseline: one score per candidate, the sum of its K scores.

    The margin is asked of the sum. A sum has no Yes or No, so answers are not compared.
    """
    return _ranked(*_admissible_summed(checked(p_NK), rule), rule)


def checked(p_NK: np.ndarray) -> np.ndarray:
    """The scores as float64; ValueError where they are no probabilities."""
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
    """gap[..., w, l] = score[..., w] - score[..., l]; NaN, which is no pair, where one is missing."""
    return score[..., :, None] - score[..., None, :]


def _ranked(allowed_NN: np.ndarray, gap_NN: np.ndarray, rule: PairRule) -> list[Pair]:
    """Admissible pairs by falling margin, ties by index, so that the best-worst pair is always the first."""
    found = [Pair(int(w), int(lo), float(gap_NN[w, lo])) for w, lo in np.argwhere(allowed_NN)]
    found.sort(key=lambda pair: (-pair.margin, pair.winner, pair.loser))
    return found[: 1 if rule.kind == "best_worst" else rule.max_pairs]
