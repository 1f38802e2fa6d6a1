"""Files are taken for what they hold, not for what they are called."""

import asyncio
import io

import av
import pytest
from PIL import Image
from starlette.datastructures import UploadFile

from ft2ray.serving import uploads
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import CriticServeConfig
from tests.serving.conftest import ASSETS, PORTRAIT, SPEECH, speech

SETTINGS = CriticServeConfig()


def upload(data: bytes) -> UploadFile:
    return UploadFile(io.BytesIO(data), filename="anything.mp4")


def encoded(path, container_format, codec):
    with av.open(str(path), "w", format=container_format) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(stream.encode(None))
    return path.read_bytes()[: uploads.HEAD_BYTES]


def test_real_files_are_known_by_their_first_bytes(tmp_path):
    picture = Image.new("RGB", (8, 8))
    for name in ("png", "webp", "jpeg"):
        picture.save(tmp_path / f"a.{name}")
    heads = {
        "jpg": PORTRAIT.read_bytes(),
        "flac": SPEECH.read_bytes(),
        "wav": speech(tmp_path, 1.0).read_bytes(),
        "png": (tmp_path / "a.png").read_bytes(),
        "webp": (tmp_path / "a.webp").read_bytes(),
    }
    for ending, data in heads.items():
        assert uploads.container(data[: uploads.HEAD_BYTES]) == ending
    for ending, name, codec in (
        ("mp4", "mp4", "libx264"),
        ("mp4", "mov", "libx264"),
        ("mkv", "webm", "libvpx-vp9"),
        ("avi", "avi", "mpeg4"),
        ("mpg", "mpeg", "mpeg1video"),
    ):
        assert uploads.container(encoded(tmp_path / f"a.{name}", name, codec)) == ending


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXT-X-VERSION:3\n",
        b"ffconcat version 1.0",
        b"%!PS-Adobe-3.0 EPSF",
        b"<svg xmlns=",
        b"GIF89a",
    ],
)
def test_playlists_scripts_and_the_rest_stay_outside(tmp_path, data):
    for kind in ("video", "audio", "picture"):
        with pytest.raises(Refusal) as refused:
            uploads.place(upload(data), "field", kind, tmp_path, SETTINGS)
        assert (refused.value.status, refused.value.reason) == (422, "unreadable")
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_whole_under_its_own_ending(tmp_path):
    data = PORTRAIT.read_bytes()
    path = uploads.place(upload(data), "portrait", "picture", tmp_path, SETTINGS)
    assert path == tmp_path / "portrait.jpg" and path.read_bytes() == data


def test_a_reference_is_checked_like_an_upload(tmp_path):
    settings = CriticServeConfig(stores=(str(ASSETS),))
    path = uploads.place(str(SPEECH), "audio", "audio", tmp_path, settings)
    assert path.suffix == ".flac" and path.read_bytes() == SPEECH.read_bytes()
    with pytest.raises(Refusal, match="not a video file"):
        uploads.place(str(SPEECH), "video", "video", tmp_path, settings)
    with pytest.raises(Refusal, match="must be a file"):
        uploads.place(17, "video", "video", tmp_path, settings)


def test_a_small_file_of_huge_pictures_is_refused_before_a_picture_is_decoded(tmp_path, monkeypatch):
    encoded(tmp_path / "huge.mp4", "mp4", "libx264")
    monkeypatch.setattr(uploads, "MAX_PIXELS", 32 * 32 - 1)
    with pytest.raises(Refusal, match="32 x 32"):
        uploads.place(upload((tmp_path / "huge.mp4").read_bytes()), "video", "video", tmp_path, SETTINGS)


class FakeRequest:
    def __init__(self, media_type, body=None):
        self.headers, self.body = {"content-type": media_type}, body

    async def json(self):
        import json

        return json.loads(self.body)


@pytest.mark.parametrize(
    "request_, status",
    [
        (FakeRequest("text/plain"), 415),
        (FakeRequest("application/json", "{"), 422),
        (FakeRequest("application/json", "[" * 100_000), 422),
        (FakeRequest("application/json; charset=utf-8", "[1]"), 422),
    ],
)
def test_bodies_that_are_no_fields(request_, status):
    with pytest.raises(Refusal) as refused:
        asyncio.run(uploads.read_fields(request_))
    assert refused.value.status == status
