import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from ft2ray.evaluation.lipsync import (
    MAX_LAG,
    LipCurves,
    correlation,
    fit_ridge,
    score_lips,
    speech_features,
    sync_by_lag,
    with_context,
)


def smooth_noise(frames, seed):
    noise = np.random.default_rng(seed).normal(size=frames + 8)
    return np.convolve(noise, np.ones(9) / 9, mode="valid")


def score(seen, heard):
    """Gap and width alike, and a phone table that hears what the ridges hear."""
    return score_lips(LipCurves(seen, seen), LipCurves(heard, heard), heard)


@given(st.integers(-10, 10), st.integers(0, 50))
def test_lag_is_found_with_its_sign(lag, seed):
    sound = smooth_noise(160, seed)
    mouth = np.roll(sound, lag)  # lag > 0: the mouth is late
    found = score(mouth[20:140], sound[20:140])
    assert found.lag == lag
    assert found.best >= found.score and found.best > 0.5


def test_amplitude_does_not_count():
    sound, mouth = smooth_noise(75, 1), smooth_noise(75, 1) + 0.3 * smooth_noise(75, 2)
    plain, exaggerated = (score(m, sound).score for m in (mouth, 5 * mouth + 3))
    assert exaggerated == pytest.approx(plain)


def test_more_shift_and_more_smoothing_score_less():
    sound = smooth_noise(90, 3)
    shifted = [score(np.roll(sound, shift)[8:83], sound[8:83]).score for shift in (0, 2, 4, 8)]
    smoothed = [score(gaussian_filter1d(sound, sigma), sound).score for sigma in (0.1, 4, 8, 16)]
    assert shifted == sorted(shifted, reverse=True) and shifted[-1] < 0.2 < 0.8 < shifted[0]
    assert smoothed == sorted(smoothed, reverse=True) and smoothed[-1] < smoothed[0] - 0.3


def test_slow_lips_that_fit_every_shift_alike_are_not_in_sync():
    slow = np.sin(np.arange(75) / 75 * np.pi)
    found = score(slow, slow + 0.2 * smooth_noise(75, 1))
    assert found.correlation > 0.9 and found.score < 0.5


def test_in_sync_beats_shifted_and_unrelated():
    sound = smooth_noise(75, 3)
    found = score(sound + 0.5 * smooth_noise(75, 4), sound)
    assert found.score > 0.5 > abs(found.shifted)
    assert abs(score(smooth_noise(300, 5), smooth_noise(300, 6)).score) < 0.35


def test_a_mouth_that_never_moves_has_no_score():
    assert np.isnan(score(np.ones(75), smooth_noise(75, 0)).score)
    assert np.isnan(correlation(np.ones(10), np.arange(10.0)))


def test_short_clips_are_refused_in_words():
    with pytest.raises(ValueError, match="too short"):
        sync_by_lag(np.zeros(30), np.zeros(30))
    assert sync_by_lag(smooth_noise(31, 0), smooth_noise(31, 0))[MAX_LAG] == pytest.approx(1)


def test_ridge_recovers_a_linear_mouth_on_new_sound():
    generator = np.random.default_rng(0)
    direction = generator.normal(size=6)
    clips = [(x, np.roll(x @ direction, 1)) for x in generator.normal(size=(3, 80, 6))]
    ridge = fit_ridge(clips, "mel", context=2, strength=0.01)
    fresh = generator.normal(size=(80, 6))
    assert correlation(ridge.apply(fresh)[2:-2], np.roll(fresh @ direction, 1)[2:-2]) > 0.95


def test_few_and_many_frames_give_the_same_ridge():
    """The two forms of the solution: fewer frames than features, and more."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(40, 8)), generator.normal(size=40)
    wide = np.concatenate([x, np.zeros((40, 40))], axis=1)  # features that say nothing change nothing
    narrow = fit_ridge([(x, y)], "mel", 0, 1.0)
    assert np.allclose(fit_ridge([(wide, y)], "mel", 0, 8 / 48).weights_D[:8], narrow.weights_D)


def test_context_repeats_the_ends():
    context = with_context(np.arange(3.0)[:, None], 1)
    assert context.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


def test_speech_features_have_one_row_per_frame_and_no_mean():
    wav = np.random.default_rng(0).normal(size=16000 * 2).astype(np.float32) * 0.1
    features = speech_features(wav, 50, 25, "mel")
    assert features.shape == (50, 80)
    assert np.abs(features.mean(axis=0)).max() < 1e-9
    with pytest.raises(ValueError, match="mel"):
        speech_features(wav, 50, 25, "loudness")
