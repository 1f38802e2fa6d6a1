"""One clip seen through the face mesh, at 25 frames a second: what every metric starts from.

Shape suffixes: F frames, H height, W width, 3 rgb or xyz, P mesh points, T audio samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ft2ray.evaluation import phones
from ft2ray.evaluation.lipsync import speech_features
from ft2ray.evaluation.motion import MotionTrack, motion_track
from ft2ray.media.face import FaceMesher
from ft2ray.media.find_face import CROP_FACES

RATE = 25.0
MIN_FACE_FOUND = 0.8
"""With the face lost in more frames than this leaves, a clip is not measured: too much would be invented."""


@dataclass(frozen=True, eq=False)
class Observation:
    """mesh_FP3 at the clip's own rate without gaps, motion at 25 fps, face_found = share of frames."""

    mesh_FP3: np.ndarray
    motion: MotionTrack
    face_found: float


def observe(mesh_FP3: np.ndarray, fps: float) -> Observation | None:
    """Close short gaps of a mesh track and take its signals at 25 fps; None below MIN_FACE_FOUND."""
    found_F = np.isfinite(mesh_FP3).all(axis=(1, 2))
    share = float(found_F.mean()) if len(found_F) else 0.0
    if share < MIN_FACE_FOUND:
        return None
    filled_FP3 = _interpolate(mesh_FP3[found_F], np.flatnonzero(found_F), np.arange(len(mesh_FP3)))
    moments = np.arange(round(len(mesh_FP3) / fps * RATE)) / RATE * fps
    steady_FP3 = filled_FP3 if fps == RATE else _interpolate(filled_FP3, np.arange(len(mesh_FP3)), moments)
    return Observation(filled_FP3, motion_track(steady_FP3), share)


def _interpolate(values_FP3: np.ndarray, at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    right = np.clip(np.searchsorted(at, wanted), 1, max(len(at) - 1, 1))
    if len(at) == 1:
        return np.repeat(values_FP3, len(wanted), axis=0)
    left = right - 1
    share = np.clip((wanted - at[left]) / (at[right] - at[left]), 0, 1)[:, None, None]
    return (values_FP3[left] * (1 - share) + values_FP3[right] * share).astype(np.float32)


def heard_phones(wav_T: np.ndarray) -> Sequence[tuple[str, int, int]]:
    """`phones.recognise`; the last recordings are remembered, as all systems speak the same ones."""
    return _heard_phones(wav_T.astype(np.float32).tobytes())


@lru_cache(maxsize=32)
def _heard_phones(wav: bytes) -> Sequence[tuple[str, int, int]]:
    return phones.recognise(np.frombuffer(wav, np.float32))


def phone_curve(wav_T: np.ndarray, frames: int) -> np.ndarray:
    """Openness by the phone table at 25 fps, [F]."""
    return phones.openness_curve(heard_phones(wav_T), frames, RATE)


def feature_curve(wav_T: np.ndarray, frames: int, kind: str) -> np.ndarray:
    """Speech features at 25 fps, [F, D]; the last recordings are remembered."""
    return _feature_curve(wav_T.astype(np.float32).tobytes(), frames, kind)


@lru_cache(maxsize=32)
def _feature_curve(wav: bytes, frames: int, kind: str) -> np.ndarray:
    return speech_features(np.frombuffer(wav, np.float32), frames, RATE, kind)


def crop_head(frames_FHW3: np.ndarray, mesher: FaceMesher, size: int = 256) -> np.ndarray | None:
    """Cut a real clip as portraits are cut: a fixed square around the head; None when no face is found.

    Metrics of real and generated clips are only comparable at the same scale: the tracker's noise and the
    texture of a face both depend on how many pixels it has.
    """
    mesh_FP3 = mesher.track(frames_FHW3)
    found_FP3 = mesh_FP3[np.isfinite(mesh_FP3).all(axis=(1, 2))]
    if not len(found_FP3):
        return None
    low, high = found_FP3[..., :2].min(axis=1), found_FP3[..., :2].max(axis=1)
    face = float(np.median((high - low).max(axis=1)))
    centre = np.median((low + high) / 2, axis=0) - (0, 0.08 * face)
    height, width = frames_FHW3.shape[1:3]
    side = min(CROP_FACES * face, height, width)
    left, top = (
        int(np.clip(c - side / 2, 0, length - side))
        for c, length in zip(centre, (width, height), strict=True)
    )
    way = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    cut_FHW3 = frames_FHW3[:, top : top + int(side), left : left + int(side)]
    return np.stack([cv2.resize(frame, (size, size), interpolation=way) for frame in cut_FHW3])
