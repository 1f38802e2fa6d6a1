"""Films as they are played: time, display and damage; and hostile ones bounded before they are decoded.

Shape suffixes: F frames, H height, W width, 3 rgb, T audio samples.
"""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from ft2ray.errors import MediaError
from ft2ray.media import packets
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.video import read_video
from tests.media.files import tone

QUADRANTS = {"top left": (220, 30, 30), "top right": (30, 200, 30)}


def coloured(count: int, height: int = 48, width: int = 96) -> np.ndarray:
    """Frames of red and green above; their lower half tells their number by its brightness."""
    frames_FHW3 = np.zeros((count, height, width, 3), np.uint8)
    frames_FHW3[:, : height // 2, : width // 2] = QUADRANTS["top left"]
    frames_FHW3[:, : height // 2, width // 2 :] = QUADRANTS["top right"]
    frames_FHW3[:, height // 2 :] = (20 + 3 * np.arange(count))[:, None, None, None]
    return frames_FHW3


def numbers(frames_FHW3: np.ndarray) -> np.ndarray:
    return np.round((frames_FHW3[:, -8:].mean(axis=(1, 2, 3)) - 20) / 3).astype(int)


def film(
    frames_FHW3: np.ndarray,
    times: list[float] | None = None,
    sound: list[tuple[float, np.ndarray]] = (),
    kind: str = "mp4",
    sar: Fraction | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
) -> bytes:
    """A film whose pictures are shown at `times`, with pieces of 16 kHz sound at theirs (seconds)."""
    file = io.BytesIO()
    times = [n / 25 for n in range(len(frames_FHW3))] if times is None else times
    with av.open(file, "w", format={"mkv": "matroska"}.get(kind, kind)) as container:
        video = container.add_stream(codec, rate=25)
        video.height, video.width, video.pix_fmt = *frames_FHW3.shape[1:3], pix_fmt
        video.codec_context.time_base = Fraction(1, 1000)
        video.options = {"crf": "1", "bf": "0"} if codec == "libx264" else {}
        if sar:
            video.codec_context.sample_aspect_ratio = sar
        audio = None
        if sound:
            audio = container.add_stream(
                "pcm_s16le" if kind == "mkv" else "aac", rate=SAMPLE_RATE, layout="mono"
            )
        made = []
        rgb = "rgba" if frames_FHW3.shape[-1] == 4 else "rgb24"
        for time, frame_HW3 in zip(times, frames_FHW3, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HW3), format=rgb).reformat(
                format=pix_fmt
            )
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            made += video.encode(frame)
        made += video.encode(None)
        for at, wav_T in sound:
            for start in range(0, wav_T.size, 1024):
                piece = av.AudioFrame.from_ndarray(
                    wav_T[None, start : start + 1024], format="fltp", layout="mono"
                )
                piece.sample_rate, piece.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
                if kind == "mkv":
                    (piece,) = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE).resample(
                        piece
                    )
                piece.pts = round(at * SAMPLE_RATE) + start
                made += audio.encode(piece)
        if audio is not None:
            made += audio.encode(None)
        for packet in sorted(made, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return file.getvalue()


def read(tmp_path, file: bytes, **options) -> tuple[np.ndarray, np.ndarray | None]:
    (tmp_path / "a.mp4").write_bytes(file)
    return read_video(tmp_path / "a.mp4", **options)


def refusal(tmp_path, file: bytes, **options) -> str:
    with pytest.raises(MediaError) as caught:
        read(tmp_path, file, **options)
    assert str(tmp_path) not in str(caught.value)
    return caught.value.reason


def onset(wav_T: np.ndarray) -> float:
    """Seconds until the first sound."""
    return float(np.flatnonzero(np.abs(wav_T) > 0.1)[0]) / SAMPLE_RATE


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("late", [0.6, 1.3])
def test_sound_that_starts_late_is_heard_late(tmp_path, kind, late):
    _, wav_T = read(tmp_path, film(coloured(75), sound=[(late, tone(1.5))], kind=kind))
    assert onset(wav_T) == pytest.approx(late, abs=0.03)
    assert onset(read_audio(tmp_path / "a.mp4")) == pytest.approx(late, abs=0.03)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_pictures_that_start_late_take_the_sound_along(tmp_path, kind):
    times = [0.6 + n / 25 for n in range(50)]
    sound = [(0.0, np.concatenate([np.zeros(16_000, np.float32), tone(1.0)]))]
    frames_FHW3, wav_T = read(tmp_path, film(coloured(50), times, sound, kind))
    np.testing.assert_array_equal(numbers(frames_FHW3), np.arange(50))
    assert onset(wav_T) == pytest.approx(0.4, abs=0.03)


def test_a_film_whose_times_begin_late_gets_no_warning(tmp_path, caplog):
    times = [100 + n / 25 for n in range(25)]
    frames_FHW3, wav_T = read(tmp_path, film(coloured(25), times, [(100.0, tone(1.0))], "mkv"))
    assert len(frames_FHW3) == 25 and onset(wav_T) < 0.03 and not caplog.records


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_gap_in_the_sound_stays_a_gap(tmp_path, kind):
    sound = [(0.0, tone(0.96)), (2.0, tone(0.96))]
    _, wav_T = read(tmp_path, film(coloured(75), sound=sound, kind=kind))
    gap_T = wav_T[round(1.1 * SAMPLE_RATE) : round(1.95 * SAMPLE_RATE)]
    assert np.abs(gap_T).max() < 0.05
    assert np.abs(wav_T[round(2.1 * SAMPLE_RATE) : round(2.9 * SAMPLE_RATE)]).max() > 0.2


def test_pictures_of_varying_length_are_shown_as_long_as_they_last(tmp_path):
    times = [0.0, 0.04, 0.08, 1.0, 1.5, 1.54]
    frames_FHW3, _ = read(tmp_path, film(coloured(6), times, kind="mkv"))
    shown = numbers(frames_FHW3)
    middle = (np.arange(len(shown)) + 0.5) / 25
    np.testing.assert_array_equal(shown, np.searchsorted(np.array(times) - 1e-6, middle, side="right") - 1)


def test_hidden_pictures_of_an_edit_list_are_not_shown(tmp_path):
    """A telephone cuts a film without coding it again: 20 of 50 pictures are not to be seen."""
    file = bytearray(film(coloured(50)))
    at = file.index(b"elst")
    seconds, media_time = (
        30 * 1000 // 25,
        20 * struct.unpack(">I", file[file.index(b"mdhd") + 16 :][:4])[0] // 25,
    )
    struct.pack_into(">Ii", file, at + 12, seconds, media_time)
    frames_FHW3, _ = read(tmp_path, bytes(file))
    np.testing.assert_array_equal(numbers(frames_FHW3), np.arange(20, 50))


MATRICES = {  # what a player does to the stored picture -> a, b, c, d of the track's matrix (ISO 14496-12)
    "nothing": (1, 0, 0, 1),
    "a quarter clockwise": (0, 1, -1, 0),
    "a half": (-1, 0, 0, -1),
    "a quarter against the clock": (0, -1, 1, 0),
    "a mirror": (-1, 0, 0, 1),
    "upside down mirror": (1, 0, 0, -1),
    "along the diagonal": (0, 1, 1, 0),
    "across the diagonal": (0, -1, -1, 0),
}
SHOWN = {
    "nothing": lambda x: x,
    "a quarter clockwise": lambda x: np.rot90(x, -1),
    "a half": lambda x: np.rot90(x, 2),
    "a quarter against the clock": lambda x: np.rot90(x, 1),
    "a mirror": lambda x: x[:, ::-1],
    "upside down mirror": lambda x: x[::-1],
    "along the diagonal": lambda x: x.transpose(1, 0, 2),
    "across the diagonal": lambda x: np.rot90(x, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_pictures_are_shown_as_the_container_turns_them(tmp_path, turn):
    file = bytearray(film(coloured(5)))
    at = file.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in MATRICES[turn])
    struct.pack_into(">9i", file, at, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    frames_FHW3, _ = read(tmp_path, bytes(file))
    right_HW3 = SHOWN[turn](coloured(1)[0])
    assert frames_FHW3.shape[1:] == right_HW3.shape
    assert np.abs(frames_FHW3[0].astype(int) - right_HW3).mean() < 12


@pytest.mark.parametrize(
    ("sar", "shape"), [(Fraction(2), (48, 192)), (Fraction(1, 2), (96, 96)), (Fraction(16, 15), (48, 102))]
)
def test_pixels_become_square(tmp_path, sar, shape):
    assert read(tmp_path, film(coloured(5), sar=sar))[0].shape[1:3] == shape


def test_pictures_that_are_a_line_are_refused(tmp_path):
    assert refusal(tmp_path, film(coloured(3), sar=Fraction(20))) == "too_large"
    with pytest.raises(MediaError, match=r"the pictures of a.mp4 are shown as"):
        read_video(tmp_path / "a.mp4")


def test_transparent_pictures_lie_over_grey(tmp_path):
    frames_FHW4 = np.zeros((3, 32, 32, 4), np.uint8)
    frames_FHW4[:, :, 16:] = (200, 40, 40, 255)
    frames_FHW3, _ = read(tmp_path, film(frames_FHW4, codec="qtrle", pix_fmt="argb", kind="mov"))
    np.testing.assert_array_equal(frames_FHW3[0, 4, 4], (128, 128, 128))
    np.testing.assert_array_equal(frames_FHW3[0, 4, 28], (200, 40, 40))


def test_ten_bits_keep_their_colours(tmp_path):
    frames_FHW3, _ = read(tmp_path, film(coloured(3), pix_fmt="yuv420p10le"))
    np.testing.assert_allclose(frames_FHW3[0, 10, 20], QUADRANTS["top left"], atol=12)


@pytest.mark.parametrize("size", [(49, 97), (33, 31)])
def test_odd_sizes_become_even(tmp_path, size):
    frames_FHW3, _ = read(tmp_path, film(coloured(3, *size), pix_fmt="yuv444p"))
    assert all(
        side % 2 == 0 and abs(side - asked) == 1
        for side, asked in zip(frames_FHW3.shape[1:3], size, strict=True)
    )


def test_a_damaged_packet_costs_pictures_but_not_the_film(tmp_path):
    rng = np.random.default_rng(0)
    frames_FHW3 = coloured(50)
    frames_FHW3[:, 30:] ^= rng.integers(0, 8, frames_FHW3[:, 30:].shape, np.uint8)
    file = bytearray(film(frames_FHW3, sound=[(0.0, tone(2.0))]))
    at = file.index(b"mdat") + len(file) // 3
    file[at : at + 300] = rng.bytes(300)
    back_FHW3, wav_T = read(tmp_path, bytes(file))
    assert len(back_FHW3) == 50
    assert abs(wav_T.size / SAMPLE_RATE - 2.0) < 0.1


def test_more_pictures_than_anybody_films_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    times = [n / 1000 for n in range(600)]
    file = film(np.zeros((600, 16, 16, 3), np.uint8), times, kind="mkv")
    monkeypatch.setattr("ft2ray.media.film._decode", lambda *_: pytest.fail("decoded"))
    assert refusal(tmp_path, file) == "too_many_frames"
    monkeypatch.setattr("ft2ray.media.film.MAX_DECODED_PIXELS", 20 * 48 * 96)
    assert refusal(tmp_path, film(coloured(21))) == "too_large"


def test_decoding_ends_when_it_has_taken_long_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(packets, "MAX_DECODE_SECONDS", 0.0)
    assert refusal(tmp_path, film(coloured(5))) == "too_complex"


def test_a_cover_picture_is_no_video(tmp_path):
    """Music with a cover has no pictures that move."""
    (tmp_path / "a.mkv").write_bytes(film(coloured(2), sound=[(0.0, tone(1.0))], kind="mkv"))
    with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(tmp_path / "cover.mp4"), "w") as out:
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 96, 48, "yuvj420p"
        picture.disposition = av.stream.Disposition.attached_pic
        sound = out.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        frame = next(source.decode(video=0)).reformat(format="yuvj420p")
        frame.pts = 0
        out.mux(picture.encode(frame))
        silence = av.AudioFrame.from_ndarray(tone(1.0)[None], format="fltp", layout="mono")
        silence.sample_rate, silence.pts = SAMPLE_RATE, 0
        out.mux(sound.encode(silence))
        out.mux(sound.encode(None))
    assert read_audio(tmp_path / "cover.mp4").size > 0.9 * SAMPLE_RATE
    with pytest.raises(MediaError) as caught:
        read_video(tmp_path / "cover.mp4")
    assert caught.value.reason == "no_video"
