"""Render a moving face by warping the real photo.

Every frame is one piecewise-affine map: triangles of the face mesh, of the eyes (their content stays with
the skull while the lids slide over it) and of rings of anchor points that let hair, ears and neck follow
and come to rest at the fixed border. The photo is sampled once, so it stays sharp. The mouth is laid over it.

Shape suffixes: F frames, P mesh points, V vertices, N triangles, H W pixels, 2 xy, 3 xyz or rgb.
"""

import cv2
import numpy as np
from scipy.spatial import Delaunay

from ft2ray.generator.motion import SHUT_EYE_OPENING, HeadPose, MotionBasis, fit_pose, lid_displacement
from ft2ray.generator.mouth import SHUT_PIXELS, lip_middle, lip_openings, mouth_matte, paint_mouth, parted_matte
from ft2ray.media.face import (
    CHIN,
    FACE_OVAL,
    LEFT_EYE_CORNERS,
    LEFT_LID_LOWER,
    LEFT_LID_UPPER,
    LIPS_INNER,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    RIGHT_EYE_CORNERS,
    RIGHT_LID_LOWER,
    RIGHT_LID_UPPER,
    eye_opening,
    face_height,
    face_triangles,
)
from ft2ray.media.portrait import Portrait

_SKIN = 468  # mesh points without the irises
_RINGS = (1.08, 1.2, 1.4, 1.65, 2.0, 2.5)
_LIP_SHADOW = 0.015  # of the face height
_BORDER_STEP = 16
_SEAM_PIXELS = 2.2  # a photo pixel skipped between neighbours in the frame
_SLIVER_PIXELS = 0.5  # area
_STEEPEST = 4.0  # photo pixels per frame pixel
_IDENTITY = np.array([[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]])
_TEETH_ABOVE_LIP = 0.006  # of the face height: what the lower lip shows of the lower teeth


