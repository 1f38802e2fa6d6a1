"""What parted lips show: a dark cavity, tongue and lower teeth on the jaw, upper teeth on the skull.

The layers are painted once per portrait, in the colours that its light allows, and moved rigidly: upper
teeth with the head, lower teeth and tongue with the jaw. Where the photo itself shows teeth, its own pixels
are used.

Units: layers are painted in face heights around the middle of the closed lips, x to the right of the
picture, y down.
Shape suffixes: H height, W width, 3 rgb, 4 rgb and alpha (premultiplied, 0..1), P mesh points.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from ft2ray.generator.portrait.warp_geometry import smoothstep
from ft2ray.media.face import LIPS_INNER, face_height, mouth_gap

LAYER_WIDTH, LAYER_HEIGHT = 0.40, 0.26
"""Size of a painted layer in face heights; the layer's centre is the middle of the closed lips."""

_FINE = 800  # pixels per face height in which layers are painted, before scaling down
_INCISAL_EDGE = 0.004  # upper teeth end this far below the line of the closed lips
_LOWER_EDGE = 0.006
# Widths of the upper teeth from the middle outwards, in face heights, as seen from the front.
_UPPER_WIDTHS = (0.044, 0.034, 0.035, 0.026, 0.020, 0.014)
_LOWER_WIDTHS = (0.027, 0.029, 0.031, 0.025, 0.020, 0.014)
_SHOWN_GAP = 0.02  # from this opening on, the photo shows what is between the lips


@dataclass(frozen=True)
class MouthLayers:
    """Layers that move with the jaw (tongue, lower teeth) and the skull (upper teeth); the cavity's colour.

    photo_HW4 is the inside of the photo's own parted lips in the photo's pixels, or None.
    """

    skull_HW4: np.ndarray
    jaw_HW4: np.ndarray
    cavity_3: np.ndarray
    photo_HW4: np.ndarray | None

    def layer_to_face(self) -> np.ndarray:
        """Affine [2, 3] from layer pixels to face heights around the middle of the closed lips."""
        height, width = self.jaw_HW4.shape[:2]
        step_x, step_y = LAYER_WIDTH / width, LAYER_HEIGHT / height
        return np.array([[step_x, 0, (step_x - LAYER_WIDTH) / 2], [0, step_y, (step_y - LAYER_HEIGHT) / 2]])


