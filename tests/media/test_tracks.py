"""Tracks as they are: channels that cancel, samples out of range, changes midway, damage, defaults.

Shape suffixes: C channels, T audio samples.
"""

import io
from fractions import Fraction

import av
import numpy as np
import pytest

from ft2ray.errors import MediaError
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.video import read_video
from tests.media.files import KINDS, encode, float_wav, sound, tone
from tests.media.test_film import coloured, film, numbers


def read(tmp_path, file: bytes) -> np.ndarray:
    (tmp_path / "a").write_bytes(file)
    return read_audio(tmp_path / "a")


def level(wav_T: np.ndarray) -> float:
    return float(np.sqrt(np.mean(wav_T**2)))


def pitch(wav_T: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wav_T)).argmax()) * SAMPLE_RATE / wav_T.size


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "opus", "m4a", "mkv", "avi"])
@pytest.mark.parametrize("right", [-1.0, -0.8])
def test_channels_that_cancel_leave_one_of_them(tmp_path, kind, right, caplog):
    muxer, codec, rate = KINDS[kind]
    wav_T = read(tmp_path, encode(np.stack([tone(2.0, rate), right * tone(2.0, rate)]), muxer, codec, rate))
    assert level(wav_T[4000:-4000]) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)
    assert "its channels cancel each other" in caplog.text


@pytest.mark.parametrize("half", [slice(None, SAMPLE_RATE), slice(SAMPLE_RATE, None)])
def test_channels_that_cancel_for_a_while_lose_nothing(tmp_path, half):
    right_T = tone(2.0)
    right_T[half] *= -1
    wav_T = read(tmp_path, float_wav(np.stack([tone(2.0), right_T])))
    assert level(wav_T[half]) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_other_channels_are_averaged_as_before(tmp_path, caplog):
    rng = np.random.default_rng(0)
    voices_CT = 0.1 * rng.standard_normal((2, 2 * SAMPLE_RATE)).astype(np.float32)
    np.testing.assert_allclose(read(tmp_path, float_wav(voices_CT)), voices_CT.mean(axis=0), atol=1e-6)
    assert "cancel" not in caplog.text


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("container", ["wav", "matroska", "mov", "caf"])
def test_floats_in_the_range_of_integers_are_scaled_and_said(tmp_path, bits, container, caplog):
    scaled_T = np.round(tone(2.0) * 2.0 ** (bits - 1)).astype(np.float32)
    wav_T = read(tmp_path, encode(scaled_T[None], container, "pcm_f32le", SAMPLE_RATE))
    np.testing.assert_allclose(wav_T, tone(2.0), atol=1e-4)
    assert f"integers of {bits} bits" in caplog.text


def test_floats_that_are_too_loud_are_turned_down_and_a_click_is_clipped(tmp_path, caplog):
    np.testing.assert_allclose(read(tmp_path, float_wav(10 * tone(2.0)[None])), tone(2.0) / 0.3, atol=1e-2)
    assert "turned down" in caplog.text
    clicked_T = tone(2.0)
    clicked_T[1000] = 1e9
    np.testing.assert_allclose(
        np.delete(read(tmp_path, float_wav(clicked_T[None])), 1000), np.delete(tone(2.0), 1000)
    )
    assert np.abs(read(tmp_path, float_wav(clicked_T[None]))).max() == 1.0


@pytest.mark.parametrize("factor", [20.0, 1e20])
def test_floats_of_no_known_range_are_refused(tmp_path, factor):
    with pytest.raises(MediaError) as caught:
        read(tmp_path, float_wav(factor * tone(2.0)[None]))
    assert caught.value.reason == "out_of_range"


JOINED = ["wav", "aiff", "au", "caf", "w64", "flac", "mp3", "aac", "opus", "m4a", "mkv", "webm", "avi"]


@pytest.mark.parametrize("kind", JOINED)
@pytest.mark.parametrize("stereo_first", [False, True])
def test_rate_and_channels_may_change_where_files_were_joined(tmp_path, kind, stereo_first, caplog):
    """Read with the rate of the other part, a part would be of another length and pitch."""
    muxer, codec, rate = KINDS[kind]
    other = rate if codec == "libopus" else 44_100
    parts = [
        (2.0, encode(tone(2.0, rate)[None], muxer, codec, rate)),
        (1.5, encode(np.stack([tone(1.5, other)] * 2), muxer, codec, other)),
    ]
    parts = parts[::-1] if stereo_first else parts
    wav_T = read(tmp_path, b"".join(file for _, file in parts))
    assert wav_T.size / SAMPLE_RATE == pytest.approx(3.5, abs=0.25)  # AAC and MP3 fill up each part
    split = round(parts[0][0] * SAMPLE_RATE)
    for part_T in (wav_T[4000 : split - 4000], wav_T[split + 4000 : -4000]):
        assert pitch(part_T) == pytest.approx(440, abs=3)
        assert level(part_T) == pytest.approx(0.3 / np.sqrt(2), rel=0.1)
    if kind not in ("mp3", "aac"):  # frames after frames: nothing tells where the second file begins
        assert "holds 2 files one after the other; all are read" in caplog.text


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "mov"])
def test_of_films_that_were_joined_the_first_is_read_and_that_is_said(tmp_path, kind, caplog):
    file = film(coloured(20), sound=[(0.0, tone(0.8))], kind=kind)
    (tmp_path / "one").write_bytes(file)
    (tmp_path / "two").write_bytes(file + film(coloured(30), sound=[(0.0, tone(1.2))], kind=kind))
    for one, two in zip(read_video(tmp_path / "one"), read_video(tmp_path / "two"), strict=True):
        np.testing.assert_array_equal(one, two)
    assert caplog.text.count("2 files one after the other; only the first is read") == 1


