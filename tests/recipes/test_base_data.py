"""Training clips of the base: which media may be used, and that sound and motion stay in step."""

import numpy as np
import pytest

from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.speech import FRAME_SAMPLES
from ft2ray.media.video import FPS
from recipes.embedded.base_data import (
    Filmed,
    change_speed,
    close_in_silence,
    enliven,
    level_speakers,
    speaking,
    training_media,
)
from recipes.embedded.base_speech import (
    MotionBank,
    blink_track,
    find_blinks,
    head_track,
    lip_noise,
    with_pause,
)
from studies.make_split import read_split

BASIS = MotionBasis.load()


ROWS = {"clips/a.mp4": "train", "clips/b.mp4": "train", "speech/c.flac": "train", "speech/d.wav": "measure"}
SPLIT = {"clips/a.mp4": "base,train", "clips/b.mp4": "judges,train", "speech/c.flac": "base,train"}


def write_lists(folder, changes=None):
    """A manifest and a split, the manifest with other rows; returns the path of the split."""
    rows = ROWS | (changes or {})
    lines = [f"{file},{use}" for file, use in rows.items() if use]
    (folder / "manifest.csv").write_text("\n".join(["file,use", *lines]) + "\n")
    lines = [f"{file},someone,{role}" for file, role in SPLIT.items()]
    (folder / "split.csv").write_text("\n".join(["file,person,role,split", *lines]) + "\n")
    return folder / "split.csv"


