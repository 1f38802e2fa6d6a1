"""A critic that is asked of two clips which one is better, and never how good one is.

Its scores are relative to the clips of one call: with s_i the mean over all clips j of logit P(i better than
j), they are sigmoid(s_i). That is the least-squares fit of Bradley and Terry's model (1952): the logits of
two scores differ by the log-odds that one clip beats the other, so `pairs.margin_space: logit` measures
just that. 0.5 is the average clip of the call, a clip alone has 0.5, and a Yes only says: better than the
average. The curation hands such a critic (`groupwise`) all candidates of a prompt at once.

Shapes: N clips, K dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from ft2ray.critic.base import Critic
from ft2ray.errors import CriticError
from ft2ray.preference.rules import LOGIT_CLIP

# (a, b) -> P(a is better than b) in every dimension [K]
Comparison = Callable[[Any, Any], Sequence[float] | np.ndarray]


class PairwiseCritic(Critic):
    """Compares every two clips of a call, in both orders."""

    groupwise = True

    def __init__(self, judge: Comparison, dimensions: tuple[str, ...], fingerprint: str) -> None:
        self.judge, self.dimensions, self.fingerprint = judge, dimensions, fingerprint

    def score(self, views: Sequence[Any]) -> np.ndarray:
        """p_NK float64, relative to each other; ValueError where the judge gives no probability."""
        count = len(views)
        logit_NNK = np.zeros((count, count, len(self.dimensions)))
        for i, j in permutations(range(count), 2):
            p_K = np.asarray(self.judge(views[i], views[j]), dtype=np.float64)
            if p_K.shape != (len(self.dimensions),) or not ((p_K >= 0) & (p_K <= 1)).all():
                raise CriticError(
                    f"the comparison of clips {i} and {j} gave {p_K.tolist()}, no probabilities"
                )
            p_K = np.clip(p_K, LOGIT_CLIP, 1 - LOGIT_CLIP)
            half = (np.log(p_K) - np.log1p(-p_K)) / 2  # the other half is the opposite order's
            logit_NNK[i, j] += half
            logit_NNK[j, i] -= half
        return 1.0 / (1.0 + np.exp(-logit_NNK.mean(axis=1) if count else np.zeros((0, len(self.dimensions)))))
