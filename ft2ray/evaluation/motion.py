"""Motion naturalness: what a clip's head, lids and mouth do, against what talking people do.

Each trait is one number of a three-second clip (how far the head turns, how fast, how much it trembles,
...) and has a band in which lively talkers lie. Inside its band a trait costs nothing; outside it costs the
distance to the band in factors of two. So neither standing still nor overdoing it pays, and copying one
person's average gains nothing over being another plausible person. People who sit still and read word lists
to a camera (GRID) are real and lie below the bands of the head: the measure asks for lively talkers.

The bands are written by hand. They were chosen on the judges' validation people (studies/split.csv: four in
interviews) and the one lively talker of the base's own film, and rounded; nothing was fitted
(docs/yardsticks.md has the table of people that no choice has seen). Signals in which the tracker's noise
outweighs the motion at 256 pixels (brows, lip width, single frames of the pose) are not traits: mesh and
pixels do not agree about them.

Shape suffixes: F frames, P mesh points, 3 xyz or rotation, 2 xy, T audio samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from scipy.spatial.transform import Rotation

from ft2ray.evaluation.lipsync import mouth_curve
from ft2ray.media.face import RIGID, eye_opening, face_height

RATE = 25.0
BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
EYE_CORNERS = (33, 133, 263, 362)
MOUTH_CORNERS = (61, 291)
BLINK = 0.25
"""Closing of the lids, as a share of their usual opening, that counts as a blink: the mesh sees painted
lids close by less than real ones."""
LIDS = 4.0
"""Frames over which the lids are smoothed (a standard deviation): a blink counts by depth and length, and so
does the slow sinking of the lids in talk, which generated faces lack most."""
TRACKER_TREMOR = 0.2
"""Degrees of high-passed rotation that the tracker reports at 256 pixels for a head at rest."""
WORST = 3.0
"""A trait costs no more than a factor of eight: beyond it one fault would hide all others."""
SILENCE = 0.03
"""Loudness, as a share of the clip's loudest frame, below which nobody speaks (-30 dB)."""
MIN_SILENT_FRAMES = 7


@dataclass(frozen=True)
class Trait:
    """A band of talking people: low and high in the trait's own unit, both inclusive."""

    low: float
    high: float

    def excess(self, value: float) -> float:
        """0 inside of the band, else the distance to it in factors of two, WORST at most."""
        value = max(value, 1e-9)
        return min(
            max(0.0, math.log2(self.low / value) if self.low else 0.0, math.log2(value / self.high)), WORST
        )


