import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.speech import FEATURE_WIDTH, SpeechEncoder, encode_speech, window_starts


@given(st.integers(1, 20_000))
def test_windows_reach_the_end_and_overlap_by_two_seconds(steps):
    starts = window_starts(steps)
    assert starts[0] == 0 and starts[-1] < steps <= starts[-1] + 1500
    assert all(b == a + 1400 for a, b in zip(starts, starts[1:], strict=False))


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return SpeechEncoder()


@pytest.mark.parametrize("samples", [0, 1000, 16000, 52777])
def test_fifty_features_a_second_centred(encoder, samples):
    wav_T = np.random.default_rng(0).standard_normal(samples).astype(np.float32) * 0.1
    feat_LD = encoder(wav_T)
    assert feat_LD.shape == (round(samples / SAMPLE_RATE * 50), FEATURE_WIDTH)
    assert feat_LD.dtype == np.float32
    if len(feat_LD):
        np.testing.assert_allclose(feat_LD.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_array_equal(encoder(wav_T), feat_LD)


def test_what_is_remembered_is_what_the_encoder_says_and_nobody_can_change_it(encoder):
    wav_T = np.random.default_rng(2).standard_normal(16000).astype(np.float32) * 0.1
    encode_speech(wav_T)[:] = 7
    np.testing.assert_array_equal(encode_speech(wav_T), encoder(wav_T))


def test_long_recordings_join_without_a_jump(encoder):
    rng = np.random.default_rng(1)
    envelope = np.repeat(rng.uniform(0, 0.3, 400), 1600).astype(np.float32)
    wav_T = envelope * rng.standard_normal(envelope.size).astype(np.float32)  # 40 s: two windows
    feat_LD = encoder(wav_T)
    assert len(feat_LD) == 2000
    steps_L = np.linalg.norm(np.diff(feat_LD, axis=0), axis=1)
    assert steps_L[1390:1510].max() < np.percentile(steps_L[:1390], 99.9)
    alone_LD = encoder(wav_T[: 25 * SAMPLE_RATE])  # one window over the same sound
    agree = [np.corrcoef(a, b)[0, 1] for a, b in zip(feat_LD[100:1150], alone_LD[100:1150], strict=True)]
    assert np.median(agree) > 0.9