def test_only_people_of_the_base_are_taken(tmp_path):
    clips, speech = training_media(tmp_path, write_lists(tmp_path))
    assert [path.name for path in clips] == ["a.mp4"]
    assert [path.name for path in speech] == ["c.flac"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"clips/a.mp4": "measure"}, "use=measure"), ({"clips/a.mp4": None}, "does not list clips/a.mp4")],
)
def test_media_of_other_use_are_refused(tmp_path, changes, message):
    split = write_lists(tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        training_media(tmp_path, split)


def test_the_committed_split_keeps_the_judges_people_out_of_the_base():
    people = {row["person"]: row["role"] for row in read_split()}
    assert people["grid_s1"] == "judges" and "base" in people.values()


def test_no_manifest(tmp_path):
    with pytest.raises(ValueError, match="manifest.csv"):
        training_media(tmp_path)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_change_of_speed_keeps_sound_and_motion_in_step(factor):
    """A click and a spike at the same moment stay together."""
    wav_T, x_CF = np.zeros(75 * FRAME_SAMPLES, np.float32), np.zeros((2, 75), np.float32)
    wav_T[40 * FRAME_SAMPLES : 41 * FRAME_SAMPLES] = 1.0
    x_CF[:, 40] = 1.0
    fast_T, fast_CF = change_speed(wav_T, x_CF, factor)
    assert len(fast_T) == fast_CF.shape[1] * FRAME_SAMPLES
    heard = np.argmax(fast_T.reshape(-1, FRAME_SAMPLES).sum(axis=1))
    assert abs(heard - np.argmax(fast_CF[0])) <= 1
    assert abs(heard - 40 / factor) <= 1


def test_lips_close_in_silence_and_stay_free_in_speech():
    rng = np.random.default_rng(0)
    wav_T = np.zeros(75 * FRAME_SAMPLES, np.float32)
    wav_T[30 * FRAME_SAMPLES : 45 * FRAME_SAMPLES] = 0.1 * rng.standard_normal(15 * FRAME_SAMPLES)
    x_CF = rng.standard_normal((BASIS.channels, 75)).astype(np.float32)
    out_CF = close_in_silence(x_CF, wav_T, BASIS)
    far = [*range(20), *range(60, 75)]
    lips, wanted = out_CF[BASIS.mouth], x_CF[BASIS.mouth]
    closed = BASIS.rest_C[BASIS.mouth, None].repeat(35, 1)
    np.testing.assert_allclose(lips[:, far], closed, atol=1e-3)
    np.testing.assert_allclose(lips[:, 34:42], wanted[:, 34:42], atol=0.05)
    np.testing.assert_array_equal(out_CF[BASIS.upper], x_CF[BASIS.upper])
    assert speaking(np.zeros(10 * FRAME_SAMPLES, np.float32)).max() == 0


def test_speakers_are_levelled_about_the_closed_mouth():
    rng = np.random.default_rng(1)
    rest_C1 = BASIS.rest_C[:, None]
    swing = rng.standard_normal((BASIS.channels, 75)).astype(np.float32)
    quiet = Filmed("a", np.zeros(0), rest_C1 + 0.5 * swing)
    loud = Filmed("b", np.zeros(0), rest_C1 + 2 * swing)
    a, b = level_speakers([quiet, loud], BASIS)
    np.testing.assert_allclose(a.x_CF[BASIS.mouth], b.x_CF[BASIS.mouth], atol=1e-4)
    np.testing.assert_array_equal(a.x_CF[BASIS.pose], quiet.x_CF[BASIS.pose])


def bank(rng) -> MotionBank:
    steps = [rng.standard_normal((BASIS.channels, 75)).astype(np.float32) for _ in range(3)]
    tracks = [0.1 * step.cumsum(axis=1) for step in steps]
    blink = np.concatenate([np.linspace(0, 5, 4), np.linspace(5, 0, 9)]).astype(np.float32)
    residuals = [rng.standard_normal((12, 75)).astype(np.float32)]
    return MotionBank(tracks, [blink], residuals, float(BASIS.rest_C[BASIS.lid]))


def test_blinks_are_found_as_single_closings():
    lid_F = np.full(75, BASIS.rest_C[BASIS.lid], np.float32)
    shut = (1.0 - BASIS.mean_C[BASIS.lid]) / BASIS.std_C[BASIS.lid] - lid_F[0]
    lid_F[20:33] += shut * np.concatenate([[0.2, 0.8, 1, 1], np.linspace(0.8, 0, 9)])
    lid_F[40:60] += 0.2 * shut  # narrowed eyes are no blink
    found = find_blinks(lid_F, BASIS)
    assert len(found) == 1 and len(found[0]) == 13
    assert found[0].max() == pytest.approx(shut, rel=0.1) and found[0][0] == found[0][-1] == 0


def test_blinks_come_at_a_natural_rate():
    rng = np.random.default_rng(0)
    lid_F = np.concatenate([blink_track(bank(rng), 90, rng) for _ in range(60)])
    shut_F = lid_F > BASIS.rest_C[BASIS.lid] + 2.5
    per_minute = (shut_F[1:] & ~shut_F[:-1]).sum() / len(lid_F) * FPS * 60
    assert 12 < per_minute < 30


def test_heads_move_visibly_and_smoothly():
    rng = np.random.default_rng(0)
    for _ in range(10):
        pose = head_track(bank(rng), rng.random(90), BASIS, rng)[BASIS.pose]
        degrees = np.degrees(BASIS.std_C[BASIS.pose][:3, None] * pose[:3])
        assert 0.5 < np.sqrt(degrees.var(axis=1).sum()) < 6.0
        np.testing.assert_allclose(pose.mean(axis=1), 0, atol=1e-4)


def test_a_still_head_is_not_blown_up_without_bound():
    rng = np.random.default_rng(0)
    still = 1e-4 * rng.standard_normal((6, 75)).astype(np.float32)
    assert np.abs(enliven(still, BASIS, rng)).max() < 0.01


def test_lip_noise_has_the_length_asked_for():
    rng = np.random.default_rng(0)
    for frames in (10, 75, 400):
        assert lip_noise(bank(rng), frames, rng).shape == (12, frames)


def test_a_pause_is_silent_and_keeps_the_length():
    rng = np.random.default_rng(0)
    wav_T = rng.standard_normal(90 * FRAME_SAMPLES).astype(np.float32)
    paused = with_pause(wav_T, rng)
    silent = (np.abs(paused.reshape(90, -1)).max(axis=1) == 0).sum()
    assert len(paused) == len(wav_T) and 12 <= silent <= 38
