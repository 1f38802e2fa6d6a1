"""Pictures as they are meant to look: colours, depth, transparency, orientation; and hostile ones bounded."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from ft2ray.errors import MediaError
from ft2ray.media import image as image_module
from ft2ray.media.image import read_image
from tests.media.test_portrait import HOPPER

SKIN = (209, 122, 97)


def read(tmp_path, file: bytes) -> np.ndarray:
    (tmp_path / "a.jpg").write_bytes(file)
    return read_image(tmp_path / "a.jpg")


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def refusal(tmp_path, file: bytes) -> tuple[str, str]:
    with pytest.raises(MediaError) as caught:
        read(tmp_path, file)
    assert str(tmp_path) not in str(caught.value)
    return caught.value.reason, str(caught.value)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], colour: int = 2, depth: int = 8) -> bytes:
    """A black PNG, written by hand: a few kilobytes whatever its size."""
    bits = width * depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + (bits + 7) // 8)) for _ in range(height)) + rows.flush()
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, (b"IDAT", body), (b"IEND", b""))
    )


def icc_profile(gamma: float) -> bytes:
    """sRGB's primaries (ICC.1:2010, for D50) with another gamma."""
    primaries = {b"rXYZ": (0.4361, 0.2225, 0.0139), b"gXYZ": (0.3851, 0.7169, 0.0971),
                 b"bXYZ": (0.1431, 0.0606, 0.7141), b"wtpt": (0.9642, 1.0, 0.8249)}  # fmt: skip
    fields = {
        name: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in xyz))
        for name, xyz in primaries.items()
    }
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    fields |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    fields[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(80)
    fields[b"cprt"] = b"text" + bytes(4) + b"none"
    table, body, at = struct.pack(">I", len(fields)), b"", 128 + 4 + 12 * len(fields)
    for name, data in fields.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI", size, bytes(4), 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    return head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + table + body


def test_the_light_of_a_profile_is_that_of_srgb(tmp_path):
    """128 of 255 in linear light is 188 in sRGB (IEC 61966-2-1), and 186 after a gamma of 2.2."""
    grey = Image.new("RGB", (8, 8), (128, 128, 128))
    np.testing.assert_allclose(read(tmp_path, saved(grey, icc_profile=icc_profile(1.0)))[0, 0], 188, atol=1)
    np.testing.assert_allclose(read(tmp_path, saved(grey, icc_profile=icc_profile(2.2)))[0, 0], 128, atol=2)


def test_lab_becomes_srgb(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    lab = ImageCms.createProfile("LAB")
    into_lab = ImageCms.profileToProfile(Image.new("RGB", (8, 8), SKIN), srgb, lab, outputMode="LAB")
    np.testing.assert_allclose(read(tmp_path, saved(into_lab, "TIFF"))[0, 0], SKIN, atol=3)


def test_a_profile_that_is_broken_or_of_other_colours_is_left_out(tmp_path, caplog):
    grey = Image.new("L", (8, 8), 100)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read(tmp_path, saved(grey, icc_profile=profile)) == 100).all()  # rgb, but the picture is grey
    assert (
        read(tmp_path, saved(Image.new("RGB", (8, 8), SKIN), icc_profile=b"rubbish" * 30))[0, 0] == SKIN
    ).all()
    assert caplog.text.count("colour profile cannot be used") == 2


def test_gamma_of_a_png_is_honoured(tmp_path):
    linear = read(tmp_path, png(4, 4, (b"gAMA", struct.pack(">I", 100_000)), colour=0))
    assert (linear == 0).all()
    file = bytearray(saved(Image.new("RGB", (4, 4), (55, 55, 55))))
    chunk = b"gAMA" + struct.pack(">I", 100_000)  # linear
    file[33:33] = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    np.testing.assert_allclose(read(tmp_path, bytes(file))[0, 0], 255 * (55 / 255) ** 0.45455, atol=1)


@pytest.mark.parametrize(("mode", "level"), [("I;16", 257), ("I", 257), ("F", 1 / 255)])
def test_deep_grey_keeps_its_levels(tmp_path, mode, level):
    levels = np.array([[40, 90], [160, 200]])
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    image = Image.fromarray((levels * level).astype(kind))
    assert image.mode == mode
    np.testing.assert_array_equal(read(tmp_path, saved(image, "TIFF"))[..., 0], levels)


def test_deep_colour_and_transparent_palettes(tmp_path):
    deep = png(4, 4, colour=6, depth=16)
    assert (read(tmp_path, deep) == 128).all()  # black, but wholly transparent
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, *SKIN, 9, 9, 9])
    palette.putpixel((0, 0), 2)
    image_HW3 = read(tmp_path, saved(palette, transparency=2))
    assert (image_HW3[0, 0] == 128).all() and (image_HW3[1, 1] == SKIN).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_every_orientation_is_turned_upright(tmp_path, orientation, kind):
    upright = Image.new("RGB", (64, 32), (0, 0, 0))
    upright.paste((250, 0, 0), (0, 0, 32, 16))
    upright.paste((0, 250, 0), (32, 0, 64, 16))
    transpose = image_module._UPRIGHT.get(orientation)
    inverse = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
               Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90}.get(transpose, transpose)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if inverse is None else upright.transpose(inverse)
    lossless = {"WEBP": {"lossless": True}, "HEIF": {"quality": 100}, "AVIF": {"quality": 100}}.get(kind, {})
    if kind == "HEIF":
        stored.info["exif"] = exif.tobytes()  # its writer makes a rotation of HEIF's own of this
    image_HW3 = read(tmp_path, saved(stored, kind, exif=exif.tobytes(), **lossless))
    assert image_HW3.shape == (32, 64, 3)
    np.testing.assert_allclose(image_HW3[4, 8], (250, 0, 0), atol=25)
    np.testing.assert_allclose(image_HW3[4, 56], (0, 250, 0), atol=25)


