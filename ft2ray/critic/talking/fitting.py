"""The packaged critic fitted on people's answers, minutes on a laptop: motion head and scaling.

Shapes: N clips, K dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ft2ray.critic.assessment import labelled_views
from ft2ray.critic.calibration import LEAST, calibrate, placements
from ft2ray.critic.labels import Label, in_part
from ft2ray.critic.talking.critic import CONFIG, TalkingCritic, save_critic
from ft2ray.critic.talking.head_update import HeadInputs, held_out_margins, updated
from ft2ray.errors import DataError
from ft2ray.storage import exists, join, new_folder

LEAST_GAIN = 0.02  # of `placements`, below which the head stays: noise must not change a critic


@dataclass(frozen=True)
class Fitted:
    """What `fit_critic` wrote.

    Attributes:
        fingerprint: of the new critic.
        calibration: what it reaches, by `calibrate`, on answers that it did not learn from.
        updated: whether the motion head changed: only where it then orders held-out clips clearly better.
        order: of two held-out clips with different answers, how often the right one has the higher margin
            (area under the ROC curve) by dimension, without and with an update of the head.
    """

    fingerprint: str
    calibration: dict[str, Any]
    updated: bool
    order: dict[str, tuple[float, float]]


def fit_critic(
    critic: TalkingCritic,
    labels: Sequence[Label],
    out: str,
    say: Callable[[int, int], None] = lambda done, of: None,
) -> Fitted:
    """Write `out`, a folder for `critic.weights`: a critic whose P(Yes) fits what people answered.

    The motion head gets a low-rank update where that helps on answers that the update did not see: each half
    of the groups is judged by a head that learnt from the other half. Then logits are scaled.

    Args:
        critic: the one to start from.
        labels: what people answered; clips of one group stay in one half.
        out: a new folder.
        say: told after each clip how many of how many are read.

    Returns:
        What was found out and written.

    Raises:
        DataError: where `out` is there already, or no dimension has enough answers.
    """
    if exists(join(out, CONFIG)):
        raise DataError(f"{out} holds a critic already; give a new folder")
    margin_NK, clips = _read(critic, labels, say)
    label_NK = np.array([label.row(critic.dimensions) for label in labels])
    half_N = np.array([in_part(label, 0.5) for label in labels]).astype(int)
    fit_K = np.array([_enough(label_N, half_N) for label_N in label_NK.T])
    if not fit_K.any():
        raise DataError(
            f"labels: no dimension has {LEAST} answers Yes and {LEAST} answers No in each half of the "
            f"groups; there are {len(labels)} clips, label more"
        )
    taught_NK = np.where(fit_K, label_NK, np.nan)
    head, told_NK, order = critic.head, margin_NK, {}
    if head is not None:
        inputs = HeadInputs.of(head, clips)
        new_NK = held_out_margins(head, inputs, margin_NK, taught_NK, half_N)
        before_NK, after_NK = (_placements(m_NK, taught_NK, half_N) for m_NK in (margin_NK, new_NK))
        for k in np.flatnonzero(fit_K):
            shares = np.nanmean(before_NK[:, k]), np.nanmean(after_NK[:, k])
            order[critic.dimensions[k]] = float(shares[0]), float(shares[1])
        if _clearly_helps(after_NK - before_NK, labels):
            head, told_NK = updated(head, inputs, margin_NK, taught_NK), new_NK
    scaling, calibration = calibrate(told_NK, taught_NK, critic.dimensions)
    fitted = {name: scaling[name] for name, fit in zip(critic.dimensions, fit_K, strict=True) if fit}
    with new_folder(out, last=CONFIG) as folder:
        settings = critic.processor, critic.questions, calibration, critic.scaling | fitted, head
        fingerprint = save_critic(folder, critic.model, critic.tokenizer, *settings)
    return Fitted(fingerprint, calibration, head is not critic.head, order)


def _read(
    critic: TalkingCritic, labels: Sequence[Label], say: Callable[[int, int], None]
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Unscaled margins_NK, and motion and speech of every clip."""
    margins, clips = [], []
    for view in labelled_views(critic, labels, say):
        margins.append(critic.margins([view])[0])
        clips.append((view.motion_WCF, view.speech_WDF))
    return np.array(margins).reshape(len(labels), len(critic.dimensions)), clips


def _enough(label_N: np.ndarray, half_N: np.ndarray) -> bool:
    return all((label_N[half_N == half] == kind).sum() >= LEAST for half in (0, 1) for kind in (0, 1))


def _placements(margin_NK: np.ndarray, label_NK: np.ndarray, half_N: np.ndarray) -> np.ndarray:
    columns = zip(margin_NK.T, label_NK.T, strict=True)
    return np.stack([placements(margin_N, label_N, half_N) for margin_N, label_N in columns], axis=1)


def _clearly_helps(gain_NK: np.ndarray, labels: Sequence[Label]) -> bool:
    """Whether the mean over groups is LEAST_GAIN at least, and two standard errors above zero."""
    by_group: dict[str, list[float]] = {}
    for label, gain_K in zip(labels, gain_NK, strict=True):
        by_group.setdefault(label.group or label.clip, []).extend(gain_K[~np.isnan(gain_K)].tolist())
    means = np.array([np.mean(found) for found in by_group.values() if found])
    return bool(means.mean() > max(LEAST_GAIN, 2 * means.std(ddof=1) / len(means) ** 0.5))
