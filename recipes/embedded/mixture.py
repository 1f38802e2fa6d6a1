"""Training clips as broad as the film that large generators are pre-trained on: most have a fault.

A large corpus holds clips whose sound is off or was replaced, whose lips or heads hardly move or are
overdone, and whose faces were badly tracked. A generator trained on it makes all of that, each sample anew,
and preference optimisation has something to choose from. Here every clean clip is spoilt once, before the
training: no fault is added when sampling.

Faults of sound, head and shape are drawn apart from one another. Only the liveliness of the speaker is
shared: lively people are more often off, as people who move much are tracked worse.

Shape suffixes: C motion channels, F frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ft2ray.generator.portrait.motion import MotionBasis
from recipes.embedded.base_data import Clip

LIVELY = 0.5
LATE_FRAMES = (3, 10)  # how far the sound is off, either way: 120 to 400 ms
FIRST_SHAPE = 2  # mouth components from the third on: not the opening of the lips, but the shape of the face
FAULTS = ("sound_off", "lips_amplitude", "head_lifeless", "head_overdone", "tremor", "shape")


def spoil(
    clips: Sequence[Clip], scale_C: np.ndarray, basis: MotionBasis, rng: np.random.Generator
) -> tuple[list[Clip], dict[str, float]]:
    """Spoil every clip once.

    Args:
        clips: clean clips, whitened motion.
        scale_C: standard deviation of each channel over them, the unit of noise.
        basis: which channel is what.
        rng: draws the faults.

    Returns:
        The clips in the same order, and the share of clips with each fault (and with none).
    """
    spoilt, count = [], Counter[str](dict.fromkeys((*FAULTS, "none"), 0))
    for clip in clips:
        x_CF, faults = spoil_motion(clip.x_CF, scale_C, basis, rng)
        count.update(faults or ["none"])
        spoilt.append(replace(clip, x_CF=x_CF))
    return spoilt, {name: number / len(clips) for name, number in count.items()}


def spoil_motion(
    clean_CF: np.ndarray, scale_C: np.ndarray, basis: MotionBasis, rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """One clip's motion with the faults that it draws, and their names."""
    lively = rng.random() < LIVELY
    x_CF, faults = clean_CF.astype(np.float64), []
    frames = x_CF.shape[1]
    if rng.random() < (0.5 if lively else 0.3):
        late = int(rng.integers(LATE_FRAMES[0], LATE_FRAMES[1] + 1)) * (1 if rng.random() < 0.5 else -1)
        x_CF[basis.mouth] = np.roll(x_CF[basis.mouth], late, axis=1)
        faults.append("sound_off")
    if rng.random() < 0.3:
        rest_C1 = basis.rest_C[basis.mouth, None]
        x_CF[basis.mouth] = rest_C1 + np.exp(0.5 * rng.standard_normal()) * (x_CF[basis.mouth] - rest_C1)
        faults.append("lips_amplitude")
    mean_C1 = x_CF[basis.pose].mean(axis=1, keepdims=True)
    if lively or rng.random() < 0.5:
        gain = rng.uniform(1.0, 1.8) if lively else rng.uniform(0.02, 0.35)
        x_CF[basis.pose] = mean_C1 + gain * (x_CF[basis.pose] - mean_C1)
        if not lively:
            faults.append("head_lifeless")
        elif gain > 1.4:
            faults.append("head_overdone")
    if rng.random() < (0.4 if lively else 0.2):
        noise_CF = rng.standard_normal((basis.pose.stop - basis.pose.start, frames))
        x_CF[basis.pose] += rng.uniform(0.05, 0.4) * scale_C[basis.pose, None] * noise_CF
        faults.append("tremor")
    if rng.random() < (0.5 if lively else 0.25):
        channels = shape_channels(basis)
        noise_CF = gaussian_filter1d(
            rng.standard_normal((len(channels), frames)), rng.uniform(2, 12), axis=1, mode="wrap"
        )
        noise_CF /= noise_CF.std(axis=1, keepdims=True)
        x_CF[channels] += rng.uniform(0.3, 1.6) * scale_C[channels, None] * noise_CF
        faults.append("shape")
    return x_CF.astype(np.float32), faults


def shape_channels(basis: MotionBasis) -> np.ndarray:
    """Channels that say what shape the face has: mouth components from the third on, brows and forehead."""
    mouth = np.arange(basis.mouth.start + FIRST_SHAPE, basis.mouth.stop)
    return np.concatenate([mouth, np.arange(basis.lid + 1, basis.upper.stop)])
