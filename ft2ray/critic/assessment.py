"""What a critic says of clips whose answers people gave: how often it is right, and where it is most wrong.

Shapes: N clips, K dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from ft2ray.critic.base import LogitCritic
from ft2ray.critic.calibration import BINS, figures
from ft2ray.critic.labels import Label
from ft2ray.errors import DataError, MediaError
from ft2ray.media.audio import read_audio
from ft2ray.media.face import FaceMesher
from ft2ray.media.video import FPS, read_video
from ft2ray.storage import local_copy


@dataclass(frozen=True)
class Mistake:
    """A clip, what people answered, and P(Yes) of the critic."""

    clip: str
    dimension: str
    label: float
    p_yes: float

    @property
    def error(self) -> float:
        return abs(self.p_yes - self.label)


@dataclass(frozen=True)
class Assessment:
    """By dimension.

    Attributes:
        figures: "accuracy", "balanced_accuracy", "ece" and "n".
        confusion: (people's Yes, critic's Yes), (Yes, No), (No, Yes), (No, No): numbers of clips.
        reliability: (mean P(Yes), share of people's Yes, clips) of each bin that holds any.
        mistakes: answers on which the critic is on the other side, the largest error first.
    """

    figures: dict[str, dict[str, Any]]
    confusion: dict[str, tuple[int, int, int, int]]
    reliability: dict[str, list[tuple[float, float, int]]]
    mistakes: list[Mistake]


def labelled_views(
    critic: LogitCritic, labels: Sequence[Label], say: Callable[[int, int], None] = lambda done, of: None
) -> Iterator[Any]:
    """What the critic sees of labelled clips, one by one.

    `say`: told after each clip how many of how many are read.

    Raises DataError that names the clip that cannot be read.
    """
    mesher = FaceMesher()
    for number, label in enumerate(labels, 1):
        try:
            frames_FHW3, wav_T = read_video(local_copy(label.clip))
            if label.sound is not None:
                wav_T = read_audio(local_copy(label.sound))
            view = critic.viewer.view(frames_FHW3, wav_T, FPS, mesher)
        except MediaError as error:
            raise DataError(f"labels: the clip {label.clip} cannot be used: {error}") from error
        yield view
        say(number, len(labels))


def read_margins(
    critic: LogitCritic, labels: Sequence[Label], say: Callable[[int, int], None] = lambda done, of: None
) -> tuple[np.ndarray, np.ndarray]:
    """Unscaled logits margin_NK of labelled clips, and their labels label_NK: 1, 0 or NaN."""
    rows = [critic.margins([view])[0] for view in labelled_views(critic, labels, say)]
    shape = len(labels), len(critic.dimensions)
    label_NK = np.array([label.row(critic.dimensions) for label in labels]).reshape(shape)
    return np.array(rows).reshape(shape), label_NK


def assess(
    critic: LogitCritic, labels: Sequence[Label], margin_NK: np.ndarray, label_NK: np.ndarray
) -> Assessment:
    """Compare a critic, scaled as it is, with what people answered, both as `read_margins` gives them."""
    found = Assessment({}, {}, {}, [])
    for k, name in enumerate(critic.dimensions):
        scale, shift = critic.scaling[name]
        known_N = np.flatnonzero(~np.isnan(label_NK[:, k]))
        p_N, true_N = expit(scale * margin_NK[known_N, k] + shift), label_NK[known_N, k]
        found.figures[name] = figures(p_N, true_N)
        said_N, yes_N = p_N > 0.5, true_N == 1
        cells = (yes_N & said_N, yes_N & ~said_N, ~yes_N & said_N, ~yes_N & ~said_N)
        a, b, c, d = (int(cell.sum()) for cell in cells)
        found.confusion[name] = a, b, c, d
        bin_N = np.minimum((p_N * BINS).astype(int), BINS - 1)
        found.reliability[name] = [
            (float(p_N[bin_N == b].mean()), float(true_N[bin_N == b].mean()), int((bin_N == b).sum()))
            for b in np.unique(bin_N)
        ]
        found.mistakes.extend(
            Mistake(labels[n].clip, name, float(true_N[place]), float(p_N[place]))
            for place, n in enumerate(known_N.tolist())
            if said_N[place] != yes_N[place]
        )
    found.mistakes.sort(key=lambda mistake: -mistake.error)
    return found
