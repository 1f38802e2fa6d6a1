"""Many faces from few: augmented portraits for the critic's training clips.

A handful of portraits would be learnt by heart. Each draw takes one, may put another person's
inner face on it (warped to its geometry and blended), changes its proportions, colours, light
and sharpness, and looks for the mesh again.

Shapes: H W 3 pixels, P mesh points.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ft2ray.errors import DataError
from ft2ray.generator.portrait.warp import render
from ft2ray.media.face import FACE_OVAL, FaceMesher, face_height, mouth_gap
from ft2ray.media.portrait import MAX_MOUTH_GAP, Portrait

MOST_TRIES = 20


def draw_face(portraits: Sequence[Portrait], mesher: FaceMesher, rng: np.random.Generator) -> Portrait:
    """A new face, checked: one face is found in it and its mouth is closed.

    Raises:
        ValueError: if no usable face comes out of `MOST_TRIES` attempts, so the portraits are unfit.
    """
    for _ in range(MOST_TRIES):
        base = portraits[int(rng.integers(len(portraits)))]
        image = base.image_HW3
        if len(portraits) > 1 and rng.random() < 0.5:
            other = portraits[int(rng.integers(len(portraits)))]
            image = blend_faces(base, other, rng.uniform(0.3, 1.0))
        image = _recolour(_reshape(image, rng), rng)
        if rng.random() < 0.5:
            image = np.ascontiguousarray(image[:, ::-1])
        faces = mesher.meshes(image)
        if len(faces) == 1 and mouth_gap(faces[0]) <= MAX_MOUTH_GAP:
            return Portrait(image, faces[0], f"drawn-{rng.integers(1 << 40):010x}")
    raise DataError(f"no usable face in {MOST_TRIES} draws; check that the portraits have closed mouths")


def blend_faces(base: Portrait, other: Portrait, share: float) -> np.ndarray:
    """The inner face of `other`, in the shape and about the colours of `base`, laid over it."""
    fitted = render(other, _fit_to(base, other)[None])[0].astype(np.float32)
    mask = np.zeros(base.image_HW3.shape[:2], np.float32)
    oval = base.mesh_P3[list(FACE_OVAL), :2]
    inner = oval.mean(axis=0) + 0.9 * (oval - oval.mean(axis=0))
    cv2.fillConvexPoly(mask, inner.astype(np.int32), 1.0)
    target = base.image_HW3.astype(np.float32)
    inside = mask > 0
    for channel in range(3):
        ours, theirs = target[..., channel][inside], fitted[..., channel][inside]
        scale = np.clip(ours.std() / max(theirs.std(), 1.0), 0.6, 1.6)
        fitted[..., channel] = (fitted[..., channel] - theirs.mean()) * scale + ours.mean()
    mask = cv2.GaussianBlur(mask, (0, 0), 0.05 * float(face_height(base.mesh_P3)))[..., None] * share
    return np.clip(target + mask * (fitted - target), 0, 255).astype(np.uint8)


def _fit_to(base: Portrait, other: Portrait) -> np.ndarray:
    """Mesh of `base` in the pixels of `other`'s picture (both are square and of one size)."""
    if base.image_HW3.shape != other.image_HW3.shape:
        raise DataError(
            f"portraits to blend differ in size: {base.image_HW3.shape} and {other.image_HW3.shape}; "
            "load both with the same size"
        )
    return base.mesh_P3


def _reshape(image_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other proportions: stretch, turn, zoom and a smooth random bend."""
    size = image_HW3.shape[0]
    angle = rng.normal(0, 4.0)
    matrix = np.array(cv2.getRotationMatrix2D((size / 2, size / 2), angle, rng.uniform(0.92, 1.25)))
    matrix[0, :2] = matrix[0, :2] * rng.uniform(0.9, 1.1)
    matrix[:, 2] = matrix[:, 2] + rng.normal(0, 0.02 * size, 2)
    inverse = cv2.invertAffineTransform(matrix)
    bend = cv2.resize(
        rng.standard_normal((5, 5, 2)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )
    bend = bend * np.float32(rng.uniform(0.0, 0.014) * size)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    map_x = (inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]).astype(np.float32) + bend[..., 0]
    map_y = (inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]).astype(np.float32) + bend[..., 1]
    return cv2.remap(image_HW3, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def _recolour(image_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other skin, light and lens: hue, saturation, gamma, tint, a gradient of light, sharpness."""
    hsv = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + rng.normal(0, 5.0)) % 180
    hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.2, 1.4), 0, 255)
    image = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB).astype(np.float32) / 255
    image = image ** np.exp(rng.normal(0, 0.3)) * rng.uniform(0.92, 1.08, 3)
    size = image.shape[0]
    y, x = np.mgrid[:size, :size] / size - 0.5
    direction = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.6) * (np.cos(direction) * x + np.sin(direction) * y)
    image = image * light[..., None]
    return _retexture((np.clip(image, 0, 1) * 255).astype(np.uint8), rng)


def _retexture(image_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other lens and skin, from slightly soft to crisp and coarse.

    A good picture may have any of these: the critic must not call one soft photo, or one painting's
    brush strokes, a fault. What is drawn here moves with the face, as grain does not.
    """
    image = image_HW3.astype(np.float32)
    if rng.random() < 0.25:
        return cv2.GaussianBlur(image_HW3, (0, 0), rng.uniform(0.3, 0.8))
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.0))
    image = image + rng.uniform(0.0, 2.0) * (image - soft)
    if rng.random() < 0.5:
        strokes = cv2.GaussianBlur(
            rng.standard_normal(image.shape[:2], dtype=np.float32), (0, 0), rng.uniform(0.5, 1.5)
        )
        image = image + (strokes / strokes.std() * rng.uniform(1.0, 7.0))[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)
