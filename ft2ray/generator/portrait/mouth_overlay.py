"""Lays the inside of the mouth over the opening between the lips of a warped frame.

Shape suffixes: P mesh points, H W pixels of a window around the mouth, K pairs of lip points, 2 xy, 3 xyz or
rgb, 4 rgb and alpha.
"""

import cv2
import numpy as np

from ft2ray.generator.portrait.motion import HeadPose
from ft2ray.generator.portrait.mouth import paint_mouth
from ft2ray.generator.portrait.warp_geometry import smoothstep
from ft2ray.media.face import CHIN, LIPS_INNER, LIPS_INNER_LOWER, LIPS_INNER_UPPER, face_height
from ft2ray.media.portrait import Portrait

SHUT_PIXELS, PARTED_PIXELS = 0.5, 2.0  # the mouth's inside fades in between these openings
_TEETH_ABOVE_LIP = 0.006  # of the face height: what the lower lip shows of the lower teeth
_LIP_SHADOW = 0.015  # of the face height: how far the lips keep light off what lies behind them


class MouthOverlay:
    """The painted inside of one portrait's mouth and where it sits.

    Args:
        portrait: the photo.
        own_pose: its pose relative to the canonical, frontal face (one frame).
    """

    def __init__(self, portrait: Portrait, own_pose: HeadPose) -> None:
        self._neutral_P3 = portrait.mesh_P3.astype(np.float64)
        self._height = float(face_height(self._neutral_P3))
        self._layers = paint_mouth(portrait.image_HW3, portrait.mesh_P3)
        self._middle_3 = _lip_middle(self._neutral_P3)
        turn_33 = own_pose.rotation.as_matrix()[0]
        self._face_22 = own_pose.scale_F[0] * turn_33[:2, :2]  # face heights -> pixels of the photo
        self._down_2 = turn_33[:2, 1]

    def lay(
        self, frame_HW3: np.ndarray, mesh_P3: np.ndarray, still_P3: np.ndarray, pose: HeadPose, index: int
    ) -> None:
        """Draw into a frame, in place.

        Args:
            frame_HW3: uint8 RGB, already warped.
            mesh_P3: the frame's mesh.
            still_P3: the same without the head's motion, in the photo's pixels.
            pose: head poses of the clip relative to the photo.
            index: which of the poses is this frame's.
        """
        if lip_openings(mesh_P3).max() < SHUT_PIXELS:
            return
        rim_K2 = mesh_P3[list(LIPS_INNER), :2]
        height, width = frame_HW3.shape[:2]
        low = np.clip(np.floor(rim_K2.min(axis=0)).astype(int) - 2, 0, [width, height])
        high = np.clip(np.ceil(rim_K2.max(axis=0)).astype(int) + 3, 0, [width, height])
        size = (int(high[0] - low[0]), int(high[1] - low[1]))
        if min(size) <= 0:  # the mouth has left the picture
            return
        matte_HW = coverage(rim_K2, low, size) * _parted(mesh_P3, low, size)
        inside_HW3 = self._inside(still_P3, pose, index, low, size, matte_HW)
        window = frame_HW3[low[1] : high[1], low[0] : high[0]]
        mixed = window + matte_HW[..., None] * (inside_HW3 * 255.0 - window)
        window[:] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)

    def _inside(
        self,
        still_P3: np.ndarray,
        pose: HeadPose,
        index: int,
        low: np.ndarray,
        size: tuple[int, int],
        matte_HW: np.ndarray,
    ) -> np.ndarray:
        """Cavity, tongue and teeth as rgb 0..1 [H, W, 3] of the window at `low`."""
        layers = self._layers
        turn_33 = pose.scale_F[index] * pose.rotation[index].as_matrix()
        # the plane of the teeth, at the depth of the lips: photo pixels -> frame pixels
        plane_22 = turn_33[:2, :2]
        middle_2 = (turn_33 @ (self._middle_3 - pose.origin_3) + pose.centre_F3[index])[:2] - low
        layer_to_face = layers.layer_to_face()
        linear_22 = plane_22 @ self._face_22 @ layer_to_face[:, :2]
        offset_2 = plane_22 @ self._face_22 @ layer_to_face[:, 2] + middle_2
        jaw_2 = plane_22 @ self._jaw_drop(still_P3)
        shown = [
            _resample(layers.jaw_HW4, linear_22, offset_2 + jaw_2, size),
            _resample(layers.skull_HW4, linear_22, offset_2, size),
        ]
        if layers.photo_HW4 is not None:
            photo_2 = middle_2 - plane_22 @ self._middle_3[:2]
            shown.append(_resample(layers.photo_HW4, plane_22, photo_2, size))
        reach = min(_LIP_SHADOW * self._height, 0.22 * float(matte_HW.sum(axis=0).max()))
        light_HW1 = 0.3 + 0.7 * cv2.GaussianBlur(matte_HW, (0, 0), max(reach, 0.6))[..., None]
        inside_HW3 = np.broadcast_to(layers.cavity_3, (size[1], size[0], 3))
        for layer_HW4 in shown:
            inside_HW3 = layer_HW4[..., :3] * light_HW1 + inside_HW3 * (1.0 - layer_HW4[..., 3:])
        return inside_HW3

    def _jaw_drop(self, still_P3: np.ndarray) -> np.ndarray:
        """How far the lower teeth moved, in photo pixels: with the chin, but hardly above the lip."""
        moved_P2 = still_P3[:, :2] - self._neutral_P3[:, :2]
        chin_2, lip_2 = moved_P2[CHIN], moved_P2[list(LIPS_INNER_LOWER[4:7])].mean(axis=0)
        lag = float((lip_2 - chin_2) @ self._down_2) - _TEETH_ABOVE_LIP * self._height
        return chin_2 + max(lag, 0.0) * self._down_2


