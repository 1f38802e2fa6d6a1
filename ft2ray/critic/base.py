"""What a critic is: the base class of the packaged one, of the full-size one, and of your own.

Name your own by `critic.weights=package.module:Class`; it is built without arguments, once per replica. A
complete example of 30 lines is docs/examples/own_critic.py.

Shape suffixes: N clips, K dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.critic.viewer import Viewer
from ft2ray.errors import NonFiniteError


class Critic(ABC):
    """Scores clips in named dimensions.

    Attributes:
        dimensions: names of the K dimensions, in the order of the scores.
        fingerprint: identity of everything that decides a score; scores of two critics are never mixed.
        viewer: how this critic looks at clips; by default as the packaged critic does (`ClipView`). Set it on
            the class, so that generators find it without loading the critic.
        groupwise: whether scores only compare the clips of one call, which then are all candidates of a
            prompt.
        calibration: how often the critic is right on clips with known answers, as far as that was measured:
            {"set": which clips, "accuracy": {dimension: share}, "n": {dimension: clips}, ...}.
    """

    dimensions: tuple[str, ...]
    fingerprint: str
    viewer: Viewer = TalkingViewer()
    groupwise: bool = False
    calibration: Mapping[str, Any] | None = None

    @abstractmethod
    def score(self, views: Sequence[Any]) -> np.ndarray:
        """Score clips.

        Args:
            views: of N clips, made by `viewer`.

        Returns:
            p_NK float64: probability that the answer to the dimension's question is Yes.

        Raises:
            CriticError, NonFiniteError: rather than return something that is not a probability.
        """


class LogitCritic(Critic):
    """A critic whose probabilities are sigmoid(a * margin + b), with one `scaling` (a, b) per dimension.

    A network is too sure of itself, and then no two candidates would seem to differ; the scaling is fitted on
    held-out clips (see `ft2ray.critic.calibration`).
    """

    scaling: Mapping[str, tuple[float, float]]

    @abstractmethod
    def margins(self, views: Sequence[Any]) -> np.ndarray:
        """Logit of Yes minus logit of No before any scaling: float64 [N, K], each row by itself."""

    def score(self, views: Sequence[Any]) -> np.ndarray:
        scale_K, shift_K = np.array([self.scaling[name] for name in self.dimensions]).T
        margin_NK = scale_K * self.margins(views) + shift_K
        bad = np.flatnonzero(~np.isfinite(margin_NK).all(axis=1))
        if len(bad):
            raise NonFiniteError(
                f"the critic's logits of clip {bad[0]} are not finite; its weights or its input are broken"
            )
        return 1.0 / (1.0 + np.exp(-margin_NK))


@dataclass(frozen=True)
class CriticCard:
    """What is known of a critic without its weights; the first three fields are those of `Critic`."""

    dimensions: tuple[str, ...]
    fingerprint: str
    calibration: Mapping[str, Any] | None
    questions: Mapping[str, str] | None = None  # by dimension; None where the critic does not say
