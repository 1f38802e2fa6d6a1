"""Boxes, windows and clocks of the critic's view."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.critic.talking.view import (
    FACE_PIXELS,
    WINDOW_FRAMES,
    TalkingViewer,
    at_view_rate,
    coded_stills,
    coded_video,
    composite,
    crop,
    fill_gaps,
    view_from_meshes,
    window_bounds,
)
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import CHIN, FOREHEAD_TOP, POINTS


def still_mesh(frames: int, centre=(128.0, 128.0), height=128.0) -> np.ndarray:
    """A face of 478 equal points but for forehead and chin, which give it its height."""
    mesh = np.zeros((frames, POINTS, 3), np.float32)
    mesh[..., :2] = centre
    mesh[:, FOREHEAD_TOP, 1] -= height / 2
    mesh[:, CHIN, 1] += height / 2
    return mesh


class NoFace:
    def track(self, frames):
        return np.full((len(frames), POINTS, 3), np.nan, np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(25, 1000))
def test_windows_cover_the_clip(frames):
    bounds = window_bounds(frames)
    seen = np.zeros(frames, int)
    for start, stop in bounds:
        assert stop - start == min(frames, WINDOW_FRAMES)
        seen[start:stop] += 1
    assert seen.min() >= 1
    assert len(bounds) == -(-frames // WINDOW_FRAMES)


def test_other_frame_rates_keep_the_clock():
    frames = np.arange(60)[:, None, None, None] * np.ones((1, 2, 2, 3))
    assert at_view_rate(frames, 25) is frames
    moved = at_view_rate(frames, 30)
    assert len(moved) == 50
    assert np.abs(moved[:, 0, 0, 0] / 30 - np.arange(50) / 25).max() <= 0.5 / 30 + 1e-9


def test_gaps_are_interpolated_and_too_many_refused():
    tracked = np.stack([np.full((POINTS, 3), value, np.float32) for value in (0, 2, np.nan, 6)])
    filled = fill_gaps(tracked, 9)
    assert filled[:7, 0, 0] == pytest.approx(np.arange(7))
    assert (filled[7:, 0, 0] == 6).all()
    tracked[1:] = np.nan
    with pytest.raises(ValueError, match="1 of 4"):
        fill_gaps(tracked, 9)


def test_a_moving_head_moves_in_the_face_box_but_not_in_the_mouth_box():
    frames = np.zeros((75, 256, 256, 3), np.uint8)
    mesh = still_mesh(75)
    shift = np.round(10 * np.sin(np.arange(75) / 12)).astype(int)
    mesh[..., 0] += shift[:, None]
    for index, offset in enumerate(shift):
        frames[index, 60:70, 120 + offset : 136 + offset] = 255  # a mark on the forehead
        frames[index, 132:140, 120 + offset : 136 + offset] = 255  # and on the lips
    video = composite(frames, mesh).astype(float)

    def place(part):
        columns = part.sum(axis=(1, 3))
        return (columns * np.arange(columns.shape[1])).sum(axis=1) / columns.sum(axis=1)

    face, mouth = place(video[:, :FACE_PIXELS]), place(video[:, FACE_PIXELS:])
    assert np.corrcoef(face, shift)[0, 1] > 0.99 and np.ptp(face) > 5
    assert np.ptp(mouth) < 0.4 * np.ptp(face) * 2.17  # the mouth box magnifies 2.17 times as much


def test_crop_repeats_the_border_and_keeps_the_size():
    picture = np.full((40, 40, 3), 7, np.uint8)
    picture[0, 0] = 200
    cut = crop(picture, np.array([0.0, 0.0]), 20.0, (10, 10))
    assert cut.shape == (10, 10, 3)
    assert cut[0, 0, 0] == 200 and cut[-1, -1, 0] == 7
    assert crop(picture, np.array([400.0, 20.0]), 20.0, (10, 10)).shape == (10, 10, 3)


def test_bad_clips_are_named():
    frames = np.zeros((75, 64, 64, 3), np.uint8)
    wav = np.zeros(48000, np.float32)
    with pytest.raises(ValueError, match="no sound"):
        TalkingViewer().view(frames, None, 25, NoFace())
    with pytest.raises(ValueError, match="at least 1 s"):
        TalkingViewer().view(frames[:20], wav, 25, NoFace())
    with pytest.raises(ValueError, match="0 of 38 frames"):
        TalkingViewer().view(frames, wav, 25, NoFace())


def test_short_sound_is_filled_with_silence():
    mesh_P3 = 32 * MotionBasis.load().canonical_P3 + np.array([32, 32, 0])
    frames_FHW3 = np.zeros((75, 64, 64, 3), np.uint8)
    view = view_from_meshes(frames_FHW3, np.repeat(mesh_P3[None], 75, axis=0), np.ones(16000))
    assert np.abs(view.motion_WCF).max() < 5
    assert view.mel_WMJ.shape == (1, 80, 300)
    assert view.mel_WMJ[0, :, 150:].std() < 1e-6 < view.mel_WMJ[0, :, :80].std()


def test_coded_pictures_show_change_and_forget_colour():
    rng = np.random.default_rng(0)
    video = np.repeat(rng.integers(60, 180, (1, 84, 56, 1), dtype=np.uint8), 20, axis=0).repeat(3, axis=3)
    video[10, 60:80, 20:30] = 0  # the mouth opens in one frame
    coded = coded_video(video).astype(int)
    still = np.r_[0:10, 12:20]
    assert (coded[still, ..., 1] == 128).all() and (coded[still, ..., 2] == 0).all()
    opened = coded[10, 60:80, 20:30]
    assert opened[..., 1].mean() < 60 and opened[..., 2].mean() > 90
    assert coded[11, 60:80, 20:30, 2].mean() > 90  # and closes again
    darker = coded_video((video // 2).astype(np.uint8)).astype(int)
    assert np.abs(darker - coded).mean() < 3


def test_coded_stills_lose_their_detail_with_blur():
    rng = np.random.default_rng(0)
    still = rng.integers(0, 256, (1, 112, 112, 1), dtype=np.uint8).repeat(3, axis=3)
    blurred = cv2.GaussianBlur(still[0], (0, 0), 2.0)[None]
    finest = [coded_stills(picture)[..., 1].astype(int).mean() for picture in (still, blurred)]
    assert finest[1] < finest[0] - 50  # two octaves
