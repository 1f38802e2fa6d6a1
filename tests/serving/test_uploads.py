"""Files are taken for what they hold, not for what they are called."""

import asyncio
import io

import av
import pytest
from PIL import Image
from pydantic import BaseModel
from starlette.datastructures import UploadFile

from ft2ray.errors import MediaError
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


class Fields(BaseModel):
    one: str = "none"


class FakeRequest:
    def __init__(self, media_type, *chunks):
        self.headers, self.chunks = {"content-type": media_type}, chunks

    async def stream(self):
        for chunk in self.chunks:
            yield chunk


JSON = "application/json; charset=utf-8"


@pytest.mark.parametrize(
    "request_, status, reason",
    [
        (FakeRequest("text/plain"), 415, "bad_content_type"),
        (FakeRequest(JSON, b"{"), 422, "bad_json"),
        (FakeRequest(JSON, b"\xff"), 422, "bad_json"),
        (FakeRequest(JSON, b"[" * 60_000), 422, "bad_json"),
        (FakeRequest(JSON, b"[1]"), 422, "bad_json"),
        (FakeRequest(JSON, b'{"one": 1}'), 422, "bad_field"),
        (FakeRequest(JSON, *[b"[" * 1000] * 100), 413, "too_large"),
    ],
)
def test_bodies_that_are_not_fields(request_, status, reason):
    with pytest.raises(Refusal) as refused:
        asyncio.run(uploads.read_request(request_, Fields))
    assert (refused.value.status, refused.value.reason) == (status, reason)


def test_the_fields_of_a_json_body_may_come_in_pieces():
    request = FakeRequest(JSON, b'{"one": ', b'"two"}')
    assert asyncio.run(uploads.read_request(request, Fields)).one == "two"


def test_sentences_name_fields_and_not_folders(tmp_path):
    with pytest.raises(MediaError) as refused, uploads.named_by_field(tmp_path):
        raise MediaError("unreadable", f"cannot read '{tmp_path}/video.mp4'.")
    assert (refused.value.reason, refused.value.sentence) == ("unreadable", "cannot read 'video.mp4'.")