class Warper:
    """Everything about one portrait that does not change from frame to frame."""

    def __init__(self, portrait: Portrait) -> None:
        self.portrait = portrait
        neutral_P3 = portrait.mesh_P3.astype(np.float64)
        self._neutral_P3 = neutral_P3
        self._skin_N3 = face_triangles()
        self._skin_sign_N = np.sign(_signed_areas(neutral_P3[None, :, :2], self._skin_N3)[0])
        self._eye_rim = np.concatenate([_eye_loop(*eye) for eye in _EYES])
        anchors_A2, self._anchor_oval, self._rigid_share, self._own_share = _anchors(
            neutral_P3, portrait.image_HW3.shape[:2]
        )
        self._anchor_depth = neutral_P3[self._anchor_oval, 2]
        self._source_V2 = np.concatenate([neutral_P3[:_SKIN, :2], neutral_P3[self._eye_rim, :2], anchors_A2])
        self._anchors = slice(_SKIN + len(self._eye_rim), None)
        self._eyes = slice(_SKIN, _SKIN + len(self._eye_rim))
        outer_N3 = _outer_triangles(neutral_P3, anchors_A2, self._anchors.start)
        self._behind_N3 = np.concatenate([outer_N3, _eye_triangles(), _mouth_triangles()])
        self._layers = paint_mouth(portrait.image_HW3, portrait.mesh_P3)
        self._canonical_pose = fit_pose(neutral_P3[None], MotionBasis.load().canonical_P3)
        height, width = portrait.image_HW3.shape[:2]
        self._ids_HW = np.zeros((height, width), np.int32)
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
            [mesh_FP3[:, :_SKIN, :2], mesh_FP3[:, self._eye_rim, :2], self._move_anchors(mesh_FP3, pose)],
            axis=1,
        )
        frames = []
        for index in range(len(mesh_FP3)):
            source_V2 = self._source_V2.copy()
            source_V2[self._eyes] = still_FP3[index, self._eye_rim, :2]
            frame_HW3 = self._warp(source_V2, target_FV2[index], mesh_FP3[index])
            self._lay_mouth(frame_HW3, mesh_FP3[index], still_FP3[index], pose, index)
            frames.append(frame_HW3)
        return np.stack(frames)

    def _shut_fully(self, still_FP3: np.ndarray) -> np.ndarray:
        """Displacement that brings lids together when the mesh is as shut as meshes of shut eyes are."""
        rest = float(eye_opening(self._neutral_P3))
        shut = min(SHUT_EYE_OPENING, 0.4 * rest)
        measured_F = 1.0 - eye_opening(still_FP3) / rest
        meant_F = np.where(measured_F > 0, measured_F * rest / (rest - shut), measured_F)
        return lid_displacement(self._neutral_P3, np.clip(meant_F, None, 1.0) - np.minimum(measured_F, 1.0))

    def _move_anchors(self, mesh_FP3: np.ndarray, pose: HeadPose) -> np.ndarray:
        """Anchors follow the head rigidly, then the nearest point of the face's rim, both fading outwards."""
        anchors_A3 = np.concatenate([self._source_V2[self._anchors], self._anchor_depth[:, None]], axis=1)
        rim_A3 = self._neutral_P3[self._anchor_oval]
        count = len(mesh_FP3)
        rigid_FA2 = (pose.apply(np.tile(anchors_A3 - pose.origin_3, (count, 1, 1))) - anchors_A3)[..., :2]
        rim_rigid_FA2 = pose.apply(np.tile(rim_A3 - pose.origin_3, (count, 1, 1)))[..., :2]
        own_FA2 = mesh_FP3[:, self._anchor_oval, :2] - rim_rigid_FA2
        moved = self._rigid_share[:, None] * rigid_FA2 + self._own_share[:, None] * own_FA2
        return anchors_A3[:, :2] + moved

    def _warp(self, source_V2: np.ndarray, target_V2: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray:
        # Back to front: what lies in the skin's holes, so that shut lids and lips leave nothing of it; folds
        # and slivers, which sound neighbours then cover; far skin before near, so that a turned nose hides
        # the cheek behind it.
        depth_N = mesh_P3[self._skin_N3, 2].mean(axis=1)
        area_N = _signed_areas(target_V2[None], self._skin_N3)[0] * self._skin_sign_N
        order_N = np.lexsort((-depth_N, area_N > _SLIVER_PIXELS))
        triangles_N3 = np.concatenate([self._behind_N3, self._skin_N3[order_N]])
        affine_N23 = _affines(target_V2[triangles_N3], source_V2[triangles_N3])
        self._ids_HW[:] = 0
        corners_N32 = np.round(target_V2[triangles_N3] * 16).astype(np.int32)
        for number, corners_32 in enumerate(corners_N32, start=1):  # 0 is the picture at rest
            cv2.fillConvexPoly(self._ids_HW, corners_32, number, lineType=cv2.LINE_8, shift=4)
        affine_N6 = np.concatenate([_IDENTITY, affine_N23.reshape(-1, 6)]).astype(np.float32)
        coefficients = affine_N6.take(self._ids_HW, axis=0)
        x_HW, y_HW = self._x_HW, self._y_HW
        map_x = coefficients[..., 0] * x_HW + coefficients[..., 1] * y_HW + coefficients[..., 2]
        map_y = coefficients[..., 3] * x_HW + coefficients[..., 4] * y_HW + coefficients[..., 5]
        frame_HW3 = cv2.remap(
            self.portrait.image_HW3, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        return _smooth_seams(frame_HW3, map_x, map_y)

    def _lay_mouth(
        self, frame_HW3: np.ndarray, mesh_P3: np.ndarray, still_P3: np.ndarray, pose: HeadPose, index: int
    ) -> None:
        """Lay the mouth's inside over the opening between the lips (in place)."""
        if lip_openings(mesh_P3).max() < SHUT_PIXELS:
            return
        rim_N2 = mesh_P3[list(LIPS_INNER), :2]
        height, width = frame_HW3.shape[:2]
        low = np.clip(np.floor(rim_N2.min(axis=0)).astype(int) - 2, 0, [width - 1, height - 1])
        high = np.clip(np.ceil(rim_N2.max(axis=0)).astype(int) + 3, 1, [width, height])
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        if min(size) <= 0:
            return
        matte_HW = mouth_matte(rim_N2, low, size) * parted_matte(mesh_P3, low, size)
        inside_HW3 = self._mouth_inside(still_P3, pose, index, low, size, matte_HW)
        window = frame_HW3[low[1] : high[1], low[0] : high[0]]
        mixed = window + matte_HW[..., None] * (inside_HW3 * 255.0 - window)
        window[:] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)

    def _mouth_inside(
        self,
        still_P3: np.ndarray,
        pose: HeadPose,
        index: int,
        low: np.ndarray,
        size: tuple[int, int],
        matte_HW: np.ndarray,
    ) -> np.ndarray:
        layers = self._layers
        turn_33, scale = pose.rotation[index].as_matrix(), pose.scale_F[index]
        # picture plane of the head: the photo's pixels -> the frame's pixels, at the depth of the lips
        middle_3 = lip_middle(self._neutral_P3)
        plane_22 = scale * turn_33[:2, :2]
        middle_2 = (scale * turn_33 @ (middle_3 - pose.origin_3) + pose.centre_F3[index])[:2]
        own = self._canonical_pose
        face_22 = plane_22 @ (own.scale_F[0] * own.rotation.as_matrix()[0][:2, :2])
        jaw_2 = plane_22 @ self._jaw_drop(still_P3)
        layer_to_face = layers.layer_to_face()

        def place(layer_HW4: np.ndarray, moved_2: np.ndarray) -> np.ndarray:
            linear = face_22 @ layer_to_face[:, :2]
            offset = face_22 @ layer_to_face[:, 2] + moved_2 - low
            return _resample(layer_HW4, linear, offset, size)

        inside = np.broadcast_to(layers.cavity_3, (size[1], size[0], 3))
        painted = [place(layers.jaw_HW4, middle_2 + jaw_2), place(layers.skull_HW4, middle_2)]
        if layers.photo_HW4 is not None:
            painted.append(
                _resample(layers.photo_HW4, plane_22, middle_2 - plane_22 @ middle_3[:2] - low, size)
            )
        # lips and cheeks keep light off whatever lies close to the rim
        reach = min(_LIP_SHADOW * float(face_height(self._neutral_P3)), 0.22 * float(matte_HW.sum(axis=0).max()))
        light = 0.3 + 0.7 * cv2.GaussianBlur(matte_HW, (0, 0), max(reach, 0.6))
        for layer_HW4 in painted:
            inside = layer_HW4[..., :3] * light[..., None] + inside * (1.0 - layer_HW4[..., 3:])
        return inside


    def _jaw_drop(self, still_P3: np.ndarray) -> np.ndarray:
        """How far the lower teeth moved, in pixels of the photo: with the chin, never far above the lower lip."""
        chin_2 = still_P3[CHIN, :2] - self._neutral_P3[CHIN, :2]
        lip = list(LIPS_INNER_LOWER[4:7])
        lip_2 = (still_P3[lip, :2] - self._neutral_P3[lip, :2]).mean(axis=0)
        behind_lip = _TEETH_ABOVE_LIP * float(face_height(self._neutral_P3))
        down_2 = self._canonical_pose.rotation.as_matrix()[0][:2, 1]
        lag = max(float((lip_2 - chin_2) @ down_2) - behind_lip, 0.0)
        return chin_2 + lag * down_2


def render(portrait: Portrait, mesh_FP3: np.ndarray) -> np.ndarray:
    """Warp the portrait to each mesh.

    Args:
        portrait: the photo and its mesh.
        mesh_FP3: target meshes in the portrait's pixels.

    Returns:
        frames_FHW3: uint8 RGB of the portrait's size.
    """
    return Warper(portrait).render(mesh_FP3)


def fold_share(mesh_FP3: np.ndarray, portrait: Portrait) -> float:
    """Share of the skin triangles, over all frames, that are turned inside out: 0 for a sound warp.

    Triangles that are slivers in the portrait itself (below half a pixel) are left out: their orientation is noise.
    """
    triangles_N3 = face_triangles()
    rest_N = _signed_areas(portrait.mesh_P3[None, :, :2], triangles_N3)[0]
    counted_N = np.abs(rest_N) > 0.5
    moved_FN = _signed_areas(mesh_FP3[..., :2], triangles_N3[counted_N])
    return float(np.mean(moved_FN * np.sign(rest_N[counted_N]) < 0))


def _signed_areas(points_FP2: np.ndarray, triangles_N3: np.ndarray) -> np.ndarray:
    corner = points_FP2[:, triangles_N3].astype(np.float64)
    a, b = corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0]
    return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]) / 2


