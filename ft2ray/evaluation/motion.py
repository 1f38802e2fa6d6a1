"""Motion naturalness: how far head, brows, lids and mouth move in 40, 160 and 480 ms, against real talkers.

The distribution of displacements at several time spans tells apart what single speeds confuse: a jittering
head moves much in 40 ms and little in 480 ms, a drifting one the other way round, a robotic one either not at
all or in jumps, a frozen one never. Distributions are compared in log units, where standing still is as far
from natural as moving wildly: a still head can not win.

Shape suffixes: F frames, P mesh points, Q quantiles, 3 xyz or rotation, 2 xy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from ft2ray.evaluation.lipsync import mouth_curve
from ft2ray.media.face import RIGID, eye_opening, face_height

LIVELIER = math.log(3.0)
"""A signal that moves up to three times as much as the reference, at every span, is not worse for it: people
differ by about that factor, and the speakers behind the packaged reference sit still. Moving less than the
reference has no such allowance, and jitter, which moves more at short spans only, has none either."""
SPANS = (1, 4, 12)
"""Frames at 25 fps: 40, 160 and 480 ms."""
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
EYE_CORNERS = (33, 133, 263, 362)
MOUTH_CORNERS = (61, 291)
QUANTILES = np.linspace(0.02, 0.98, 25)
BLINK = 0.4
"""A lid that closes by 40 % of its usual opening blinks."""

# Displacements below this are the tracker's own noise or quantisation: degrees, or shares of the face height
# (of the eye's opening for lids). Without the floor, log(0) of a frozen clip would be infinite.
FLOORS = {
    "head_turn": 0.02,
    "head_shift": 1e-4,
    "brows": 1e-4,
    "lids": 1e-3,
    "mouth": 1e-4,
    "lip_width": 1e-4,
}


@dataclass(frozen=True, eq=False)
class MotionTrack:
    """Signals of one clip at 25 fps.

    rotation_F3: rotation vector against the clip's mean pose, degrees. position_F2: in face heights.
    brows_F, mouth_F, width_F: pose-normalised distances in face heights. lids_F: opening / its usual value.
    """

    rotation_F3: np.ndarray
    position_F2: np.ndarray
    brows_F: np.ndarray
    lids_F: np.ndarray
    mouth_F: np.ndarray
    width_F: np.ndarray

    def signals(self) -> dict[str, np.ndarray]:
        """Name -> [F, components], the names of `FLOORS`."""
        return {
            "head_turn": self.rotation_F3,
            "head_shift": self.position_F2,
            "brows": self.brows_F[:, None],
            "lids": self.lids_F[:, None],
            "mouth": self.mouth_F[:, None],
            "lip_width": self.width_F[:, None],
        }


def pose_normalise(mesh_FP3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take the head's rigid motion and scale off a mesh track.

    Bone points are aligned to their own mean by least squares (Umeyama 1991), twice: the mean settles.

    Returns:
        still_FP3: the mesh as if the head did not move. rotation_F3: rotation vectors in degrees.
    """
    rigid_FR3 = mesh_FP3[:, RIGID].astype(np.float64)
    mesh_FP3 = mesh_FP3.astype(np.float64)
    target_R3 = rigid_FR3[len(mesh_FP3) // 2]
    for _ in range(2):
        centre_13 = target_R3.mean(axis=0)
        target = target_R3 - centre_13
        centres_F13 = rigid_FR3.mean(axis=1, keepdims=True)
        moved_FR3 = rigid_FR3 - centres_F13
        u_F33, s_F3, v_F33 = np.linalg.svd(np.einsum("ra,frb->fab", target, moved_FR3))
        sign_F = np.sign(np.linalg.det(u_F33 @ v_F33))
        flip_F3 = np.stack([np.ones_like(sign_F), np.ones_like(sign_F), sign_F], axis=1)
        rotation_F33 = np.einsum("fab,fb,fbc->fac", u_F33, flip_F3, v_F33)
        scale_F = (s_F3 * flip_F3).sum(axis=1) / (moved_FR3**2).sum(axis=(1, 2))
        turned = np.einsum("fab,fpb->fpa", rotation_F33, mesh_FP3 - centres_F13)
        still_FP3 = scale_F[:, None, None] * turned + centre_13
        target_R3 = still_FP3[:, RIGID].mean(axis=0)
    rotation_F3 = Rotation.from_matrix(rotation_F33.transpose(0, 2, 1)).as_rotvec(degrees=True)
    return still_FP3, rotation_F3


def motion_track(mesh_FP3: np.ndarray) -> MotionTrack:
    """Signals of a mesh track without gaps at 25 fps."""
    height = float(np.median(face_height(mesh_FP3)))
    still_FP3, rotation_F3 = pose_normalise(mesh_FP3)
    lids_F = eye_opening(mesh_FP3)
    corners = still_FP3[:, MOUTH_CORNERS]
    return MotionTrack(
        rotation_F3=rotation_F3 - rotation_F3.mean(axis=0),
        position_F2=mesh_FP3[:, RIGID, :2].mean(axis=1) / height,
        brows_F=(still_FP3[:, EYE_CORNERS, 1].mean(axis=1) - still_FP3[:, BROWS, 1].mean(axis=1)) / height,
        lids_F=lids_F / np.percentile(lids_F, 75),
        mouth_F=mouth_curve(still_FP3, height),
        width_F=np.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1) / height,
    )


