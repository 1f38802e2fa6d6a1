"""Portraits: one picture with one face, cropped square around the head, checked, with its mesh.

Shape suffixes: H height, W width, 3 rgb or xyz, P mesh points.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ft2ray.errors import MediaError
from ft2ray.media.face import FaceMesher, face_height, mouth_gap
from ft2ray.media.source import local_media

MAX_PIXELS = 80_000_000
"""Larger pictures are refused from their header, before a pixel is decoded."""
MIN_FACE_PIXELS = 64
MAX_MOUTH_GAP = 0.08
"""Opening of the lips, as a share of the face height, up to which they can be closed believably: a smile that
shows teeth passes, an open mouth does not."""
CROP_FACES = 2.0
"""Side of the square crop in face heights: room for hair and neck."""

_SECOND_FACE = 0.4  # a face smaller than this share of the largest is somebody in the background
_SEARCH_SIDE = 1024


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
        path: a JPEG, PNG, WebP or any other file that Pillow reads, or its s3:// URL; EXIF orientation is
            honoured.
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
    image_HW3 = read_image(path)
    mesh_P3 = _only_face(image_HW3, mesher, path.name)
    crop_HW3 = _resize(_crop_head(image_HW3, mesh_P3), size)
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


def read_image(path: str | Path) -> np.ndarray:
    """Decode a picture to upright uint8 RGB [H, W, 3]; transparency lies over grey, greyscale becomes rgb."""
    path = Path(path)
    if not path.is_file():
        raise MediaError("unreadable", f"{path.name}: there is no such file; check the path.")
    if path.stat().st_size == 0:
        raise MediaError("unreadable", f"{path.name} is empty (0 bytes); copy it again.")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path.name, f"{image.width} x {image.height} pixels")
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise _too_large(path.name, str(error)) from error
    except UnidentifiedImageError as error:
        raise MediaError(
            "unreadable", f"{path.name} is not a picture, whatever its name says; give a JPEG or PNG file."
        ) from error
    except MediaError:
        raise
    except (OSError, ValueError, SyntaxError) as error:  # Pillow reports broken PNG chunks as SyntaxError
        raise MediaError(
            "unreadable", f"{path.name} is damaged or truncated ({error}); copy or export it again."
        ) from error


def _too_large(name: str, detail: str) -> MediaError:
    return MediaError(
        "too_large",
        f"{name} is too large ({detail}; limit {MAX_PIXELS // 10**6} megapixels); scale it down first.",
    )


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit and float greyscale: stretch to 8 bits
        grey = np.asarray(image, np.float64)
        low, high = float(grey.min()), float(grey.max())
        image = Image.fromarray(((grey - low) / max(high - low, 1e-9) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (128, 128, 128, 255))
        image = Image.alpha_composite(backdrop, image)
    return np.array(image.convert("RGB"))


def _only_face(image_HW3: np.ndarray, mesher: FaceMesher, name: str) -> np.ndarray:
    """The mesh of the one large face, in pixels of the full picture."""
    faces = _search(image_HW3, mesher, parts=1) or _search_with_margin(image_HW3, mesher)
    for parts in (2, 4):  # the detector overlooks faces below a tenth of what it is shown
        faces = faces or _search(image_HW3, mesher, parts)
    if not faces:
        raise MediaError(
            "no_face",
            f"no face was found in {name}; use a frontal portrait in which the face fills a good part.",
        )
    height = float(face_height(faces[0]))
    if len(faces) > 1 and float(face_height(faces[1])) > _SECOND_FACE * height:
        raise MediaError(
            "two_faces", f"{name} shows more than one face; crop it to the person who is to speak."
        )
    if height < MIN_FACE_PIXELS:
        raise MediaError(
            "face_too_small",
            f"the face in {name} is {height:.0f} pixels high, at least {MIN_FACE_PIXELS} are needed; "
            "use a larger picture or crop it tighter before scaling down.",
        )
    return faces[0]


def _search_with_margin(image_HW3: np.ndarray, mesher: FaceMesher) -> list[np.ndarray]:
    """Meshes of faces that fill the whole picture: the detector wants to see some room around them."""
    margin = max(image_HW3.shape[:2]) // 3
    padded_HW3 = np.pad(image_HW3, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return [
        mesh_P3 - np.array([margin, margin, 0], np.float32)
        for mesh_P3 in _search(padded_HW3, mesher, parts=1)
    ]


def _search(image_HW3: np.ndarray, mesher: FaceMesher, parts: int) -> list[np.ndarray]:
    """Meshes of all faces, largest first, looked for in overlapping tiles of 1 / `parts` of the picture."""
    height, width = image_HW3.shape[:2]
    tile_h, tile_w = -(-height // parts), -(-width // parts)
    found: list[np.ndarray] = []
    for top in np.linspace(0, height - tile_h, 2 * parts - 1).astype(int):
        for left in np.linspace(0, width - tile_w, 2 * parts - 1).astype(int):
            tile_HW3 = image_HW3[top : top + tile_h, left : left + tile_w]
            shrink = min(1.0, _SEARCH_SIDE / max(tile_h, tile_w))
            shown_HW3 = tile_HW3 if shrink == 1.0 else _resize_by(tile_HW3, shrink)
            corner_3 = np.array([left, top, 0], np.float32)
            found += [mesh_P3 / np.float32(shrink) + corner_3 for mesh_P3 in mesher.meshes(shown_HW3)]
    found.sort(key=lambda mesh_P3: -float(face_height(mesh_P3)))
    distinct: list[np.ndarray] = []
    for mesh_P3 in found:  # tiles overlap, and an eye can look like a face: a face inside a face is none
        centre_2 = mesh_P3[:, :2].mean(axis=0)
        if not any(
            (other[:, :2].min(axis=0) < centre_2).all() and (centre_2 < other[:, :2].max(axis=0)).all()
            for other in distinct
        ):
            distinct.append(mesh_P3)
    return distinct


def _crop_head(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray:
    """A square around the head; inside the picture where it fits, else the picture's edge is repeated."""
    height, width = image_HW3.shape[:2]
    low, high = mesh_P3[:, :2].min(axis=0), mesh_P3[:, :2].max(axis=0)
    face = float((high - low).max())
    side = max(min(CROP_FACES * face, height, width), 1.25 * face)
    centre_x, centre_y = (low + high) / 2
    centre_y -= 0.08 * face  # hair needs more room above the mesh than the neck below it
    left, top = _place(centre_x, side, width), _place(centre_y, side, height)
    side_px = round(side)
    pad = max(0, -left, -top, left + side_px - width, top + side_px - height)
    if pad:
        image_HW3 = np.pad(image_HW3, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    return image_HW3[top + pad : top + pad + side_px, left + pad : left + pad + side_px]


def _place(centre: float, side: float, length: int) -> int:
    start = round(centre - side / 2)
    return min(max(start, 0), length - round(side)) if round(side) <= length else start


def _resize(image_HW3: np.ndarray, size: int) -> np.ndarray:
    return np.array(Image.fromarray(image_HW3).resize((size, size), Image.Resampling.LANCZOS))


def _resize_by(image_HW3: np.ndarray, factor: float) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    new = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.array(Image.fromarray(image_HW3).resize(new, Image.Resampling.BOX))
