"""Whole clips: the right pictures, at the right size, with the sound that belongs to them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.critic.omni import clip_file
from ft2ray.critic.omni.clip_file import read_clip
from ft2ray.critic.omni.whole_clip import WholeClipViewer, check_fps
from ft2ray.errors import MediaError
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.video import read_video, write_video


def clicking(fps: float, seconds: float = 3.0, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Frames whose grey is their number, and a click at the beginning of every half second."""
    frames = np.zeros((round(fps * seconds), 64, width, 3), np.uint8)
    frames[:] = np.arange(len(frames))[:, None, None, None] * 3
    wav = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    for half in range(1, int(seconds * 2)):
        wav[half * SAMPLE_RATE // 2 :][:200] = 0.5 * np.sin(np.arange(200))
    return frames, wav


@pytest.fixture(scope="module", params=[25, 23, 30])
def mp4(request, tmp_path_factory):
    frames, wav = clicking(request.param)
    return write_video(tmp_path_factory.mktemp("clips") / "own.mp4", frames, request.param, wav)


needs_decord = pytest.mark.skipif(clip_file.decord is None, reason="decord has wheels for x86-64 only")


@needs_decord
@pytest.mark.parametrize("fps", [8.0, 10.0, 12.0])
def test_decord_gives_the_pictures_of_pyav_bit_for_bit(mp4, fps):
    assert clip_file.is_plain_h264(mp4)
    ours, wav = clip_file._decord_pictures(mp4, fps), clip_file._sound(mp4, 60.0)
    theirs, their_wav = read_video(mp4, fps)
    assert np.array_equal(ours, theirs) and np.array_equal(wav, their_wav)


@needs_decord
def test_real_clips_too_and_mpeg1_is_left_to_pyav(real_media):
    for name in ("grid_test_video.mp4", "pcavs_517600055.mp4"):
        ours, wav = read_clip(real_media / "clips" / name, 10.0)
        theirs, their_wav = read_video(real_media / "clips" / name, 10.0)
        assert np.array_equal(ours, theirs) and np.array_equal(wav, their_wav)
    assert not clip_file.is_plain_h264(real_media / "clips" / "grid_bbaf2n.mpg")


@needs_decord
def test_what_decord_gives_up_is_read_all_the_same(tmp_path):
    frames, wav = clicking(25, width=48)
    narrow = write_video(tmp_path / "narrow.mp4", frames, 25, wav)
    assert clip_file._decord_pictures(narrow, 10.0) is None
    assert np.array_equal(read_clip(narrow, 10.0)[0], read_video(narrow, 10.0)[0])


def test_sound_and_pictures_begin_together(mp4):
    clip = WholeClipViewer(10.0, 448, 16).read(mp4)
    heard = np.flatnonzero(np.abs(clip.wav_T) > 0.1)
    assert heard[0] == pytest.approx(SAMPLE_RATE // 2, abs=32)  # the first click, at half a second
    assert len(clip.wav_T) == round(len(clip.frames_FHW3) / 10.0 * SAMPLE_RATE)


def test_another_sound_takes_the_place_of_the_clips_own(mp4, tmp_path):
    frames, _ = clicking(25)
    other = write_video(tmp_path / "other.mp4", frames, 25, np.full(3 * SAMPLE_RATE, 0.2, np.float32))
    own, swapped = WholeClipViewer().read(mp4), WholeClipViewer().read_labelled(mp4, other)
    assert np.array_equal(own.frames_FHW3, swapped.frames_FHW3)
    assert not np.allclose(own.wav_T[:1000], swapped.wav_T[:1000])


def test_each_picture_is_the_one_shown_in_the_middle_of_its_time():
    frames, wav = clicking(25)
    clip = WholeClipViewer(10.0, 448, 16).view(frames, wav, 25)
    assert (clip.frames_FHW3[:, 0, 0, 0] // 3).tolist()[:6] == [1, 3, 6, 8, 11, 13]
    assert clip.frames == 30 and clip.fps == 10.0


def test_files_that_end_early_are_named(mp4, tmp_path):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(mp4.read_bytes()[: mp4.stat().st_size // 3])
    with pytest.raises(MediaError, match="cut.mp4"):
        read_clip(cut, 10.0)
    with pytest.raises(MediaError, match="limit of 1 s"):
        read_clip(mp4, 10.0, max_seconds=1.0)


def test_clips_without_sound_or_too_short_are_refused():
    frames, wav = clicking(25)
    with pytest.raises(ValueError, match="no sound"):
        WholeClipViewer().view(frames, None, 25)
    with pytest.raises(ValueError, match="lasts 0.80 s"):
        WholeClipViewer().view(frames[:20], wav, 25)


@settings(max_examples=60, deadline=None)
@given(st.integers(28, 2000), st.integers(28, 2000), st.integers(56, 800))
def test_pictures_are_whole_blocks_in_the_area(height, width, pixels):
    rows, columns = WholeClipViewer(10.0, pixels, 28).size(height, width)
    assert rows % 28 == columns % 28 == 0
    assert rows * columns <= max(pixels**2, 28 * max(rows, columns))
    if min(height, width) > 84 and height * width <= pixels**2:
        assert abs(rows - height) <= 28 and abs(columns - width) <= 28


@pytest.mark.parametrize("fps", [2.0, 7.9])
def test_lips_need_eight_pictures_a_second(fps):
    with pytest.raises(ValueError, match=f"{math.ceil(3.5 * fps)} pictures"):
        check_fps(fps, {"mouth": "Do the lips fit?"})
    check_fps(fps, {"vq": "Is the visual quality good?"})
    with pytest.raises(ValueError, match="not in"):
        check_fps(0.0, {})
