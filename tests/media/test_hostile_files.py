"""Whatever bytes come in, only a MediaError comes out, and memory stays small."""

import random
import zlib

import pytest
from PIL import Image

from bench.refusals import FILES, measure
from ft2ray.errors import MediaError
from ft2ray.media.audio import read_audio
from ft2ray.media.containers import demuxer
from ft2ray.media.image import read_image
from ft2ray.media.video import read_video
from tests.media.files import KINDS, sound, tone
from tests.media.test_film import coloured, film
from tests.media.test_image import saved

MUTANTS = 25  # of each kind

NAMES = [
    "take:1.wav",
    "2024-08-20T13:28:35Z.wav",
    "a\nb.wav",
    "http:x.wav",
    "100%d.wav",
    "pipe:0",
    "-i",
    "b\udcff",
]
PICTURES = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "PPM", "HEIF", "AVIF"]


def mutants(file: bytes, seed: int):
    """The file with flipped bits, cut, joined with itself, with a stretch removed or overwritten."""
    rng = random.Random(seed)
    for _ in range(MUTANTS):
        changed = bytearray(file)
        a, b = sorted(rng.sample(range(len(file)), 2))
        match rng.randrange(6):
            case 0:
                for _ in range(rng.choice([1, 4, 64])):
                    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            case 1:
                del changed[a:]
            case 2:
                changed = changed * 2
            case 3:
                del changed[a : min(b, a + 50)]
            case 4:
                changed[a : a + 50] = rng.randbytes(50)
            case 5:
                at = rng.randrange(min(200, len(file)))
                changed[at : at + 4] = rng.choice(
                    [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80"]
                )
        yield bytes(changed)


def only_refusals(tmp_path, file: bytes, read) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(file)
    try:
        read(path)
    except MediaError as error:
        assert "a.bin" in str(error) and str(tmp_path) not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_sound_is_read_or_refused(tmp_path, kind):
    for file in mutants(sound(kind, 0.5), zlib.crc32(kind.encode())):
        only_refusals(tmp_path, file, read_audio)


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mpegts"])
def test_damaged_films_are_read_or_refused(tmp_path, kind):
    file = film(coloured(8), sound=[(0.0, tone(0.3))], kind=kind)
    for changed in mutants(file, zlib.crc32(kind.encode())):
        only_refusals(tmp_path, changed, read_video)


@pytest.mark.parametrize("kind", PICTURES)
def test_damaged_pictures_are_read_or_refused(tmp_path, kind):
    picture = saved(Image.effect_noise((40, 30), 60).convert("RGB"), kind)
    for file in mutants(picture, zlib.crc32(kind.encode())):
        only_refusals(tmp_path, file, read_image)


@pytest.mark.parametrize(
    "head",
    [
        b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        b"%!PS-Adobe-3.0\n",
        b"<MPD><BaseURL>http://127.0.0.1</BaseURL></MPD>",
        b"\0\0\0\x18ftypheic" + bytes(16),
    ],
)
def test_what_names_other_files_reaches_no_demuxer(tmp_path, head):
    assert demuxer(head) is None
    for read in (read_audio, read_video):
        (tmp_path / "a.mp4").write_bytes(head)
        with pytest.raises(MediaError) as caught:
            read(tmp_path / "a.mp4")
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize(
    "file",
    [b"ID3\x04\0\0\0\0\0\x10" + bytes(16) + b"ffconcat version 1.0\nfile /etc/passwd\n" * 9,
     b"AAAAftypjp2 \r\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n" * 9],
)  # fmt: skip
def test_polyglots_are_opened_as_what_they_begin_with(tmp_path, file):
    (tmp_path / "a").write_bytes(file)
    assert demuxer(file) in ("mp3", "mov")
    with pytest.raises(MediaError):
        read_audio(tmp_path / "a")


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_file_will_do(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        file.write(sound("wav"))
    assert read_audio(name).size == 32_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_small_files_take_little_memory_and_time(tmp_path, kind):
    _, reason, megabytes, seconds = measure(kind, tmp_path)
    allowed = 1200 if "alpha" in kind else 250  # within the limit of pixels: it is read
    assert megabytes < allowed and seconds < 20, (reason, megabytes, seconds)
    assert (reason == "read") == ("alpha" in kind or "4,000" in kind)