@pytest.mark.parametrize(
    "exif", [b"not a TIFF at all", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0", b"MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_that_is_rubbish_is_left_out(tmp_path, exif, kind):
    image_HW3 = read(tmp_path, saved(Image.new("RGB", (16, 16), SKIN), kind, exif=exif))
    np.testing.assert_allclose(image_HW3[8, 8], SKIN, atol=4)


def test_a_negative_rational_in_exif_does_not_stop_the_picture(tmp_path):
    """Pillow raises struct.error when it writes such EXIF again."""
    body = b"II*\0\x08\0\0\0" + struct.pack("<H", 2)
    body += struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHII", 0x011A, 5, 1, 38) + bytes(4)
    body += struct.pack("<iI", -72, 1)
    file = saved(Image.new("RGB", (32, 16), SKIN), "JPEG", exif=b"Exif\0\0" + body)
    assert read(tmp_path, file).shape == (32, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_the_first_picture_of_several_is_taken_and_said(tmp_path, kind, caplog):
    colours = [(200, 0, 0), (0, 200, 0)]
    first, second = (Image.new("RGB", (16, 16), colour) for colour in colours)
    image_HW3 = read(tmp_path, saved(first, kind, save_all=True, append_images=[second]))
    np.testing.assert_allclose(image_HW3[8, 8], (200, 0, 0), atol=12)
    assert "the first one is taken" in caplog.text


@pytest.mark.parametrize(
    "size",
    [
        (20_000, 500),
        (500, 20_000),
        (40_000, 2_000),
        (79_999_999, 1),
        (1, 79_999_999),
        (9_000, 9_000),
        (2_000, 150),
    ],
)
def test_shapes_that_are_no_portrait_are_refused_from_the_header(tmp_path, size, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    width, height = size
    file = png(1, 1)
    header = b"IHDR" + struct.pack(">II", width, height) + file[24:29]
    file = file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]
    assert refusal(tmp_path, file)[0] == "too_large"


def test_large_pictures_are_halved_as_soon_as_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(image_module, "KEPT_PIXELS", 20_000)
    with Image.open(HOPPER) as photo:
        full_HW3 = np.asarray(photo.reduce(4))
    np.testing.assert_allclose(read(tmp_path, HOPPER.read_bytes()), full_HW3, atol=2)


@pytest.mark.parametrize(
    "error",
    [struct.error("x"), SyntaxError("x"), MemoryError(), RecursionError(), KeyError(1), SystemError("x")],
)
def test_whatever_a_decoder_raises_is_a_refusal_of_that_file(tmp_path, monkeypatch, error):
    def broken(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    reason, sentence = refusal(tmp_path, png(4, 4))
    assert reason in {"unreadable", "too_large"} and "a.jpg" in sentence


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "of a kind that is not read here (PostScript)",
        ),
        (b"8BPS\0\1", "(Photoshop)"),
        (b"\xff\x0a", "(JPEG XL)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "(SVG)"),
        (b"II*\0\x10\0\0\0CR\2\0", "camera raw"),
        (b"\0\0\0\x18ftypisom", "'isom'"),
        (b"\0\0\0\x18ftypheic", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"\xff\xd8\xff\xe0\0\x10", "damaged"),
        (b"<html><body>Not found</body></html>", "not a picture in a format that is read here"),
    ],
)
def test_films_and_unknown_formats_are_named(tmp_path, file, says):
    reason, sentence = refusal(tmp_path, file + bytes(99))
    assert reason == "unreadable" and says in sentence


@pytest.mark.parametrize(
    "note",
    [
        (b"tEXt", b"a\0" + b"x" * 3_000_000),
        (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(50_000_000))),
        (b"zTXt", b"a\0\5abc"),
        (b"iCCP", b""),
        (b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000))),
        (b"gAMA", b"ab"),
        (b"cHRM", b"ab"),
        (b"pHYs", b"a"),
        (b"sRGB", b""),
        (b"acTL", b""),
    ],
    ids=lambda note: f"{note[0].decode()}-{len(note[1])}",
)
def test_notes_in_a_png_do_not_cost_the_picture(tmp_path, note):
    np.testing.assert_array_equal(read(tmp_path, png(4, 3, note)), read(tmp_path, png(4, 3)))


