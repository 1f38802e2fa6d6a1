"""Visual quality against the clip's own portrait, at matched motion: what real film loses at the same turn
of the head and the same speed is not held against a clip.

Every part is 1 for a clip no worse than real film that moves alike, and 0 at a stated loss beyond that. So
a clip that does not move gains nothing over one that moves well.

- identity: distance of face descriptors (`identity`); 0 = a stranger.
- sharpness: fine detail of the face against the portrait's; 0 = half or double the amplitude.
- texture: Frechet distance between natural-scene statistics (MSCN coefficients, Mittal et al. 2012) of
face patches
  in the clip and in the portrait; 0 = the distance of a portrait blurred by 1.5 pixels at 256 px.
- steadiness: what optical flow cannot explain between two neighbouring frames of the face, in grey levels;
0 = 4
  levels, which is what noise of about 8 levels leaves.
- shape: correlation of the face's local contrast with the portrait warped to the re-detected mesh: folds,
tears and
  crumpled skin move what the mesh does not. 0 = a correlation lower by 0.15.

The allowances were chosen on the judges' validation people and rounded; nothing was fitted
(docs/yardsticks.md).

Shape suffixes: F frames, H height, W width, 3 rgb or xyz, P mesh points, N patches or looked-at frames, D
statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from ft2ray.evaluation.identity import descriptor, identity
from ft2ray.generator.portrait.motion import fit_pose
from ft2ray.generator.portrait.warp import Warper
from ft2ray.media.portrait import Portrait

FRAMES_LOOKED_AT = 8
IDENTITY_FRAMES = 2
SHAPE_FRAMES = 4
TEXTURE_LIMIT = 3.5
FLICKER_LIMIT = 4.0
SHAPE_LIMIT = 0.15
_PATCH, _STRIDE = 32, 16
_CHIP = 192


@dataclass(frozen=True)
class Quality:
    """Parts of visual quality, each 1 = as real film that moves alike, 0 = the loss named in the module's
    text."""

    identity: float
    identity_cosine: float
    sharpness: float
    texture: float
    steadiness: float
    shape: float

    @property
    def score(self) -> float:
        """Mean of the five parts; 1 at most."""
        return (self.identity + self.sharpness + self.texture + self.steadiness + self.shape) / 5


def _beyond(loss: float, allowed: float, limit: float) -> float:
    """1 for a loss that is allowed, 0 for one that is larger by the limit."""
    return 1.0 - max(0.0, loss - allowed) / limit


# What real film loses: by the turn against the portrait in degrees, and by the mean flow in pixels of the
# face chip.
def allowed_strangeness(turn: float) -> float:
    return 0.4 + 0.02 * turn


def allowed_texture(turn: float) -> float:
    return 0.55 + 0.02 * turn


def allowed_flicker(flow: float, detail: float) -> float:
    """detail: that of the portrait; the same motion leaves more behind where there is more to be moved."""
    return 1.1 + 0.6 * flow * max(1.0, detail / 1.5)


def allowed_mismatch(turn: float) -> float:
    return 0.05 + 0.014 * turn


ALLOWED_DETAIL = 0.15
"""Of fine detail, in factors of two."""


def face_chip(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray:
    """Grey square around the face at a fixed size, [192, 192] float32."""
    low, high = mesh_P3[:, :2].min(axis=0), mesh_P3[:, :2].max(axis=0)
    centre, half = (low + high) / 2, float((high - low).max()) / 2
    scale = _CHIP / (2 * half)
    move = np.array([[scale, 0, _CHIP / 2 - scale * centre[0]], [0, scale, _CHIP / 2 - scale * centre[1]]])
    grey = cv2.cvtColor(np.ascontiguousarray(image_HW3), cv2.COLOR_RGB2GRAY).astype(np.float32)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.warpAffine(grey, move, (_CHIP, _CHIP), flags=way, borderMode=cv2.BORDER_REFLECT)


def fine_detail(chip_HW: np.ndarray) -> float:
    """Amplitude of what a small blur removes, in grey levels."""
    return float(np.abs(chip_HW - cv2.GaussianBlur(chip_HW, (0, 0), 1.2)).mean())


def texture_statistics(chip_HW: np.ndarray) -> np.ndarray:
    """Natural-scene statistics of overlapping patches, [N, D]: moments of MSCN and of neighbour products."""
    mean_HW = cv2.GaussianBlur(chip_HW, (7, 7), 7 / 6)
    spread_HW = np.sqrt(np.maximum(cv2.GaussianBlur(chip_HW**2, (7, 7), 7 / 6) - mean_HW**2, 0))
    mscn_HW = (chip_HW - mean_HW) / (spread_HW + 1.0)
    neighbours = (
        np.roll(mscn_HW, 1, axis=1),
        np.roll(mscn_HW, 1, axis=0),
        np.roll(mscn_HW, (1, 1), axis=(0, 1)),
    )
    patches = [_patches(field) for field in (mscn_HW, *(mscn_HW * moved_HW for moved_HW in neighbours))]
    columns = [np.log(_patches(spread_HW).mean(axis=1) + 1.0), np.abs(patches[0]).mean(axis=1)]
    columns += [field.std(axis=1) for field in patches] + [field.mean(axis=1) for field in patches[1:]]
    return np.stack(columns, axis=1).astype(np.float64)


def _patches(field_HW: np.ndarray) -> np.ndarray:
    """Overlapping patches, [N, pixels]."""
    windows = np.lib.stride_tricks.sliding_window_view(field_HW, (_PATCH, _PATCH))[::_STRIDE, ::_STRIDE]
    return windows.reshape(-1, _PATCH * _PATCH)


def frechet(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
    """Frechet distance (not squared) in units of b's spread; diagonal covariances, as patches are few."""
    scale_D = b_ND.std(axis=0) + 1e-6
    a_ND, b_ND = a_ND / scale_D, b_ND / scale_D
    means = ((a_ND.mean(axis=0) - b_ND.mean(axis=0)) ** 2).sum()
    return float(np.sqrt(means + ((a_ND.std(axis=0) - b_ND.std(axis=0)) ** 2).sum()))


