"""Render a moving face by warping the real photo.

Every frame is one piecewise-affine map: triangles of the face mesh, of the eyes (their content stays with
the skull while the lids slide over it) and of rings of anchor points that let hair, ears and neck follow
and come to rest at the fixed border. The photo is sampled once, so it stays sharp. The mouth is laid over it.

Shape suffixes: F frames, P mesh points, V vertices, N triangles, A anchors, H W pixels, 2 xy, 3 xyz or rgb.
"""

import cv2
import numpy as np

from ft2ray.generator.portrait.motion import (
    SHUT_EYE_OPENING,
    HeadPose,
    MotionBasis,
    fit_pose,
    lid_displacement,
)
from ft2ray.generator.portrait.mouth_overlay import MouthOverlay
from ft2ray.generator.portrait.warp_geometry import (
    EYE_RIMS,
    SKIN,
    hole_triangles,
    outer_triangles,
    place_anchors,
    signed_areas,
    triangle_maps,
)
from ft2ray.media.face import eye_opening, face_triangles
from ft2ray.media.portrait import Portrait

_SEAM_PIXELS = 2.2  # of the photo, skipped between neighbours in the frame
_SLIVER_AREA = 0.5  # square pixels
_EYES = slice(SKIN, SKIN + len(EYE_RIMS))
_IDENTITY = np.array([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]])


def render(portrait: Portrait, mesh_FP3: np.ndarray) -> np.ndarray:
    """Warp the portrait to each mesh.

    Args:
        portrait: the photo and its mesh.
        mesh_FP3: target meshes in the portrait's pixels.

    Returns:
        frames_FHW3: uint8 RGB of the portrait's size.
    """
    return Warper(portrait).render(mesh_FP3)