def lip_openings(mesh_P3: np.ndarray) -> np.ndarray:
    """Opening of each pair of inner-lip points, corner to corner [11], in pixels of the picture plane."""
    upper, lower = list(LIPS_INNER_UPPER), list(LIPS_INNER_LOWER)
    return np.linalg.norm(mesh_P3[upper, :2] - mesh_P3[lower, :2], axis=-1)


def _lip_middle(mesh_P3: np.ndarray) -> np.ndarray:
    return mesh_P3[[*LIPS_INNER_UPPER[4:7], *LIPS_INNER_LOWER[4:7]]].mean(axis=0)


def _parted(mesh_P3: np.ndarray, low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """How far the lips are truly parted at each pixel of a window, 0..1 [H, W].

    Lips that all but touch show no inside: there the mesh is less exact than its own opening.
    """
    right_2, left_2 = mesh_P3[[LIPS_INNER_UPPER[0], LIPS_INNER_UPPER[-1]], :2] - low
    along_2 = (left_2 - right_2) / max(float(np.sum((left_2 - right_2) ** 2)), 1e-6)
    middle_K2 = (mesh_P3[list(LIPS_INNER_UPPER), :2] + mesh_P3[list(LIPS_INNER_LOWER), :2]) / 2 - low
    place_K = (middle_K2 - right_2) @ along_2
    x_HW, y_HW = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    place_HW = (x_HW - right_2[0]) * along_2[0] + (y_HW - right_2[1]) * along_2[1]
    parted_K = smoothstep(lip_openings(mesh_P3), SHUT_PIXELS, PARTED_PIXELS)
    order = np.argsort(place_K)
    return np.interp(place_HW, place_K[order], parted_K[order]).astype(np.float32)


def coverage(polygon_K2: np.ndarray, low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased coverage [H, W] 0..1 by a polygon, in a window of (width, height) that starts at `low`."""
    fine = 4
    matte = np.zeros((size[1] * fine, size[0] * fine), np.uint8)
    points = ((polygon_K2 - low + 0.5) * fine - 0.5) * 256  # from pixel centres; 8 fractional bits
    cv2.fillPoly(matte, [np.round(points).astype(np.int32)], 255, shift=8)
    return cv2.resize(matte, size, interpolation=cv2.INTER_AREA) / np.float32(255)


def _resample(
    layer: np.ndarray, linear_22: np.ndarray, offset_2: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    return cv2.warpAffine(layer, np.concatenate([linear_22, offset_2[:, None]], axis=1), size)
