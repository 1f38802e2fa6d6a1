"""Files are taken for what they hold, not for what they are called."""

import asyncio
import io

import pytest
from PIL import Image
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.requests import Request

from ft2ray.errors import MediaError
from ft2ray.media.audio import read_audio
from ft2ray.media.image import read_image
from ft2ray.media.video import read_video
from ft2ray.serving import uploads
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import CriticServeConfig
from tests.media.files import KINDS, sound
from tests.serving.conftest import ASSETS, PORTRAIT, SPEECH

SETTINGS = CriticServeConfig()


def upload(data: bytes) -> UploadFile:
    return UploadFile(io.BytesIO(data), filename="anything.mp4")


@pytest.mark.parametrize("kind", KINDS)
def test_every_sound_that_is_read_elsewhere_is_read_here(tmp_path, kind):
    path = uploads.place(upload(sound(kind)), "audio", tmp_path, SETTINGS)
    assert 1.9 < read_audio(path).size / 16_000 < 2.3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF", "AVIF", "TIFF", "GIF"])
def test_every_picture_that_is_read_elsewhere_is_read_here(tmp_path, kind):
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(file, kind)
    image_HW3 = read_image(uploads.place(upload(file.getvalue()), "portrait", tmp_path, SETTINGS))
    assert image_HW3.shape == (24, 32, 3) and abs(image_HW3.mean((0, 1)) - (200, 30, 30)).max() < 10


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
def test_playlists_scripts_and_the_rest_are_not_read(tmp_path, data):
    path = uploads.place(upload(data), "field", tmp_path, SETTINGS)
    for read in (read_audio, read_video, read_image):
        with pytest.raises(MediaError) as refused:
            read(path)
        assert refused.value.reason == "unreadable" and str(refused.value).startswith("field ")


def test_a_file_is_written_whole_under_the_name_of_its_field(tmp_path):
    data = PORTRAIT.read_bytes()
    path = uploads.place(upload(data), "portrait", tmp_path, SETTINGS)
    assert path == tmp_path / "portrait" and path.read_bytes() == data


def test_a_reference_is_read_like_an_upload(tmp_path):
    settings = CriticServeConfig(stores=(str(ASSETS),))
    path = uploads.place(str(SPEECH), "audio", tmp_path, settings)
    assert path.read_bytes() == SPEECH.read_bytes()
    with pytest.raises(MediaError, match="audio has no pictures"):
        read_video(path)
    with pytest.raises(Refusal, match="must be a file"):
        uploads.place(17, "video", tmp_path, settings)


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
        (FakeRequest(JSON, b'{"one": "a", "one": "b"}'), 422, "bad_json"),
        (FakeRequest(JSON, b'{"one": 1}'), 422, "bad_field"),
        (FakeRequest(JSON, *[b"[" * 1000] * 100), 413, "too_large"),
    ],
)
def test_bodies_that_are_not_fields(request_, status, reason):
    with pytest.raises(Refusal) as refused:
        asyncio.run(uploads.read_request(request_, Fields))
    assert (refused.value.status, refused.value.reason) == (status, reason)


def test_a_field_of_a_form_that_is_given_twice_is_refused():
    part = b'--x\r\nContent-Disposition: form-data; name="one"\r\n\r\na\r\n'

    def read(body: bytes) -> Fields:
        async def receive():
            return {"type": "http.request", "body": body + b"--x--\r\n", "more_body": False}

        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
        return asyncio.run(uploads.read_request(request, Fields))

    assert read(part).one == "a"
    with pytest.raises(Refusal, match="given twice"):
        read(part + part)


def test_the_fields_of_a_json_body_may_come_in_pieces():
    request = FakeRequest(JSON, b'{"one": ', b'"two"}')
    assert asyncio.run(uploads.read_request(request, Fields)).one == "two"


def test_sentences_name_fields_and_not_folders(tmp_path):
    with pytest.raises(MediaError) as refused, uploads.named_by_field(tmp_path):
        raise MediaError("unreadable", f"cannot read '{tmp_path}/video.mp4'.")
    assert (refused.value.reason, refused.value.sentence) == ("unreadable", "cannot read 'video.mp4'.")
