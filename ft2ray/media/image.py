"""Reading a picture file to upright sRGB pixels.

Shape suffixes: H height, W width, 3 rgb.
"""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin, UnidentifiedImageError

from ft2ray.errors import MediaError
from ft2ray.media.bare_picture import JPEG, LARGEST, PNG, bare_picture
from ft2ray.media.containers import decoding, require_content

log = logging.getLogger(__name__)

pillow_heif.register_heif_opener()
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20  # a profile of a scanner has two megabytes

FORMATS = ("JPEG", "PNG", "WEBP", "HEIF", "AVIF", "GIF", "TIFF", "BMP", "JPEG2000", "PPM")
"""Pillow's names of the formats that are read. Others run programs (PostScript) or hold no photos."""
MAX_PIXELS = 80_000_000
"""Larger pictures are refused from their header, before a pixel is decoded."""
MAX_SIDE = 20_000
MAX_ASPECT = 10
KEPT_PIXELS = 24_000_000
"""Larger pictures are halved as soon as they are decoded: a face needs a few hundred pixels."""
MAX_JPEG_SCANS = 100
"""A progressive JPEG has about ten; each goes over the whole picture."""

_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHERS = (  # how pictures begin that are not read, and what these are
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "icon"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
    (b"DDS ", "DirectDraw"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"II*\0", "camera raw, or a damaged TIFF"),
    (b"MM\0*", "camera raw, or a damaged TIFF"),
    (b"IIRO", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FUJIFILM", "camera raw"),
)
_KNOWN = (PNG, JPEG, b"GIF8", b"BM", b"P5", b"P6")
_GAMMA = 0.45455  # what PNG's gAMA says for sRGB


def read_image(path: str | Path) -> np.ndarray:
    """Decode a picture: upright, colours as sRGB, transparency over grey, the first one of an animation.

    Returns:
        image_HW3: uint8. Pictures of more than `KEPT_PIXELS` come halved, once or more.

    Raises:
        MediaError: unreadable or too_large.
    """
    path = Path(path)
    require_content(path)
    with decoding(path.name, "a picture"):
        try:
            return _read_with_or_without_notes(path)
        except UnidentifiedImageError as error:
            raise _unknown(path) from error


def _read_with_or_without_notes(path: Path) -> np.ndarray:
    try:
        return _read(path, path)
    except MediaError:
        raise
    except Exception:  # Pillow raises all kinds
        bare = bare_picture(path.read_bytes()) if path.stat().st_size <= LARGEST else None
        if bare is None:
            raise
    image_HW3 = _read(io.BytesIO(bare), path)
    log.warning("%s: notes in it are damaged or very large, and left out", path.name)
    return image_HW3


def _read(file: Path | io.BytesIO, path: Path) -> np.ndarray:
    """What `read_image` gives for the file at `path`, whose content may be another `file`."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path.name, str(error)) from error
    with image:
        _check_size(image, path.name)
        if image.format == "JPEG" and len(re.findall(rb"\xff\xda", path.read_bytes())) > MAX_JPEG_SCANS:
            raise _too_large(path.name, f"more than {MAX_JPEG_SCANS} scans")
        if getattr(image, "is_animated", False):
            log.warning("%s holds several pictures; the first one is taken", path.name)
        image.load()
        return _to_srgb(image, path.name)


def _check_size(image: Image.Image, name: str) -> None:
    """From the header: nothing is decoded yet."""
    long, short = max(image.size), min(image.size)
    size = f"{image.width} x {image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{size}; limit {MAX_PIXELS // 10**6} megapixels")
    if long > MAX_SIDE or long > MAX_ASPECT * short:
        raise _too_large(name, f"{size}; limit {MAX_SIDE} a side and {MAX_ASPECT} : 1")


def _too_large(name: str, detail: str) -> MediaError:
    return MediaError("too_large", f"{name} is too large ({detail}); crop it to the head or scale it down.")


def _unknown(path: Path) -> MediaError:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] == b"ftyp":
        kind = head[8:12].decode("ascii", "replace").strip()
        return MediaError(
            "unreadable",
            f"{path.name} is damaged, or a film or picture of the kind {kind!r} that is not read here; "
            "export it as JPEG or PNG.",
        )
    for magic, kind in _OTHERS:
        if head.startswith(magic):
            said = f"is of a kind that is not read here ({kind})"
            return MediaError("unreadable", f"{path.name} {said}; export it as JPEG or PNG.")
    if head.startswith(_KNOWN) or head[8:12] == b"WEBP":
        return MediaError(
            "unreadable",
            f"{path.name} is damaged: only its first bytes are those of a picture. Export it again.",
        )
    return MediaError(
        "unreadable",
        f"{path.name} is not a picture in a format that is read here, whatever its name says; give a JPEG or "
        "PNG file.",
    )


def _to_srgb(image: Image.Image, name: str) -> np.ndarray:
    orientation, profile = _orientation(image), image.info.get("icc_profile")
    gamma = image.info.get("gamma") if image.format == "PNG" and "srgb" not in image.info else None
    image = _eight_bits(image, name)
    alpha = None
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode in ("La", "RGBa"):  # colours that are multiplied by their alpha
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    while image.width * image.height > KEPT_PIXELS:
        image = image.reduce(2)
    if image.mode in ("RGBA", "LA"):
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    if profile:
        image = _by_profile(image, profile, name)
    if image.mode == "LAB":
        image = _by_profile(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), name)
    image = image.convert("RGB")
    if gamma and not profile and 0.1 < gamma < 2 and abs(gamma - _GAMMA) > 0.02:
        image = image.point([round(255 * (level / 255) ** (_GAMMA / gamma)) for level in range(256)] * 3)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, (128, 128, 128)), alpha)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    return np.array(image)


def _orientation(image: Image.Image) -> int | None:
    """How the camera was held, where the picture says so: a fault in EXIF is not one of the picture."""
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception as error:  # Pillow raises struct.error, SyntaxError and others on broken EXIF
        log.info("EXIF is left out: %s", error)
        return None


def _by_profile(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """Colours from those of an ICC profile to sRGB; as they are where the profile is broken or another's."""
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        log.warning("%s: its colour profile cannot be used (%s); colours are taken as sRGB", name, error)
        return image
    assert converted is not None  # not in place
    return converted


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Greyscale of 16 or 32 bits or floats, to 8 bits."""
    if not image.mode.startswith(("I", "F")):
        return image
    grey = np.asarray(image)
    if not np.isfinite(grey).all() or grey.min() < 0:
        raise MediaError(
            "unreadable", f"{name} holds grey levels below 0 or not finite; export it as JPEG or PNG."
        )
    high = float(grey.max(initial=0))
    tops = (1.0, 255.0, 65535.0, 2.0**32) if image.mode == "F" else (255.0, 65535.0, 2.0**32)
    top = 65535.0 if image.mode.startswith("I;16") else next((top for top in tops if high <= top), None)
    if top is None:
        raise MediaError("unreadable", f"{name} holds grey levels up to {high:g}; export it as JPEG or PNG.")
    eight = grey if top == 255.0 else grey * np.float32(255.0 / top)
    return Image.fromarray(np.round(eight).astype(np.uint8))