def displacements(track: MotionTrack) -> dict[str, np.ndarray]:
    """Log displacements "signal@span"; "signal@shake" is how far a frame lies off its neighbours' middle."""
    table = {}
    for name, values in track.signals().items():
        differences = {f"{name}@{span}": values[span:] - values[:-span] for span in SPANS}
        differences[f"{name}@shake"] = values[1:-1] - (values[2:] + values[:-2]) / 2
        for key, moved in differences.items():
            table[key] = np.log(np.maximum(np.linalg.norm(moved, axis=1), FLOORS[name]))
    return table


@dataclass(frozen=True, eq=False)
class MotionReference:
    """Real talkers: the quantiles of every log displacement [Q], and its standard deviation."""

    quantiles: Mapping[str, np.ndarray]
    spread: Mapping[str, float]


def fit_reference(tracks: Sequence[MotionTrack]) -> MotionReference:
    """Pool the displacements of real clips, each clip with the same weight."""
    tables = [displacements(track) for track in tracks]
    pooled = {
        name: np.concatenate([np.quantile(table[name], np.linspace(0, 1, 200)) for table in tables])
        for name in tables[0]
    }
    return MotionReference(
        quantiles={name: np.quantile(values, QUANTILES) for name, values in pooled.items()},
        spread={name: float(values.std()) for name, values in pooled.items()},
    )


def naturalness(track: MotionTrack, reference: MotionReference) -> tuple[float, dict[str, float]]:
    """Negative Wasserstein-1 distance to the reference in its standard deviations.

    The average over signals is a quadratic mean: one badly wrong signal (a frozen head over a talking mouth)
    is seen at once and should not be outvoted.

    Returns:
        score (0 = the reference itself, lower = less natural) and the plain mean per signal.
    """
    table = displacements(track)
    parts: dict[str, list[float]] = {}
    for signal in FLOORS:
        names = [name for name in table if name.split("@")[0] == signal]
        livelier = min(np.median(table[n]) - np.median(reference.quantiles[n]) for n in names)
        allowed = float(np.clip(livelier, 0.0, LIVELIER))
        for name in names:
            quantiles_Q = np.quantile(table[name], QUANTILES) - allowed
            distance = np.abs(quantiles_Q - reference.quantiles[name]).mean()
            parts.setdefault(signal, []).append(-float(distance) / reference.spread[name])
    per_signal = {name: float(np.mean(values)) for name, values in parts.items()}
    return -float(np.sqrt(np.mean(np.square(list(per_signal.values()))))), per_signal


def plain_figures(track: MotionTrack, fps: float = 25.0) -> dict[str, float]:
    """What people can picture: head range (deg), head speed (deg/s over 160 ms), blinks per minute."""
    turn = np.linalg.norm(track.rotation_F3[4:] - track.rotation_F3[:-4], axis=1)
    closed = track.lids_F < 1 - BLINK
    blinks = int((closed[1:] & ~closed[:-1]).sum() + closed[0])
    return {
        "head_range": float(np.linalg.norm(np.ptp(track.rotation_F3, axis=0))),
        "head_speed": float(np.median(turn)) * fps / 4,
        "blinks_per_minute": blinks / (len(track.lids_F) / fps) * 60,
        "mouth_range": float(np.ptp(track.mouth_F)),
    }
