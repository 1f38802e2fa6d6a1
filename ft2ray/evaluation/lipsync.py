"""Lip-sync from decoded pixels: the lips predicted from the sound against the lips seen in the video.

Ridges on speech features, fitted on real talking clips, predict the gap between the lips and their width. A
clip's score is a contrast, as SyncNet's confidence is: how much better its lips fit its own sound than the
same sound shifted by MIN_SHIFT to MAX_LAG frames. Correlation alone is closeness to an average mouth, in
which generated mouths beat people; lips that are in time with their sound beat the shifted ones whatever
their manner. Neither looks at how wide the mouth opens, so one that exaggerates gains nothing, and one that
is smoothed loses, since it fits the shifted sound as well.

A table of phone openness that nothing was fitted for (`phones`) stands beside it as a second opinion and is
no part of the score: real people follow it less than generated mouths do (docs/yardsticks.md).

Shape suffixes: T audio samples, F frames, P mesh points, D features, W frames of one window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from transformers import WhisperFeatureExtractor

from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.face import LIPS_INNER_LOWER, LIPS_INNER_UPPER
from ft2ray.media.speech import FEATURE_RATE, encode_speech

MAX_LAG = 15
MIN_SHIFT = 5
"""Shifts from 5 frames (200 ms) on count as out of sync: people notice them."""
WINDOW, HOP = 75, 25
MEL_RATE = 100
KINDS = ("whisper", "mel")
TARGETS = ("gap", "width")
WIDTH_WEIGHT = 0.6
"""Of the lip width beside the gap, chosen on the judges' validation people: the right sound beats a
shifted one in 0.90 of comparisons instead of 0.85."""


def mouth_curve(mesh_FP3: np.ndarray, face_height: float) -> np.ndarray:
    """Opening between the inner lips over time, [F], as a share of the (constant) face height."""
    middle = slice(3, 8)
    upper, lower = mesh_FP3[:, LIPS_INNER_UPPER[middle]], mesh_FP3[:, LIPS_INNER_LOWER[middle]]
    return np.linalg.norm(upper - lower, axis=-1).mean(axis=-1) / face_height


@cache
def _mel() -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=80)


def speech_features(wav_T: np.ndarray, frames: int, fps: float, kind: str) -> np.ndarray:
    """Features of the sound under each video frame, [F, D], the clip's own mean taken off.

    Args:
        wav_T: 16 kHz mono.
        frames: number of video frames.
        fps: video frame rate.
        kind: "mel" (80 log-mel bands) or "whisper" (384 encoder features).
    """
    if kind == "mel":
        steps, rate = (
            _mel()(wav_T, sampling_rate=SAMPLE_RATE, return_tensors="np", padding="longest"),
            MEL_RATE,
        )
        feature_LD = steps.input_features[0].T
    elif kind == "whisper":
        feature_LD, rate = encode_speech(wav_T), FEATURE_RATE
    else:
        raise ValueError(f"Unknown speech feature {kind!r}; use 'mel' or 'whisper'.")
    edges = np.round(np.arange(frames + 1) / fps * rate).astype(int)
    last = len(feature_LD) - 1
    per_frame = [
        feature_LD[min(a, last) : max(min(b, last + 1), min(a, last) + 1)].mean(axis=0)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    frame_FD = np.stack(per_frame).astype(np.float64)
    return frame_FD - frame_FD.mean(axis=0)


def with_context(feature_FD: np.ndarray, context: int) -> np.ndarray:
    """Each frame beside its neighbours, [F, (2 context + 1) D]; the ends are repeated."""
    frames = len(feature_FD)
    index = np.clip(np.arange(frames)[:, None] + np.arange(-context, context + 1), 0, frames - 1)
    return feature_FD[index].reshape(frames, -1)


@dataclass(frozen=True, eq=False)
class Ridge:
    """Linear predictor of one lip signal: weights_D, on features standardised by mean_D and scale_D.

    kind names the features, target the signal: "gap" between the inner lips or "width" between the corners.
    """

    kind: str
    target: str
    context: int
    mean_D: np.ndarray
    scale_D: np.ndarray
    weights_D: np.ndarray

    def apply(self, feature_FD: np.ndarray) -> np.ndarray:
        """The predicted signal, [F], in standard deviations, from features of this ridge's kind."""
        x_FD = with_context(feature_FD, self.context)
        return ((x_FD - self.mean_D) / self.scale_D) @ self.weights_D


def fit_ridge(
    clips: Sequence[tuple[np.ndarray, np.ndarray]],
    kind: str,
    context: int,
    strength: float,
    target: str = "gap",
) -> Ridge:
    """Fit on (features_FD without context, lips_F) pairs; every lip signal is standardised first.

    Args:
        clips: one pair per real talking clip.
        kind: feature name, kept for prediction.
        context: frames to either side.
        strength: ridge penalty in units of the number of features, so that it means the same for any width.
        target: name of the lip signal, kept for prediction.
    """
    x_ND = np.concatenate([with_context(feature_FD, context) for feature_FD, _ in clips])
    y_N = np.concatenate([(lips_F - lips_F.mean()) / lips_F.std() for _, lips_F in clips])
    mean_D, scale_D = x_ND.mean(axis=0), x_ND.std(axis=0) + 1e-8
    z_ND = (x_ND - mean_D) / scale_D
    n, width = z_ND.shape
    penalty = strength * width
    if n < width:  # the dual form: few frames, many features
        weights_D = z_ND.T @ np.linalg.solve(z_ND @ z_ND.T + penalty * np.eye(n), y_N)
    else:
        weights_D = np.linalg.solve(z_ND.T @ z_ND + penalty * np.eye(width), z_ND.T @ y_N)
    return Ridge(kind, target, context, mean_D, scale_D, weights_D)


