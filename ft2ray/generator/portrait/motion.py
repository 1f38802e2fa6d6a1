"""The motion of a face as few numbers: what the portrait codec's latent frames are.

A mesh of 478 points is taken apart into
    mouth  displacement of the lower face (lips, chin, jaw, lower cheeks), principal components
    upper  closing of the lids (one number) and displacement of brows and forehead, principal components
    pose   rotation vector (3), translation in face heights (2), log scale (1) of the head
relative to a neutral mesh: closed mouth, open eyes, mean pose. Displacements live in a canonical, frontal
frame in face heights, so that the motion of one person moves the portrait of any other, in any pose.
All channels are whitened: zero mean, unit variance over the training clips.

Shape suffixes: F frames, P mesh points (478), 3 xyz, C channels, K components.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors import safe_open
from scipy.spatial.transform import Rotation

from ft2ray.media.face import (
    CHIN,
    LEFT_LID_LOWER,
    LEFT_LID_LOWER_SKIN,
    LEFT_LID_UPPER,
    LEFT_LID_UPPER_SKIN,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    NOSE_BASE,
    POINTS,
    RIGHT_LID_LOWER,
    RIGHT_LID_LOWER_SKIN,
    RIGHT_LID_UPPER,
    RIGHT_LID_UPPER_SKIN,
    RIGID,
    eye_opening,
    mouth_gap,
)

POSE_CHANNELS = 6
GRID_AUDIO_OFFSET_FRAMES = 1
"""In the GRID clips the pictures come one frame (40 ms) late: training pairs motion frame f + 1 with the
sound of frame f. `encode` itself never shifts."""

LID_CLOSURE_RANGE = (-0.35, 1.0)
LIPS_TOUCH = 0.012  # face heights
SHUT_EYE_OPENING = 0.06
"""The mesh never reports less than about this opening (share of the eye's width), even for a shut eye."""

# (moving row, its partner on the other lid, share of the way to the partner at closure 1)
_LID_ROWS = tuple(
    (np.array(row), np.array(upper), np.array(lower), share)
    for upper, lower, upper_skin, lower_skin in (
        (RIGHT_LID_UPPER, RIGHT_LID_LOWER, RIGHT_LID_UPPER_SKIN, RIGHT_LID_LOWER_SKIN),
        (LEFT_LID_UPPER, LEFT_LID_LOWER, LEFT_LID_UPPER_SKIN, LEFT_LID_LOWER_SKIN),
    )
    for row, share in ((upper, 0.9), (lower, -0.1), (upper_skin, 0.4), (lower_skin, -0.05))
)
_RIGID = np.array(RIGID)


@dataclass(frozen=True)
class HeadPose:
    """Weak-perspective poses of F frames: mesh = scale * rotation(reference - origin) + centre."""

    rotation: Rotation
    scale_F: np.ndarray
    centre_F3: np.ndarray
    origin_3: np.ndarray

    def remove(self, mesh_FP3: np.ndarray) -> np.ndarray:
        """Bring meshes into the reference's frame, its origin at zero."""
        centred = (mesh_FP3 - self.centre_F3[:, None]) / self.scale_F[:, None, None]
        return np.einsum("fji,fpj->fpi", self.rotation.as_matrix(), centred)

    def apply(self, mesh_FP3: np.ndarray) -> np.ndarray:
        """The inverse of `remove`."""
        turned = np.einsum("fij,fpj->fpi", self.rotation.as_matrix(), mesh_FP3)
        return turned * self.scale_F[:, None, None] + self.centre_F3[:, None]


def fit_pose(mesh_FP3: np.ndarray, reference_P3: np.ndarray) -> HeadPose:
    """Least-squares similarity (Umeyama 1991) of the bony points from the reference to each frame."""
    origin_3 = reference_P3[_RIGID].mean(axis=0)
    reference_R3 = reference_P3[_RIGID] - origin_3
    centre_F3 = mesh_FP3[:, _RIGID].mean(axis=1)
    points_FR3 = mesh_FP3[:, _RIGID] - centre_F3[:, None]
    u_F33, singular_F3, vt_F33 = np.linalg.svd(np.einsum("fri,rj->fij", points_FR3, reference_R3))
    sign_F3 = np.ones_like(singular_F3)
    sign_F3[:, 2] = np.sign(np.linalg.det(u_F33 @ vt_F33))  # a rotation, never a mirror image
    rotation = Rotation.from_matrix((u_F33 * sign_F3[:, None, :]) @ vt_F33)
    scale_F = (singular_F3 * sign_F3).sum(axis=1) / (reference_R3**2).sum()
    return HeadPose(rotation, scale_F, centre_F3, origin_3)


class MotionBasis:
    """Turns meshes into whitened motion channels and back.

    Attributes:
        channels: number of channels C; mouth, upper, pose: their slices.
        lid: the channel of the lids, first of `upper`.
        canonical_P3: the mean frontal face in face heights, bony points centred at zero.
        rest_C: the latent of the neutral face: lips closed, eyes open, head still.
        mirror_C: +1 or -1; x * mirror_C is the motion seen in a mirror.
    """

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.canonical_P3 = tensors["canonical"].astype(np.float64)
        mouth_KP3, brow_KP3 = tensors["mouth"].astype(np.float64), tensors["brow"].astype(np.float64)
        self.mean_C = tensors["mean"].astype(np.float64)
        self.std_C = tensors["std"].astype(np.float64)
        self.mirror_C = tensors["mirror"].astype(np.float32)
        self.channels = len(mouth_KP3) + 1 + len(brow_KP3) + POSE_CHANNELS
        self.mouth = slice(0, len(mouth_KP3))
        self.upper = slice(len(mouth_KP3), self.channels - POSE_CHANNELS)
        self.lid = self.upper.start
        self.pose = slice(self.channels - POSE_CHANNELS, self.channels)
        self.rest_C = (-self.mean_C / self.std_C).astype(np.float32)
        components_KD = np.concatenate([mouth_KP3, brow_KP3]).reshape(-1, POINTS * 3)
        self._components_KD = components_KD
        self._inverse_DK = np.linalg.pinv(components_KD)
        self._brow = slice(self.lid + 1, self.upper.stop)

    @classmethod
    def load(cls, path: str | Path = "embedded") -> "MotionBasis":
        """Read a basis written by `recipes.embedded.motion_training`; "embedded" is the package's own."""
        source = files("ft2ray") / "assets" / "motion_basis.safetensors" if path == "embedded" else Path(path)
        with safe_open(str(source), framework="numpy") as tensors:
            return cls({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118

    def encode(self, mesh_FP3: np.ndarray, neutral_P3: np.ndarray | None = None) -> np.ndarray:
        """Motion of a tracked clip.

        Args:
            mesh_FP3: float, pixels, no NaN.
            neutral_P3: the mesh that the motion is relative to; by default the clip's own (`clip_neutral`).

        Returns:
            x_CF: float32, whitened.
        """
        if not np.isfinite(mesh_FP3).all():
            raise ValueError("the mesh has frames without a face (NaN); fill or cut them before encoding.")
        mesh_FP3 = mesh_FP3.astype(np.float64)
        if neutral_P3 is None:
            neutral_P3 = self.clip_neutral(mesh_FP3)
        neutral_P3 = neutral_P3.astype(np.float64)
        own = fit_pose(neutral_P3[None], self.canonical_P3)
        moved = fit_pose(mesh_FP3, neutral_P3)
        level_P3 = close_lips(own.remove(neutral_P3[None])[0])
        in_own_frame_FP3 = moved.remove(mesh_FP3) + own.centre_F3
        displaced_FP3 = own.remove(in_own_frame_FP3) - level_P3
        closure_F = 1.0 - eye_opening(mesh_FP3) / max(float(eye_opening(neutral_P3)), 1e-3)
        displaced_FP3 = displaced_FP3 - lid_displacement(level_P3, closure_F)
        coefficients_FK = displaced_FP3.reshape(len(mesh_FP3), -1) @ self._inverse_DK
        shift_F2 = (moved.centre_F3 - own.centre_F3)[:, :2] / own.scale_F[0]
        pose_F6 = np.concatenate(
            [moved.rotation.as_rotvec(), shift_F2, np.log(moved.scale_F)[:, None]], axis=1
        )
        mouth_count = self.mouth.stop
        raw_FC = np.concatenate(
            [coefficients_FK[:, :mouth_count], closure_F[:, None], coefficients_FK[:, mouth_count:], pose_F6],
            axis=1,
        )
        return ((raw_FC - self.mean_C) / self.std_C).T.astype(np.float32)

    def decode(self, x_CF: np.ndarray, neutral_P3: np.ndarray) -> np.ndarray:
        """Move a neutral mesh.

        Args:
            x_CF: whitened motion.
            neutral_P3: the portrait's own mesh, in pixels, in whatever pose the picture shows.

        Returns:
            mesh_FP3: float32 in the same pixels. The lips touch but never pass through one another.
        """
        raw_FC = x_CF.astype(np.float64).T * self.std_C + self.mean_C
        neutral_P3 = neutral_P3.astype(np.float64)
        own = fit_pose(neutral_P3[None], self.canonical_P3)
        level_P3 = close_lips(own.remove(neutral_P3[None])[0])
        coefficients_FK = np.concatenate([raw_FC[:, self.mouth], raw_FC[:, self._brow]], axis=1)
        shape_FP3 = level_P3 + (coefficients_FK @ self._components_KD).reshape(-1, POINTS, 3)
        shape_FP3 += lid_displacement(level_P3, raw_FC[:, self.lid])
        _keep_lips_apart(shape_FP3, level_P3)
        in_own_frame_FP3 = own.apply(shape_FP3)  # broadcasts the one pose of the portrait
        pose_F6 = raw_FC[:, self.pose]
        shift_F3 = np.concatenate([pose_F6[:, 3:5] * own.scale_F[0], np.zeros((len(pose_F6), 1))], axis=1)
        moved = HeadPose(
            Rotation.from_rotvec(pose_F6[:, :3]),
            np.exp(pose_F6[:, 5]),
            own.centre_F3 + shift_F3,
            own.centre_F3[0],
        )
        return moved.apply(in_own_frame_FP3 - own.centre_F3).astype(np.float32)

    def clip_neutral(self, mesh_FP3: np.ndarray) -> np.ndarray:
        """The clip's resting face: mean of its frames with closed mouth and open eyes, in the mean pose."""
        mesh_FP3 = mesh_FP3.astype(np.float64)
        pose = fit_pose(mesh_FP3, self.canonical_P3)
        gap_F, opening_F = mouth_gap(mesh_FP3), eye_opening(mesh_FP3)
        awake_F = opening_F >= 0.9 * np.median(opening_F)
        closed_F = awake_F & (gap_F <= np.quantile(gap_F[awake_F], 0.2))
        shape_P3 = pose.remove(mesh_FP3)[closed_F].mean(axis=0)
        mean = HeadPose(
            Rotation.concatenate([pose.rotation.mean()]),
            np.exp(np.log(pose.scale_F).mean(keepdims=True)),
            pose.centre_F3.mean(axis=0, keepdims=True),
            pose.origin_3,
        )
        return mean.apply(shape_P3[None])[0]

    def mirror(self, x_CF: np.ndarray) -> np.ndarray:
        """The same motion seen in a mirror; for augmentation."""
        return x_CF * self.mirror_C[:, None]


def close_lips(level_P3: np.ndarray) -> np.ndarray:
    """A level mesh with its parted lips brought together, so that rest means closed for any portrait.

    Both lips move towards each other, the lower one more; the motion fades out towards nose and chin.
    Lips that are apart by less than `LIPS_TOUCH` face heights are closed already, as far as meshes tell.
    """
    upper, lower = list(LIPS_INNER_UPPER), list(LIPS_INNER_LOWER)
    x_P, y_P = level_P3[:, 0], level_P3[:, 1]
    order = np.argsort(x_P[upper])
    x_K = x_P[upper][order]
    gap_K = np.maximum(y_P[lower] - y_P[upper] - LIPS_TOUCH, 0.0)[order]
    gap_P = np.interp(x_P, x_K, gap_K, left=0.0, right=0.0)
    upper_P = np.interp(x_P, x_K, y_P[upper][order])
    lower_P = np.interp(x_P, x_K, y_P[lower][order])
    below_P = y_P > (upper_P + lower_P) / 2
    nose, chin = y_P[NOSE_BASE], y_P[CHIN]
    fade_P = np.where(below_P, (chin - y_P) / (chin - lower_P), (y_P - nose) / (upper_P - nose))
    fade_P = np.clip(fade_P, 0.0, 1.0)
    closed_P3 = level_P3.copy()
    closed_P3[:, 1] += gap_P * fade_P * np.where(below_P, -0.6, 0.4)
    return closed_P3


def lid_displacement(level_P3: np.ndarray, closure_F: np.ndarray) -> np.ndarray:
    """Displacement [F, P, 3] that closes each eye of a neutral mesh by a share of its own opening.

    0 is as in the neutral mesh, 1 is shut; the upper lid does most of the way and the skin follows.
    """
    closure_F = np.clip(closure_F, *LID_CLOSURE_RANGE)
    way_P3 = np.zeros_like(level_P3)
    for row, upper, lower, share in _LID_ROWS:
        way_P3[row] = share * (level_P3[lower] - level_P3[upper])
    return closure_F[:, None, None] * way_P3


def _keep_lips_apart(shape_FP3: np.ndarray, level_P3: np.ndarray) -> None:
    """Where the lower lip would rise above the upper one, let both meet half-way (in place).

    Vertical in the canonical frame. A neutral mesh may itself overlap by a hair: that much stays allowed.
    """
    upper, lower = np.array(LIPS_INNER_UPPER[1:-1]), np.array(LIPS_INNER_LOWER[1:-1])
    allowed = np.minimum(level_P3[lower, 1] - level_P3[upper, 1], 0.0)
    overlap_FK = np.maximum(shape_FP3[:, upper, 1] - shape_FP3[:, lower, 1] + allowed, 0.0)
    shape_FP3[:, upper, 1] -= overlap_FK / 2
    shape_FP3[:, lower, 1] += overlap_FK / 2