TRAITS = {
    "head_turn": Trait(1.8, 11.0),  # standard deviation of the rotation, degrees
    "head_speed": Trait(10.5, 42.0),  # root mean square, degrees a second
    "head_shift": Trait(0.02, 0.13),  # standard deviation of the place, face heights
    "head_pace": Trait(2.2, 6.0),  # speed over spread, 1 / s: drifting below, nodding like a toy above
    "tremor": Trait(0.0, 0.03),  # high-passed rotation over speed, s
    "lids": Trait(0.06, 0.26),  # standard deviation of their opening over LIDS, shares of the usual one
    "mouth_speed": Trait(0.06, 0.45),  # root mean square, face heights a second
    "mouth_pace": Trait(7.0, 16.0),  # speed over spread, 1 / s: smoothed below, jittering above
    "silent_lips": Trait(0.0, 0.4),  # median speed in silence over the spread of the speed
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


def loudness(wav_T: np.ndarray, frames: int) -> np.ndarray:
    """Root mean square of the sound under each frame at 25 fps, [F]."""
    edges = np.round(np.linspace(0, len(wav_T), frames + 1)).astype(int)
    return np.array([np.sqrt(np.mean(wav_T[a:b] ** 2)) for a, b in zip(edges[:-1], edges[1:], strict=True)])


def traits(track: MotionTrack, loudness_F: np.ndarray | None = None) -> dict[str, float]:
    """The figures that TRAITS judges; `silent_lips` only where the sound pauses for long enough."""
    turn_F3 = gaussian_filter1d(track.rotation_F3, 1.5, axis=0)
    shift_F2 = gaussian_filter1d(track.position_F2, 1.5, axis=0)
    mouth_F = gaussian_filter1d(track.mouth_F, 0.6)
    speed_F = RATE * np.linalg.norm(np.diff(turn_F3, axis=0), axis=1)
    head_turn, head_speed = _spread(turn_F3), _rms(speed_F)
    high_passed = track.rotation_F3 - gaussian_filter1d(track.rotation_F3, 1.0, axis=0)
    tremor = math.sqrt(max(float((high_passed**2).sum(axis=1).mean()) - TRACKER_TREMOR**2, 0.0))
    mouth_speed_F = RATE * np.abs(np.diff(mouth_F))
    found = {
        "head_turn": head_turn,
        "head_speed": head_speed,
        "head_shift": _spread(shift_F2),
        "head_pace": head_speed / max(head_turn, 1e-6),
        "tremor": tremor / max(head_speed, 1e-6),
        "lids": _spread(gaussian_filter1d(track.lids_F, LIDS)[:, None]),
        "mouth_speed": _rms(mouth_speed_F),
        "mouth_pace": _rms(mouth_speed_F) / max(float(track.mouth_F.std()), 1e-6),
    }
    if loudness_F is not None:
        quiet_F = loudness_F < SILENCE * loudness_F.max()
        silent_F = quiet_F[1:] & quiet_F[:-1]
        if silent_F.sum() >= MIN_SILENT_FRAMES:
            spread = max(float(mouth_speed_F.std()), 1e-6)
            found["silent_lips"] = float(np.median(mouth_speed_F[silent_F])) / spread
    return found


def _spread(values_FD: np.ndarray) -> float:
    return float(np.sqrt(values_FD.var(axis=0).sum()))


def _rms(values_F: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values_F**2)))


def naturalness(track: MotionTrack, loudness_F: np.ndarray | None = None) -> tuple[float, dict[str, float]]:
    """How far a clip lies outside of what talking people do.

    The mean over traits is quadratic: one badly wrong trait (a frozen head over a talking mouth) is seen
    at once and should not be outvoted.

    Args:
        track: signals at 25 fps, about three seconds long.
        loudness_F: `loudness` of its sound; None leaves the lips in silence out.
    Returns:
        score (0 = every trait like talking people, -WORST = none) and minus the excess of every trait.
    """
    parts = {name: -TRAITS[name].excess(value) for name, value in traits(track, loudness_F).items()}
    return -float(np.sqrt(np.mean(np.square(list(parts.values()))))), parts


def plain_figures(track: MotionTrack, loudness_F: np.ndarray | None = None) -> dict[str, float]:
    """What people can picture.

    Returns:
        head_range (degrees), head_speed (median, degrees a second), blinks_per_minute, blink_depth (share
        of the usual opening, deepest blink; 0 without one), mouth_range (face heights) and, with the sound,
        head_speech: correlation of the head's speed with the loudness, both smoothed over 80 ms.
    """
    turn_F3 = gaussian_filter1d(track.rotation_F3, 1.5, axis=0)
    speed_F = RATE * np.linalg.norm(np.diff(turn_F3, axis=0), axis=1)
    peaks, found = find_peaks(-track.lids_F, prominence=BLINK, width=(1, 12))
    figures = {
        "head_range": float(np.linalg.norm(np.ptp(turn_F3, axis=0))),
        "head_speed": float(np.median(speed_F)),
        "blinks_per_minute": len(peaks) / (len(track.lids_F) / RATE) * 60,
        "blink_depth": float(found["prominences"].max(initial=0.0)),
        "mouth_range": float(np.ptp(track.mouth_F)),
    }
    if loudness_F is not None and speed_F.std() > 1e-6:
        loud_F = gaussian_filter1d(np.log(loudness_F + 1e-5), 2.0)[1:]
        figures["head_speech"] = float(np.corrcoef(loud_F, speed_F)[0, 1]) if loud_F.std() > 1e-6 else 0.0
    return figures
