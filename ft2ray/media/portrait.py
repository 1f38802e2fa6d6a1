"""Portraits: one picture with one face, cropped square around the head, checked, with its mesh.

Shape suffixes: H height, W width, 3 rgb or xyz, P mesh points.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ft2ray.errors import MediaError
from ft2ray.media.face import FaceMesher, mouth_gap
from ft2ray.media.find_face import crop_head, only_face, resize
from ft2ray.media.image import read_image
from ft2ray.media.source import local_media

MAX_MOUTH_GAP = 0.08
"""Opening of the lips, as a share of the face height, up to which they can be closed believably: a smile that
shows teeth passes, an open mouth does not."""


@dataclass(frozen=True, eq=False)
class Portrait:
    """A checked portrait.

    image_HW3: uint8 RGB, square. mesh_P3: float32, in pixels of that image.
    portrait_id: hash of the image's content.
    """

    image_HW3: np.ndarray
    mesh_P3: np.ndarray
    portrait_id: str


def load_portrait(path: str | Path, size: int = 256, mesher: FaceMesher | None = None) -> Portrait:
    """Read a picture, find its one face, crop the head and check that it can be animated.

    Args:
        path: a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF, BMP, JPEG 2000 or PPM file, or its s3:// URL. A face
            that is not upright is turned.
        size: side of the result in pixels, even, 256 or more for good looks.
        mesher: reuse a mesher over many portraits.

    Raises:
        MediaError: unreadable, too_large, no_face, two_faces, face_too_small or open_mouth.
    """
    if size < 64 or size % 2:
        raise ValueError(
            f"portrait size must be even and at least 64 pixels, got {size}; 256 is the default."
        )
    path = local_media(path)
    mesher = mesher or FaceMesher()
    image_HW3, mesh_P3 = only_face(read_image(path), mesher, path.name)
    crop_HW3 = resize(crop_head(image_HW3, mesh_P3), size)
    faces = mesher.meshes(crop_HW3)
    if not faces:
        raise MediaError(
            "no_face",
            f"the face in {path.name} is lost after cropping to the head; use a clearer, frontal portrait.",
        )
    gap = float(mouth_gap(faces[0]))
    if gap > MAX_MOUTH_GAP:
        raise MediaError(
            "open_mouth",
            f"the mouth in {path.name} is open (gap {gap:.3f} of the face height, limit {MAX_MOUTH_GAP:g}); "
            "use a portrait with closed lips.",
        )
    digest = hashlib.sha256(crop_HW3.tobytes() + str(crop_HW3.shape).encode()).hexdigest()
    return Portrait(crop_HW3, faces[0], digest[:16])