class Warper:
    """Everything about one portrait that does not change from frame to frame."""

    def __init__(self, portrait: Portrait) -> None:
        self._image_HW3 = portrait.image_HW3
        self._neutral_P3 = neutral_P3 = portrait.mesh_P3.astype(np.float64)
        height, width = portrait.image_HW3.shape[:2]
        self._anchors = place_anchors(neutral_P3, (height, width))
        self._source_V2 = np.concatenate(
            [neutral_P3[:SKIN, :2], neutral_P3[EYE_RIMS, :2], self._anchors.position_A2]
        )
        self._skin_N3 = face_triangles()
        self._skin_sign_N = np.sign(signed_areas(neutral_P3[None, :, :2], self._skin_N3)[0])
        self._behind_N3 = np.concatenate([outer_triangles(neutral_P3, self._anchors), hole_triangles()])
        self._mouth = MouthOverlay(portrait, fit_pose(neutral_P3[None], MotionBasis.load().canonical_P3))
        self._numbers_HW = np.zeros((height, width), np.int32)
        self._x_HW, self._y_HW = np.meshgrid(
            np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        )

    def render(self, mesh_FP3: np.ndarray) -> np.ndarray:
        """frames_FHW3 uint8 for meshes in the portrait's pixels."""
        mesh_FP3 = mesh_FP3.astype(np.float64)
        pose = fit_pose(mesh_FP3, self._neutral_P3)
        still_FP3 = pose.remove(mesh_FP3) + pose.origin_3  # the meshes as if the head had not moved
        still_FP3 += self._shut_fully(still_FP3)
        mesh_FP3 = pose.apply(still_FP3 - pose.origin_3)
        target_FV2 = np.concatenate(
            [mesh_FP3[:, :SKIN, :2], mesh_FP3[:, EYE_RIMS, :2], self._move_anchors(mesh_FP3, pose)], axis=1
        )
        frames_FHW3 = np.empty((len(mesh_FP3), *self._image_HW3.shape), np.uint8)
        source_V2 = self._source_V2.copy()
        for index, frame_HW3 in enumerate(frames_FHW3):
            source_V2[_EYES] = still_FP3[index, EYE_RIMS, :2]  # what lies between the lids has not moved
            frame_HW3[:] = self._warp(source_V2, target_FV2[index], mesh_FP3[index])
            self._mouth.lay(frame_HW3, mesh_FP3[index], still_FP3[index], pose, index)
        return frames_FHW3

    def _shut_fully(self, still_FP3: np.ndarray) -> np.ndarray:
        """Displacement that brings lids together when the mesh is as shut as meshes of shut eyes are."""
        rest = max(float(eye_opening(self._neutral_P3)), 1e-3)
        shut = min(SHUT_EYE_OPENING, 0.4 * rest)
        measured_F = 1.0 - eye_opening(still_FP3) / rest
        meant_F = np.where(measured_F > 0, measured_F * rest / (rest - shut), measured_F)
        return lid_displacement(self._neutral_P3, np.minimum(meant_F, 1.0) - np.minimum(measured_F, 1.0))

    def _move_anchors(self, mesh_FP3: np.ndarray, pose: HeadPose) -> np.ndarray:
        """Anchors [F, A, 2] follow the head rigidly and the rim of the face, both fading outwards."""
        rim_A3 = self._neutral_P3[self._anchors.hangs_on_A]
        place_A2 = self._anchors.position_A2
        anchor_A3 = np.concatenate([place_A2, rim_A3[:, 2:]], axis=1)  # as deep as the rim they hang on
        carried_FA2 = pose.apply((anchor_A3 - pose.origin_3)[None])[..., :2] - place_A2
        rim_carried_FA2 = pose.apply((rim_A3 - pose.origin_3)[None])[..., :2]
        rim_own_FA2 = mesh_FP3[:, self._anchors.hangs_on_A, :2] - rim_carried_FA2
        return (
            place_A2
            + self._anchors.rigid_A[:, None] * carried_FA2
            + self._anchors.own_A[:, None] * rim_own_FA2
        )

    def _warp(self, source_V2: np.ndarray, target_V2: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray:
        # Back to front: what lies in the skin's holes, so that shut lids and lips leave nothing of it; folds
        # and slivers, which sound neighbours then cover; far skin before near, so that a turned nose hides
        # the cheek behind it.
        depth_N = mesh_P3[self._skin_N3, 2].mean(axis=1)
        area_N = signed_areas(target_V2[None], self._skin_N3)[0] * self._skin_sign_N
        order_N = np.lexsort((-depth_N, area_N > _SLIVER_AREA))
        triangles_N3 = np.concatenate([self._behind_N3, self._skin_N3[order_N]])
        self._numbers_HW[:] = 0
        corners_N32 = np.round(target_V2[triangles_N3] * 16).astype(np.int32)  # 4 fractional bits
        for number, corners_32 in enumerate(corners_N32, start=1):  # 0: the picture at rest
            cv2.fillConvexPoly(self._numbers_HW, corners_32, number, lineType=cv2.LINE_8, shift=4)
        maps_N6 = triangle_maps(target_V2[triangles_N3], source_V2[triangles_N3]).reshape(-1, 6)
        maps_6N = np.ascontiguousarray(np.concatenate([_IDENTITY, maps_N6]).astype(np.float32).T)
        x_HW, y_HW = (
            across_N.take(self._numbers_HW) * self._x_HW
            + down_N.take(self._numbers_HW) * self._y_HW
            + moved_N.take(self._numbers_HW)
            for across_N, down_N, moved_N in (maps_6N[:3], maps_6N[3:])
        )
        frame_HW3 = cv2.remap(self._image_HW3, x_HW, y_HW, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return _smooth_seams(frame_HW3, x_HW, y_HW)


def _smooth_seams(frame_HW3: np.ndarray, x_HW: np.ndarray, y_HW: np.ndarray) -> np.ndarray:
    """Antialias the few pixels where the map jumps (rims of lids and lips) or squeezes the photo."""
    seam_HW = np.zeros(x_HW.shape, bool)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        jump = np.abs(x_HW[second] - x_HW[first]) > _SEAM_PIXELS
        jump |= np.abs(y_HW[second] - y_HW[first]) > _SEAM_PIXELS
        seam_HW[first] |= jump
        seam_HW[second] |= jump
    if not seam_HW.any():
        return frame_HW3
    smooth_HW3 = cv2.GaussianBlur(cv2.medianBlur(frame_HW3, 3), (3, 3), 0.7)
    return np.where(seam_HW[..., None], smooth_HW3, frame_HW3)


def fold_share(mesh_FP3: np.ndarray, portrait: Portrait) -> float:
    """Share of the skin triangles, over all frames, that are turned inside out: 0 for a sound warp.

    Triangles that are slivers in the portrait itself are left out: their orientation is noise.
    """
    triangles_N3 = face_triangles()
    rest_N = signed_areas(portrait.mesh_P3[None, :, :2], triangles_N3)[0]
    counted_N = np.abs(rest_N) > _SLIVER_AREA
    moved_FN = signed_areas(mesh_FP3[..., :2], triangles_N3[counted_N])
    return float(np.mean(moved_FN * np.sign(rest_N[counted_N]) < 0))