def paint_mouth(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> MouthLayers:
    """Paint the layers for one portrait."""
    light, colourful = _light(image_HW3, mesh_P3)

    def tinted(red: float, green: float, blue: float) -> np.ndarray:
        rgb_3 = np.array([red, green, blue]) * light
        grey = rgb_3 @ [0.299, 0.587, 0.114]
        return np.clip(grey + colourful * (rgb_3 - grey), 0.0, 1.0)

    enamel, tongue, cavity = tinted(0.80, 0.76, 0.68), tinted(0.42, 0.18, 0.18), tinted(0.09, 0.035, 0.035)
    skull = _teeth(_UPPER_WIDTHS, _INCISAL_EDGE, 0.056, enamel, downwards=True)
    jaw = _over(_teeth(_LOWER_WIDTHS, _LOWER_EDGE, 0.05, enamel * 0.7, downwards=False), _tongue(tongue))
    # about as fine as the photo: finer layers would alias when they are moved
    scale = 1.15 * float(face_height(mesh_P3)) / _FINE
    if scale < 1.0:
        skull = cv2.resize(skull, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        jaw = cv2.resize(jaw, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return MouthLayers(skull, jaw, cavity.astype(np.float32), _photo_layer(image_HW3, mesh_P3))


def _light(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> tuple[float, float]:
    """How bright the face is lit (1 = a well exposed photo) and how colourful the picture is (0 = grey)."""
    hull = cv2.convexHull(np.round(mesh_P3[:468, :2]).astype(np.int32))
    mask_HW = np.zeros(image_HW3.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask_HW, hull, 1)
    face_N3 = image_HW3[mask_HW > 0].astype(np.float64) / 255.0
    bright = float(np.percentile(face_N3 @ [0.299, 0.587, 0.114], 85))
    saturation = float(np.median(face_N3.max(axis=1) - face_N3.min(axis=1)) / max(bright, 1e-3))
    return float(np.clip(bright / 0.75, 0.45, 1.05)), float(np.clip(saturation / 0.2, 0.0, 1.0))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    x = (np.arange(round(LAYER_WIDTH * _FINE)) + 0.5) / _FINE - LAYER_WIDTH / 2
    y = (np.arange(round(LAYER_HEIGHT * _FINE)) + 0.5) / _FINE - LAYER_HEIGHT / 2
    return np.meshgrid(x, y)


def _teeth(
    widths: tuple[float, ...], edge: float, length: float, rgb_3: np.ndarray, downwards: bool
) -> np.ndarray:
    """One row of teeth: rounded at the biting edge, a thin shadow between neighbours, darker to the sides."""
    x_HW, y_HW = _grid()
    bounds = np.concatenate([[0.0], np.cumsum(widths)])
    index_HW = np.clip(np.searchsorted(bounds, np.abs(x_HW), side="right") - 1, 0, len(widths) - 1)
    left_HW, right_HW = bounds[index_HW], bounds[index_HW + 1]
    across_HW = (np.abs(x_HW) - (left_HW + right_HW) / 2) / (right_HW - left_HW) * 2  # -1..1 in each tooth
    sign = 1.0 if downwards else -1.0
    # the row curves away towards the sides; lateral teeth are a little shorter
    arch_HW = 0.10 * np.abs(x_HW) ** 1.5 * 2
    tip_HW = edge - sign * (arch_HW + 0.006 * np.abs(across_HW) ** 3 + 0.004 * (index_HW == 1))
    into_HW = sign * (tip_HW - y_HW)  # how far inside the tooth, seen from its edge
    alpha_HW = (
        smoothstep(into_HW, 0.0, 0.003)
        * smoothstep(length - into_HW, 0.0, 0.01)
        * smoothstep(bounds[-1] - np.abs(x_HW), 0.0, 0.01)
    )
    between_HW = 1.0 - 0.30 * np.exp(-(((1.0 - np.abs(across_HW)) * (right_HW - left_HW) / 0.005) ** 2))
    side_HW = np.clip(1.0 - (np.abs(x_HW) / 0.19) ** 2, 0.15, 1.0)
    depth_HW = 0.93 + 0.07 * np.clip(into_HW / 0.02, 0.0, 1.0) - 0.35 * np.clip(into_HW / length, 0, 1) ** 2
    rgb_HW3 = rgb_3 * (between_HW * side_HW * depth_HW)[..., None]
    return np.dstack([rgb_HW3 * alpha_HW[..., None], alpha_HW]).astype(np.float32)


def _tongue(rgb_3: np.ndarray) -> np.ndarray:
    x_HW, y_HW = _grid()
    inside_HW = 1.0 - (x_HW / 0.12) ** 2 - ((y_HW - 0.05) / 0.058) ** 2
    alpha_HW = smoothstep(inside_HW, 0.0, 0.35) * 0.9
    shade_HW = np.clip(0.55 + 0.45 * inside_HW - 0.12 * np.exp(-((x_HW / 0.006) ** 2)), 0.0, 1.0)
    return np.dstack([rgb_3 * shade_HW[..., None] * alpha_HW[..., None], alpha_HW]).astype(np.float32)


def _over(front_HW4: np.ndarray, back_HW4: np.ndarray) -> np.ndarray:
    return front_HW4 + back_HW4 * (1.0 - front_HW4[..., 3:])


def _photo_layer(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray | None:
    """The photo's own pixels between its parted lips, fading out over their rim."""
    if float(mouth_gap(mesh_P3)) < _SHOWN_GAP:
        return None
    inside_HW = np.zeros(image_HW3.shape[:2], np.uint8)
    cv2.fillPoly(inside_HW, [np.round(mesh_P3[list(LIPS_INNER), :2]).astype(np.int32)], 255)
    rim = max(float(face_height(mesh_P3)) / 130, 0.7)
    alpha_HW = cv2.GaussianBlur(cv2.erode(inside_HW, np.ones((3, 3), np.uint8)), (0, 0), rim) / np.float32(
        255
    )
    return np.dstack([image_HW3 / np.float32(255) * alpha_HW[..., None], alpha_HW]).astype(np.float32)