def flicker(earlier_HW: np.ndarray, later_HW: np.ndarray, flow: cv2.DISOpticalFlow) -> tuple[float, float]:
    """Grey-level difference that remains along the optical flow, and the flow's mean length in pixels."""
    start_HW2 = np.zeros((*later_HW.shape, 2), np.float32)
    motion_HW2 = flow.calc(later_HW.astype(np.uint8), earlier_HW.astype(np.uint8), start_HW2)
    height, width = later_HW.shape
    grid_x, grid_y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved_HW = cv2.remap(
        earlier_HW, grid_x + motion_HW2[..., 0], grid_y + motion_HW2[..., 1], cv2.INTER_LINEAR
    )
    inner = slice(8, -8), slice(8, -8)
    length = float(np.linalg.norm(motion_HW2, axis=-1).mean())
    return float(np.abs(moved_HW[inner] - later_HW[inner]).mean()), length


def local_contrast(chip_HW: np.ndarray) -> np.ndarray:
    """The middle of a face chip without its light and with even contrast, a little smoothed."""
    smooth_HW = cv2.GaussianBlur(chip_HW, (0, 0), 1.5)
    level_HW = smooth_HW - cv2.GaussianBlur(smooth_HW, (0, 0), 8)
    spread_HW = np.sqrt(np.maximum(cv2.GaussianBlur(level_HW**2, (0, 0), 8), 0))
    return (level_HW / (spread_HW + 3.0))[24:-24, 24:-24]


@dataclass(frozen=True, eq=False)
class PortraitFigures:
    """What the clip is compared with; made once per portrait."""

    descriptor_D: np.ndarray
    detail: float
    statistics_ND: np.ndarray
    mesh_P3: np.ndarray
    warper: Warper