def apply_ridges(
    ridges: Sequence[Ridge], features: Mapping[str, np.ndarray], target: str = "gap"
) -> np.ndarray:
    """Sum of the standardised predictions of one lip signal, [F]; features by kind of `speech_features`.

    Whisper features know more about lips, log-mel bands carry over better from few seconds of material: their
    errors differ, and the sum is better than either (assets/judge/README.md has the figures).
    """
    curves = [ridge.apply(features[ridge.kind]) for ridge in ridges if ridge.target == target]
    return np.sum([(curve_F - curve_F.mean()) / (curve_F.std() + 1e-9) for curve_F in curves], axis=0)


def correlation(a_W: np.ndarray, b_W: np.ndarray) -> float:
    """Pearson's r; NaN when one of them does not move."""
    a_W, b_W = a_W - a_W.mean(), b_W - b_W.mean()
    norm = float(np.sqrt((a_W @ a_W) * (b_W @ b_W)))
    return float(a_W @ b_W) / norm if norm > 1e-9 else float("nan")


def windowed_correlation(predicted_F: np.ndarray, seen_F: np.ndarray) -> float:
    """Mean correlation over windows of 75 frames (the whole clip when it is shorter)."""
    frames = min(len(predicted_F), len(seen_F))
    starts = range(0, max(frames - WINDOW, 0) + 1, HOP)
    scores = [
        correlation(predicted_F[s : s + WINDOW][:frames], seen_F[s : s + WINDOW][:frames]) for s in starts
    ]
    known = [score for score in scores if np.isfinite(score)]
    return float(np.mean(known)) if known else float("nan")


def lagged_correlation(predicted_F: np.ndarray, seen_F: np.ndarray, lag: int) -> float:
    """Correlation when the seen mouth is taken to be `lag` frames late; the parts that overlap count."""
    frames = min(len(predicted_F), len(seen_F))
    predicted_F, seen_F = predicted_F[:frames], seen_F[:frames]
    if lag >= 0:
        return windowed_correlation(predicted_F[: frames - lag], seen_F[lag:])
    return windowed_correlation(predicted_F[-lag:], seen_F[: frames + lag])


def sync_by_lag(predicted_F: np.ndarray, seen_F: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """Correlations for lags -max_lag .. max_lag, [2 max_lag + 1]; index max_lag is lag 0.

    Raises:
        ValueError: a clip too short for these lags (less than max_lag + 16 frames).
    """
    frames = min(len(predicted_F), len(seen_F))
    if frames < max_lag + 16:
        raise ValueError(
            f"A clip of {frames} frames is too short to measure lip-sync at lags up to {max_lag}; "
            f"give at least {max_lag + 16} frames."
        )
    return np.array([lagged_correlation(predicted_F, seen_F, lag) for lag in range(-max_lag, max_lag + 1)])


def contrast(by_lag: np.ndarray) -> np.ndarray:
    """Correlation at each lag minus the mean of those that lie MIN_SHIFT frames or more away from it."""
    lags = np.arange(len(by_lag))
    far_LL = np.abs(lags[:, None] - lags) >= MIN_SHIFT
    return by_lag - np.where(far_LL, by_lag, 0.0).sum(axis=1) / far_LL.sum(axis=1)


@dataclass(frozen=True)
class LipScore:
    """Lip-sync of one clip; NaN where a curve does not move.

    score: `contrast` of the ridges' gap and width with the seen ones at lag 0, the width with WIDTH_WEIGHT.
    correlation: the same without what shifted sounds score. phones: correlation of the phone table's gap
    with the seen one. lag: frames by which the mouth is late where the ridges' correlation is highest (within
    MAX_LAG). best: contrast there. shifted: mean contrast at lags that are out of sync.
    """

    score: float
    correlation: float
    phones: float
    lag: int
    best: float
    shifted: float


@dataclass(frozen=True, eq=False)
class LipCurves:
    """Gap and width of the lips over time, [F] each: seen in a clip, or predicted from its sound."""

    gap_F: np.ndarray
    width_F: np.ndarray


def predict_lips(ridges: Sequence[Ridge], features: Mapping[str, np.ndarray]) -> LipCurves:
    """Both lip signals by the ridges."""
    return LipCurves(apply_ridges(ridges, features, "gap"), apply_ridges(ridges, features, "width"))


def score_lips(seen: LipCurves, heard: LipCurves, phones_F: np.ndarray) -> LipScore:
    """Compare the seen lips with the ridges' prediction and with the phone table's."""
    by_lag = lips_by_lag(seen, heard)
    above = contrast(by_lag)
    best = int(np.nanargmax(by_lag)) if np.isfinite(by_lag).any() else MAX_LAG
    apart = np.abs(np.arange(len(by_lag)) - MAX_LAG) >= MIN_SHIFT
    return LipScore(
        score=float(above[MAX_LAG]),
        correlation=float(by_lag[MAX_LAG]),
        phones=windowed_correlation(phones_F, seen.gap_F),
        lag=best - MAX_LAG,
        best=float(above[best]),
        shifted=float(above[apart].mean()),
    )


def lips_by_lag(seen: LipCurves, heard: LipCurves) -> np.ndarray:
    """Mean correlation of gap and width at every lag, [2 MAX_LAG + 1]."""
    return weigh_width(sync_by_lag(heard.gap_F, seen.gap_F), sync_by_lag(heard.width_F, seen.width_F))


def weigh_width(gap: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Mean of correlations of gap and width, the width with WIDTH_WEIGHT."""
    return (gap + WIDTH_WEIGHT * width) / (1 + WIDTH_WEIGHT)
