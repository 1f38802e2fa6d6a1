import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ft2ray.errors import MediaError
from ft2ray.media import image as image_module
from ft2ray.media import portrait as portrait_module
from ft2ray.media.face import face_height
from ft2ray.media.image import read_image
from ft2ray.media.portrait import load_portrait

HOPPER = Path(portrait_module.__file__).parents[1] / "assets" / "portraits" / "grace_hopper.jpg"


@pytest.fixture()
def photo() -> Image.Image:
    with Image.open(HOPPER) as image:
        return image.convert("RGB")


def reason(path, mesher) -> str:
    with pytest.raises(MediaError) as caught:
        load_portrait(path, 256, mesher)
    assert path.name in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("size", [256, 384])
def test_portrait_is_square_with_the_whole_head_inside(size, mesher):
    portrait = load_portrait(HOPPER, size, mesher)
    assert portrait.image_HW3.shape == (size, size, 3) and portrait.image_HW3.dtype == np.uint8
    assert 0.4 < face_height(portrait.mesh_P3) / size < 0.75
    assert (portrait.mesh_P3[:, :2] > 0).all() and (portrait.mesh_P3[:, :2] < size).all()


def test_id_is_the_content(mesher, hopper, astronaut, tmp_path):
    (tmp_path / "renamed.jpg").write_bytes(HOPPER.read_bytes())
    assert load_portrait(tmp_path / "renamed.jpg", 256, mesher).portrait_id == hopper.portrait_id
    assert astronaut.portrait_id != hopper.portrait_id
    assert load_portrait(HOPPER, 384, mesher).portrait_id != hopper.portrait_id


def test_exif_orientation_is_honoured(photo, mesher, hopper, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise for viewing
    photo.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    turned = load_portrait(tmp_path / "turned.jpg", 256, mesher)
    np.testing.assert_allclose(turned.mesh_P3[:, :2], hopper.mesh_P3[:, :2], atol=6)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
def test_any_colour_mode_is_read(photo, mode, mesher, tmp_path):
    path = tmp_path / ("a.tiff" if mode in {"CMYK", "I;16"} else "a.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257).save(path)
    else:
        photo.convert(mode).save(path)
    image_HW3 = read_image(path)
    assert image_HW3.shape == (600, 512, 3) and image_HW3.dtype == np.uint8
    assert image_HW3.std() > 20
    if mode != "1":  # black and white dots are too coarse for a portrait
        assert face_height(load_portrait(path, 256, mesher).mesh_P3) > 80


def test_transparency_lies_over_grey(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(tmp_path / "clear.png") == 128).all()


def test_files_that_are_no_pictures_are_named(mesher, tmp_path):
    whole = HOPPER.read_bytes()
    png = io.BytesIO()
    Image.open(HOPPER).save(png, "PNG")
    cases = {
        "text.jpg": b"just some text\n" * 100,
        "empty.png": b"",
        "cut.jpg": whole[: len(whole) // 2],
        "cut.png": png.getvalue()[:50_000],
        "broken.png": png.getvalue()[:200] + b"\0" * 400 + png.getvalue()[600:],
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name, mesher) == "unreadable", name
    assert reason(tmp_path / "absent.jpg", mesher) == "unreadable"


def test_a_bomb_is_refused_before_it_is_decoded(mesher, tmp_path, monkeypatch):
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    body = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + body)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert reason(tmp_path / "bomb.png", mesher) == "too_large"
    monkeypatch.setattr(image_module, "MAX_PIXELS", 1000)
    assert reason(HOPPER, mesher) == "too_large"


def test_pictures_without_one_usable_face_are_named(photo, mesher, tmp_path):
    head = photo.crop((100, 0, 420, 400))
    Image.effect_noise((300, 300), 60).save(tmp_path / "noise.png")
    pair = Image.new("RGB", (640, 400))
    pair.paste(head, (0, 0))
    pair.paste(head.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (320, 0))
    pair.save(tmp_path / "pair.png")
    photo.resize((128, 150)).save(tmp_path / "tiny.png")
    assert reason(tmp_path / "noise.png", mesher) == "no_face"
    assert reason(tmp_path / "pair.png", mesher) == "two_faces"
    assert reason(tmp_path / "tiny.png", mesher) == "face_too_small"


def test_a_person_far_behind_does_not_matter(photo, mesher, tmp_path):
    photo.paste(photo.crop((100, 0, 420, 400)).resize((72, 90)), (430, 10))
    photo.save(tmp_path / "behind.png")
    load_portrait(tmp_path / "behind.png", 256, mesher)


def test_a_face_in_a_wide_view_is_found(photo, mesher, tmp_path):
    wide = Image.new("RGB", (2600, 2000), (90, 110, 120))
    wide.paste(photo, (1500, 900))
    wide.save(tmp_path / "wide.png")
    assert face_height(load_portrait(tmp_path / "wide.png", 256, mesher).mesh_P3) > 100


def test_a_face_that_fills_the_picture_gets_an_edge(photo, mesher, tmp_path):
    photo.crop((140, 140, 390, 400)).save(tmp_path / "close.png")
    portrait = load_portrait(tmp_path / "close.png", 256, mesher)
    assert portrait.image_HW3.shape == (256, 256, 3)


def test_an_open_mouth_is_refused_and_a_smile_is_not(astronaut, mesher, real_media):
    assert reason(real_media / "portraits" / "p26_liveportrait_d19.jpg", mesher) == "open_mouth"
    assert reason(real_media / "portraits" / "p29_liveportrait_d9.jpg", mesher) == "open_mouth"


def test_size_must_make_sense(mesher):
    with pytest.raises(ValueError, match="even"):
        load_portrait(HOPPER, 255, mesher)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_portrait_that_is_not_upright_is_turned_and_said(photo, mesher, hopper, tmp_path, turns, caplog):
    photo.rotate(90 * turns, expand=True).save(tmp_path / "lying.png")
    turned = load_portrait(tmp_path / "lying.png", 256, mesher)
    np.testing.assert_allclose(turned.mesh_P3[:, :2], hopper.mesh_P3[:, :2], atol=6)
    assert "upside down" in caplog.text


def test_upright_portraits_stay_as_they_are(mesher, real_media, caplog):
    for path in sorted((real_media / "portraits").iterdir())[::12]:
        try:
            load_portrait(path, 256, mesher)
        except MediaError:
            continue
    assert "turned by" not in caplog.text


def test_a_second_person_is_found_although_the_first_was_found_first(photo, mesher, tmp_path):
    """A wide picture: in the whole of it the detector sees the large face only."""
    head = photo.crop((100, 0, 420, 400))
    wide = Image.new("RGB", (1500, 420), (90, 110, 120))
    wide.paste(head, (20, 0))
    wide.paste(head.resize((190, 238)), (1290, 150))
    wide.save(tmp_path / "wide.png")
    assert reason(tmp_path / "wide.png", mesher) == "two_faces"