def _smooth_seams(frame_HW3: np.ndarray, map_x: np.ndarray, map_y: np.ndarray) -> np.ndarray:
    """Antialias the few pixels where the map jumps (lid and lip rims) or squeezes the photo, and only those."""
    seam_HW = np.zeros(map_x.shape, np.uint8)
    for axis in (0, 1):
        jump = np.maximum(np.abs(np.diff(map_x, axis=axis)), np.abs(np.diff(map_y, axis=axis))) > _SEAM_PIXELS
        first, second = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        seam_HW[first] |= jump
        seam_HW[second] |= jump
    if not seam_HW.any():
        return frame_HW3
    smooth_HW3 = cv2.GaussianBlur(cv2.medianBlur(frame_HW3, 3), (3, 3), 0.7)
    return np.where(seam_HW[..., None] > 0, smooth_HW3, frame_HW3)


def _resample(
    layer: np.ndarray, linear_22: np.ndarray, offset_2: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    matrix = np.concatenate([linear_22, offset_2[:, None]], axis=1)
    return cv2.warpAffine(layer, matrix, size, flags=cv2.INTER_LINEAR)


def _affines(target_N32: np.ndarray, source_N32: np.ndarray) -> np.ndarray:
    """Affine [N, 2, 3] of each triangle from the frame to the photo.

    A triangle squeezed to a sliver would fling the pixels next to it far across the photo: its map is kept
    to the right centre and a bounded slope.
    """
    a, b = target_N32[:, 1] - target_N32[:, 0], target_N32[:, 2] - target_N32[:, 0]
    u, v = source_N32[:, 1] - source_N32[:, 0], source_N32[:, 2] - source_N32[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    safe = np.where(np.abs(area) > 1e-3, area, np.inf)
    inverse = np.stack([b[:, 1], -b[:, 0], -a[:, 1], a[:, 0]], axis=1).reshape(-1, 2, 2) / safe[:, None, None]
    linear = np.stack([u, v], axis=2) @ inverse
    slope_N = np.linalg.norm(linear, axis=(1, 2))
    linear *= np.minimum(1.0, _STEEPEST / np.maximum(slope_N, 1e-9))[:, None, None]
    offset = source_N32.mean(axis=1) - np.einsum("nij,nj->ni", linear, target_N32.mean(axis=1))
    return np.concatenate([linear, offset[..., None]], axis=2)


_EYES = (
    (RIGHT_LID_UPPER, RIGHT_LID_LOWER, RIGHT_EYE_CORNERS),
    (LEFT_LID_UPPER, LEFT_LID_LOWER, LEFT_EYE_CORNERS),
)


def _eye_loop(upper: tuple[int, ...], lower: tuple[int, ...], corners: tuple[int, int]) -> np.ndarray:
    return np.array([corners[0], *upper, corners[1], *reversed(lower)])


def _eye_triangles() -> np.ndarray:
    """Strips between the lids, on the copies of the rim that carry the eyes' content."""
    triangles = []
    for eye in range(len(_EYES)):
        loop = np.arange(16) + _SKIN + 16 * eye
        triangles += _strip(loop[:9], np.concatenate([loop[:1], loop[:7:-1]]))
    return np.array(triangles)


def _mouth_triangles() -> np.ndarray:
    return np.array(_strip(np.array(LIPS_INNER_UPPER), np.array(LIPS_INNER_LOWER)))


def _strip(upper: np.ndarray, lower: np.ndarray) -> list[tuple[int, int, int]]:
    """Triangles between two rows of points that share their first and last point."""
    triangles = []
    for k in range(len(upper) - 1):
        if upper[k] != lower[k]:
            triangles.append((upper[k], upper[k + 1], lower[k]))
        if upper[k + 1] != lower[k + 1]:
            triangles.append((upper[k + 1], lower[k + 1], lower[k]))
    return triangles


def _anchors(
    neutral_P3: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points around the face: blown-up copies of its oval, then the fixed border of the picture.

    Returns:
        position [A, 2]; the point of the oval that each hangs on [A]; how far it follows the head [A] and
        that point's own motion [A], both 0..1.
    """
    height, width = shape
    oval = np.array(FACE_OVAL)
    centre_2 = neutral_P3[oval, :2].mean(axis=0)
    ray_O2 = neutral_P3[oval, :2] - centre_2
    limit = np.where(ray_O2 > 0, [width - 1, height - 1] - centre_2, -centre_2)
    reach_O = np.min(limit / np.where(np.abs(ray_O2) > 1e-6, ray_O2, 1e-6), axis=1)  # factor at the border
    upward_O = -ray_O2[:, 1] / np.linalg.norm(ray_O2, axis=1)
    # hair sits on the skull and moves with it; the neck starts to lag right under the chin
    stiff_O = 1.0 + np.clip(0.3 + 0.5 * upward_O, 0.0, 0.6) * np.clip(reach_O - 1.0, 0.0, 0.5)
    positions, hangs_on, rigid, own = [], [], [], []
    for factor in _RINGS:
        for k, point in enumerate(oval):
            if factor < 0.97 * reach_O[k]:
                positions.append(centre_2 + factor * ray_O2[k])
                hangs_on.append(point)
                rigid.append(1.0 - _smoothstep(factor, stiff_O[k], reach_O[k]))
                own.append(1.0 - _smoothstep(factor, 1.0, min(1.5, reach_O[k])))
    xs, ys = (
        np.linspace(0, width - 1, width // _BORDER_STEP + 1),
        np.linspace(0, height - 1, height // _BORDER_STEP + 1),
    )
    border = [(x, y) for x in xs for y in (0, height - 1)] + [
        (x, y) for y in ys[1:-1] for x in (0, width - 1)
    ]
    for place in border:
        positions.append(np.array(place, float))
        hangs_on.append(oval[0])
        rigid.append(0.0)
        own.append(0.0)
    return np.array(positions), np.array(hangs_on), np.array(rigid), np.array(own)


def _outer_triangles(neutral_P3: np.ndarray, anchors_A2: np.ndarray, first_anchor: int) -> np.ndarray:
    """Triangles between the face's oval, the anchors and the border; vertex numbers as in `Warper`."""
    oval = np.array(FACE_OVAL)
    points = np.concatenate([neutral_P3[oval, :2], anchors_A2])
    number = np.concatenate([oval, np.arange(len(anchors_A2)) + first_anchor])
    triangles = Delaunay(points).simplices
    contour = neutral_P3[oval, :2].astype(np.float32).reshape(-1, 1, 2)
    centres = points[triangles].mean(axis=1)
    outside = [cv2.pointPolygonTest(contour, (float(x), float(y)), False) < 0 for x, y in centres]
    return number[triangles[np.array(outside)]]


def _smoothstep(value: float, low: float, high: float) -> float:
    share = min(max((value - low) / max(high - low, 1e-9), 0.0), 1.0)
    return share * share * (3.0 - 2.0 * share)