@pytest.mark.parametrize("kind", ["opus", "flac", "mp3", "aac", "m4a", "webm", "mkv", "avi"])
def test_what_damage_takes_from_a_recording_is_said(tmp_path, kind, caplog):
    """A stretch in the middle is overwritten: sound may be missing, but never unsaid."""
    muxer, codec, rate = KINDS[kind]
    rng = np.random.default_rng(1)
    noise_T = 0.2 * rng.standard_normal(8 * rate).astype(np.float32)
    file = bytearray(encode(noise_T[None], muxer, codec, rate))
    size = len(file) // 5
    file[2 * size : 3 * size] = rng.bytes(size) if muxer not in ("matroska", "avi") else bytes(size)
    try:
        wav_T = read(tmp_path, bytes(file))
    except MediaError as error:
        assert error.reason in ("damaged", "truncated", "unreadable")
        return
    heard = np.abs(wav_T.reshape(-1)[: wav_T.size // 800 * 800].reshape(-1, 800)).mean(axis=1) > 0.02
    if heard.sum() * 0.05 < 7.0:
        assert any(
            word in caplog.text for word in ("are damaged", "are missing", "ends after", "left out")
        ), caplog.text


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_pictures_that_had_to_be_patched_are_said(tmp_path, kind, caplog):
    rng = np.random.default_rng(0)
    frames_FHW3 = coloured(50)
    frames_FHW3[:, :20] ^= rng.integers(0, 8, frames_FHW3[:, :20].shape, np.uint8)
    file = bytearray(film(frames_FHW3, kind=kind))
    at = len(file) * 3 // 10
    file[at : at + 40] = rng.bytes(40)
    (tmp_path / "a").write_bytes(bytes(file))
    frames_FHW3, _ = read_video(tmp_path / "a")
    assert len(frames_FHW3) == 50 and "of its 50 frames of video are damaged" in caplog.text


@pytest.mark.parametrize("kind", ["matroska", "mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_track_that_a_player_plays_is_read(tmp_path, kind, default):
    """Two pictures and two sounds; the container marks one of each."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        videos, sounds = [], []
        for _ in range(2):
            video = container.add_stream("libx264", rate=25)
            video.width, video.height, video.pix_fmt = 96, 48, "yuv420p"
            video.options = {"crf": "1", "bf": "0"}
            videos.append(video)
            sounds.append(container.add_stream("aac", rate=SAMPLE_RATE, layout="mono"))
        for index, stream in enumerate([*videos, *sounds]):
            stream.disposition = av.stream.Disposition.default if index % 2 == default else 0
        for index in range(2):
            for n, frame_HW3 in enumerate(coloured(40)[20 * index : 20 * index + 20]):
                frame = av.VideoFrame.from_ndarray(frame_HW3, format="rgb24")
                frame.pts, frame.time_base = n, Fraction(1, 25)
                container.mux(videos[index].encode(frame))
            container.mux(videos[index].encode(None))
            frame = av.AudioFrame.from_ndarray(tone(0.8, hertz=(300, 900)[index])[None], "fltp", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            container.mux(sounds[index].encode(frame))
            container.mux(sounds[index].encode(None))
    (tmp_path / "a").write_bytes(file.getvalue())
    frames_FHW3, wav_T = read_video(tmp_path / "a")
    np.testing.assert_array_equal(numbers(frames_FHW3), 20 * default + np.arange(20))
    assert pitch(wav_T[2000:10000]) == pytest.approx((300, 900)[default], abs=3)
    assert pitch(read_audio(tmp_path / "a")[2000:10000]) == pytest.approx((300, 900)[default], abs=3)


def test_one_field_of_interlaced_pictures_is_taken_and_said(tmp_path, caplog):
    """Fields that were filmed one after the other: lines of red and lines of green are never mixed."""
    fields_FHW3 = np.zeros((10, 64, 96, 3), np.uint8)
    fields_FHW3[:, ::2] = (200, 30, 30)
    fields_FHW3[:, 1::2] = (30, 200, 30)
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv444p"
        video.options = {"crf": "1", "x264-params": "tff=1"}
        for n, frame_HW3 in enumerate(fields_FHW3):
            frame = av.VideoFrame.from_ndarray(frame_HW3, format="rgb24").reformat(format="yuv444p")
            frame.pts, frame.time_base = n, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    (tmp_path / "a.mkv").write_bytes(file.getvalue())
    frames_FHW3, _ = read_video(tmp_path / "a.mkv")
    assert frames_FHW3.shape == (10, 64, 96, 3)
    assert np.abs(frames_FHW3.astype(int) - (200, 30, 30)).max() < 25
    assert "a.mkv is interlaced" in caplog.text


@pytest.mark.parametrize("kind", ["flac", "opus", "mkv", "m4a"])
def test_a_good_recording_gets_no_warning(tmp_path, kind, caplog):
    assert read(tmp_path, sound(kind, 4.0)).size > 3.9 * SAMPLE_RATE
    assert not caplog.records