@lru_cache(maxsize=16)
def portrait_figures(portrait: Portrait) -> PortraitFigures:
    """Measure a portrait as `measure_quality` measures frames; the last ones are remembered."""
    chip_HW = face_chip(portrait.image_HW3, portrait.mesh_P3)
    return PortraitFigures(
        descriptor(portrait.image_HW3, portrait.mesh_P3),
        fine_detail(chip_HW),
        texture_statistics(chip_HW),
        portrait.mesh_P3,
        Warper(portrait),
    )


def measure_quality(frames_FHW3: np.ndarray, mesh_FP3: np.ndarray, portrait: PortraitFigures) -> Quality:
    """Visual quality of a clip.

    Args:
        frames_FHW3: uint8 RGB.
        mesh_FP3: the re-detected mesh, no gaps.
        portrait: figures of the picture that the clip was made from.
    """
    frames = len(frames_FHW3)
    pose = fit_pose(mesh_FP3.astype(np.float64), portrait.mesh_P3.astype(np.float64))
    turn_F = np.degrees(pose.rotation.magnitude())
    looked_at = np.unique(np.linspace(1, frames - 1, FRAMES_LOOKED_AT).round().astype(int))
    chips = [face_chip(frames_FHW3[i], mesh_FP3[i]) for i in looked_at]
    ratios = [fine_detail(chip) / portrait.detail for chip in chips]
    statistics_ND = np.concatenate([texture_statistics(chip) for chip in chips])
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    before = [face_chip(frames_FHW3[i - 1], mesh_FP3[i - 1]) for i in looked_at]
    flickers = np.array([flicker(a, b, flow) for a, b in zip(before, chips, strict=True)]).mean(axis=0)
    compared = np.linspace(0, frames - 1, IDENTITY_FRAMES + 2).round().astype(int)[1:-1]
    alike = [identity(descriptor(frames_FHW3[i], mesh_FP3[i]), portrait.descriptor_D) for i in compared]
    shaped = np.linspace(4, frames - 4, SHAPE_FRAMES).round().astype(int).clip(0, frames - 1)
    mean_turn = float(turn_F[looked_at].mean())
    return Quality(
        identity=float(
            np.median(
                [
                    _beyond(1 - scaled, allowed_strangeness(turn), 1 - allowed_strangeness(turn))
                    for (scaled, _), turn in zip(alike, turn_F[compared], strict=True)
                ]
            )
        ),
        identity_cosine=float(np.median([cosine for _, cosine in alike])),
        sharpness=_beyond(float(np.median(np.abs(np.log2(ratios)))), ALLOWED_DETAIL, 1.0),
        texture=_beyond(
            frechet(statistics_ND, portrait.statistics_ND), allowed_texture(mean_turn), TEXTURE_LIMIT
        ),
        steadiness=_beyond(flickers[0], allowed_flicker(flickers[1], portrait.detail), FLICKER_LIMIT),
        shape=_beyond(
            1 - shape_agreement(frames_FHW3[shaped], mesh_FP3[shaped], portrait.warper),
            allowed_mismatch(float(turn_F[shaped].mean())),
            SHAPE_LIMIT,
        ),
    )


def shape_agreement(frames_NHW3: np.ndarray, mesh_NP3: np.ndarray, warper: Warper) -> float:
    """Mean correlation of the frames' local contrast with the portrait's, warped to their meshes."""
    expected_NHW3 = warper.render(mesh_NP3)
    found = [
        np.corrcoef(
            local_contrast(face_chip(seen_HW3, mesh_P3)).ravel(),
            local_contrast(face_chip(expected_HW3, mesh_P3)).ravel(),
        )[0, 1]
        for seen_HW3, expected_HW3, mesh_P3 in zip(frames_NHW3, expected_NHW3, mesh_NP3, strict=True)
    ]
    return float(np.mean(found))