def test_a_note_with_a_wrong_checksum_does_not_cost_the_picture(tmp_path, caplog):
    file = bytearray(png(4, 3, (b"tIME", b"\7\xea\1\1\1\1\1")))
    at = file.index(b"tIME") + 11
    file[at] ^= 1
    assert read(tmp_path, bytes(file)).shape == (3, 4, 3)
    assert "a.jpg: notes in it are damaged or very large, and left out" in caplog.text


@pytest.mark.parametrize(
    ("marker", "note"),
    [
        (0xE0, b"JFIF\0"),
        (0xE2, b"ICC_PROFILE\0\1"),
        (0xE2, b"MPF\0II*\0\x08\0\0\0" + bytes(40)),
        (0xED, b"Photoshop 3.0\x008BIM\3\xed"),
        (0xEE, b"Adobe\0"),
        (0xE1, b"Exif\0\0rubbish"),
    ],
)
def test_notes_in_a_jpeg_do_not_cost_the_picture_nor_its_orientation(tmp_path, marker, note):
    exif = Image.Exif()
    exif[0x0112] = 3
    picture = Image.new("RGB", (32, 16), SKIN)
    picture.paste((0, 0, 200), (0, 0, 16, 16))
    plain = saved(picture, "JPEG", exif=exif, quality=95)
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(note) + 2) + note
    expected_HW3, found_HW3 = read(tmp_path, plain), read(tmp_path, plain[:2] + segment + plain[2:])
    if not note.startswith(b"Exif"):  # of two the first counts
        np.testing.assert_array_equal(found_HW3, expected_HW3)
    assert found_HW3.shape == (16, 32, 3) and abs(expected_HW3[8, 28].astype(int) - (0, 0, 200)).max() < 10


def test_a_large_profile_is_honoured(tmp_path):
    profile = icc_profile(1.0)
    profile = struct.pack(">I", 2_000_000) + profile[4:] + bytes(2_000_000 - len(profile))
    image = Image.new("RGB", (8, 8), SKIN)
    np.testing.assert_array_equal(
        read(tmp_path, saved(image, icc_profile=profile)),
        read(tmp_path, saved(image, icc_profile=icc_profile(1.0))),
    )


def test_a_jpeg_of_very_many_scans_is_refused(tmp_path):
    file = saved(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    assert read(tmp_path, file).shape == (64, 64, 3)
    scan = file[file.index(b"\xff\xda") : -2]
    assert refusal(tmp_path, file[:-2] + scan * 40 + file[-2:])[0] == "too_large"
