"""Faults of growing strength for the graded clips of studies/validity.py, each with the dimension it aims at.

The first strength of each is none, or as near to none as the fault can be.

Shape suffixes: C channels, F frames, H height, W width, 3 rgb, 1 broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from ft2ray.generator.portrait.motion import MotionBasis

Motion = Callable[[np.ndarray, MotionBasis, np.random.Generator, float], np.ndarray]
Picture = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def _pose(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, scale: float) -> np.ndarray:
    x_CF = x_CF.copy()
    mean = x_CF[basis.pose].mean(axis=1, keepdims=True)
    x_CF[basis.pose] = mean + scale * (x_CF[basis.pose] - mean)
    return x_CF


def _lips(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, scale: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.mouth] *= scale
    return x_CF


def _shift(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, frames: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.mouth] = np.roll(x_CF[basis.mouth], int(frames), axis=1)
    return x_CF


def _tremble(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, spread: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.pose] += (
        spread * x_CF[basis.pose].std(axis=1, keepdims=True) * rng.standard_normal(x_CF[basis.pose].shape)
    )
    return x_CF


def _smooth(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, sigma: float) -> np.ndarray:
    return x_CF if sigma == 0 else gaussian_filter1d(x_CF, sigma, axis=1)


def _smooth_lips(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, sigma: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.mouth] = _smooth(x_CF[basis.mouth], basis, rng, sigma)
    return x_CF


def _blur(frames_FHW3: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in frames_FHW3]) if sigma else frames_FHW3


def _noise(frames_FHW3: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    return np.clip(frames_FHW3 + rng.normal(0, spread, frames_FHW3.shape), 0, 255).astype(np.uint8)


def _jpeg(frames_FHW3: np.ndarray, rng: np.random.Generator, quality: float) -> np.ndarray:
    return np.stack(
        [
            cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1], 1)
            for f in frames_FHW3
        ]
    )


def _flicker(frames_FHW3: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    steps_F111 = rng.normal(0, spread, (len(frames_FHW3), 1, 1, 1))
    return np.clip(frames_FHW3 + steps_F111, 0, 255).astype(np.uint8)


MOTION: Mapping[str, tuple[str, Motion, Sequence[float]]] = {
    "still head": ("mn", _pose, (1, 0.5, 0.2, 0)),
    "overdone head": ("mn", _pose, (3, 6, 10)),
    "tremor": ("mn", _tremble, (0, 0.3, 0.6, 1.0)),
    "smoothing": ("mn", _smooth, (0, 3, 6, 10)),
    "lip amplitude": ("mn", _lips, (1, 0.4, 0.15, 0)),
    "shifted sound": ("ls", _shift, (0, 3, 6, 10)),
    "smoothed lips": ("ls", _smooth_lips, (0, 2, 4, 8)),
    "exaggerated lips": ("ls", _lips, (1, 1.5, 2)),
}
PICTURE: Mapping[str, tuple[str, Picture, Sequence[float]]] = {
    "blur": ("vq", _blur, (0, 0.8, 1.5, 2.5)),
    "noise": ("vq", _noise, (0, 6, 12, 24)),
    "compression": ("vq", _jpeg, (95, 30, 15, 7)),
    "flicker": ("vq", _flicker, (0, 4, 8, 16)),
}
CRUMPLE = (0.0, 0.5, 1.0)
