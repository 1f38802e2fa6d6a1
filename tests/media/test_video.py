import io

import av
import numpy as np
import pytest
from PIL import Image

from ft2ray.errors import MediaError
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.video import poster, read_video, write_video


def numbered_frames(count: int, size: int = 64) -> np.ndarray:
    """Grey frames that tell their own number by their brightness."""
    return np.broadcast_to(
        (20 + 3 * np.arange(count, dtype=np.uint8))[:, None, None, None], (count, size, size, 3)
    ).copy()


def numbers(frames_FHW3: np.ndarray) -> np.ndarray:
    return np.round((frames_FHW3.mean(axis=(1, 2, 3)) - 20) / 3).astype(int)


def test_every_frame_comes_back_in_its_place(tmp_path):
    frames_FHW3 = numbered_frames(50)
    write_video(tmp_path / "a.mp4", frames_FHW3, 25, None)
    back_FHW3, wav_T = read_video(tmp_path / "a.mp4")
    assert wav_T is None
    assert back_FHW3.shape == frames_FHW3.shape
    np.testing.assert_array_equal(numbers(back_FHW3), np.arange(50))


def test_frame_rate_is_converted_in_time(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(50), 50, None)
    back_FHW3, _ = read_video(tmp_path / "a.mp4", fps=25)
    assert len(back_FHW3) == 25
    assert np.abs(numbers(back_FHW3) - 2 * np.arange(25)).max() <= 1


def test_sound_stays_with_the_pictures(tmp_path):
    wav_T = np.zeros(2 * SAMPLE_RATE, np.float32)
    wav_T[SAMPLE_RATE : SAMPLE_RATE + 1600] = 0.5 * np.sin(np.arange(1600) / 4)
    write_video(tmp_path / "a.mp4", numbered_frames(50), 25, wav_T)
    _, back_T = read_video(tmp_path / "a.mp4")
    assert abs(back_T.size - wav_T.size) < 0.1 * SAMPLE_RATE
    loud = np.flatnonzero(np.abs(back_T) > 0.1)
    assert abs(loud[0] - SAMPLE_RATE) < 0.02 * SAMPLE_RATE  # half a frame
    assert abs(loud[-1] - SAMPLE_RATE - 1600) < 0.02 * SAMPLE_RATE


def test_sound_is_fitted_to_the_pictures(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(25), 25, np.full(5 * SAMPLE_RATE, 0.1, np.float32))
    _, wav_T = read_video(tmp_path / "a.mp4")
    assert abs(wav_T.size / SAMPLE_RATE - 1.0) < 0.1


def test_large_pictures_are_scaled_down(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((3, 400, 200, 3), np.uint8), 25, None)
    frames_FHW3, _ = read_video(tmp_path / "a.mp4", max_side=100)
    assert frames_FHW3.shape[1:3] == (100, 50)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    import ft2ray.media.video as video

    def broken(*_args):
        raise OSError("disk full")

    monkeypatch.setattr(video, "_mux_sound", broken)
    with pytest.raises(OSError, match="disk full"):
        write_video(tmp_path / "a.mp4", numbered_frames(5), 25, np.zeros(100, np.float32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "frames",
    [np.zeros((2, 63, 64, 3), np.uint8), np.zeros((0, 64, 64, 3), np.uint8), np.zeros((2, 64, 64, 3))],
)
def test_unfit_frames_are_refused(tmp_path, frames):
    with pytest.raises(ValueError):
        write_video(tmp_path / "a.mp4", frames, 25, None)


def test_broken_files_are_named(tmp_path):
    whole = write_video(
        tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8), 25, None
    )
    cases = {
        "cut.mp4": whole.read_bytes()[: whole.stat().st_size // 2],
        "text.mp4": b"no film here\n" * 100,
        "empty.mp4": b"",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MediaError) as caught:
            read_video(tmp_path / name)
        assert caught.value.reason == ("truncated" if name == "cut.mp4" else "unreadable"), name
    with pytest.raises(MediaError) as caught:
        read_video(whole, max_seconds=1.0)
    assert caught.value.reason == "too_long"


def test_one_picture_that_is_shown_for_hours_is_too_long(tmp_path):
    """It would be repeated until the memory is full, from a file of three kilobytes."""
    path = tmp_path / "hours.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for packet in (*stream.encode(av.VideoFrame(64, 64, "yuv420p")), *stream.encode(None)):
            packet.duration = round(10_000 / packet.time_base)  # seconds
            out.mux(packet)
    with pytest.raises(MediaError) as caught:
        read_video(path, max_seconds=20.0)
    assert caught.value.reason == "too_long"


def test_the_whole_of_an_mpeg_stream_is_decoded(real_media):
    frames_FHW3, wav_T = read_video(real_media / "clips" / "grid_brbk7n.mpg")
    assert frames_FHW3.shape == (75, 288, 360, 3)
    assert wav_T.size / SAMPLE_RATE == pytest.approx(3.0, abs=0.05)
    assert np.abs(np.diff(frames_FHW3[:13].astype(int), axis=0)).mean(axis=(1, 2, 3)).min() > 0  # no repeats


def test_the_poster_is_the_first_picture(tmp_path):
    write_video(tmp_path / "a.mp4", numbered_frames(50), 25, None)
    picture = np.asarray(Image.open(io.BytesIO(poster(tmp_path / "a.mp4"))))
    assert picture.shape == (64, 64, 3) and abs(picture.mean() - 20) < 2
