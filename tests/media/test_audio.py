import subprocess
import sys
import wave

import numpy as np
import pytest

from ft2ray.errors import MediaError
from ft2ray.media.audio import SAMPLE_RATE, active_dbfs, check_speech, read_audio
from tests.media.files import encode, tone


def save(path, channels: np.ndarray, rate: int, codec: str) -> None:
    muxer = {".m4a": "mp4"}.get(path.suffix, path.suffix[1:])
    path.write_bytes(encode(channels, muxer, codec, rate))


def reason(call, *args, **kwargs) -> str:
    with pytest.raises(MediaError) as caught:
        call(*args, **kwargs)
    assert len(str(caught.value)) > 20 and str(caught.value).rstrip().endswith(".")
    return caught.value.reason


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 44100),
        ("a.flac", "flac", 16000),
        ("a.mp4", "aac", 48000),
        ("a.mp3", "libmp3lame", 44100),
    ],
)
def test_any_container_becomes_16_khz_mono(tmp_path, name, codec, rate):
    wave = tone(2.0, rate)
    save(tmp_path / name, np.stack([wave, np.zeros_like(wave)]), rate, codec)
    wav_T = read_audio(tmp_path / name)
    assert wav_T.dtype == np.float32
    assert abs(wav_T.size / SAMPLE_RATE - 2.0) < 0.1
    middle_T = wav_T[8000:24000]
    spectrum = np.abs(np.fft.rfft(middle_T))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2)  # 1 Hz bins
    assert np.abs(middle_T).max() == pytest.approx(0.15, rel=0.15)  # mean of the two channels


@pytest.mark.parametrize("channels", [6, 8, 64])
def test_any_number_of_channels_is_averaged(tmp_path, channels):
    """In a process of its own: PyAV's planes of eight channels end in a segmentation fault."""
    samples_TC = np.zeros((16000, channels), np.int16)
    samples_TC[:, -1] = 8000
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((channels, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples_TC.tobytes())
    script = (
        f"from ft2ray.media.audio import read_audio; print(read_audio({str(tmp_path / 'a.wav')!r}).mean())"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == 0, ended
    assert float(ended.stdout) == pytest.approx(8000 / 32768 / channels, rel=0.01)


def test_broken_files_are_named(tmp_path):
    good = tmp_path / "good.flac"
    save(
        good,
        tone(4.0)[None] + 0.01 * np.random.default_rng(0).standard_normal((1, 64000), np.float32),
        16000,
        "flac",
    )
    (tmp_path / "cut.flac").write_bytes(good.read_bytes()[: good.stat().st_size // 3])
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("this is not sound\n" * 50)
    assert 1.0 < read_audio(tmp_path / "cut.flac").size / SAMPLE_RATE < 4 / 3  # what is there
    assert reason(read_audio, tmp_path / "empty.wav") == "unreadable"
    assert reason(read_audio, tmp_path / "text.wav") == "unreadable"
    assert reason(read_audio, tmp_path / "absent.wav") == "unreadable"


def test_video_without_sound_is_named(tmp_path):
    from ft2ray.media.video import write_video

    write_video(tmp_path / "silent.mp4", np.zeros((5, 64, 64, 3), np.uint8), 25, None)
    assert reason(read_audio, tmp_path / "silent.mp4") == "no_audio"


def test_nan_samples_are_named(tmp_path):
    wave = tone(2.0)
    wave[100:200] = np.nan
    save(tmp_path / "nan.wav", wave[None], 16000, "pcm_f32le")
    assert reason(read_audio, tmp_path / "nan.wav") == "not_finite"
    assert reason(check_speech, wave) == "not_finite"


def test_long_recordings_stop_at_the_limit(tmp_path):
    save(tmp_path / "long.wav", tone(10.0)[None], 16000, "pcm_s16le")
    assert reason(read_audio, tmp_path / "long.wav", max_seconds=3.0) == "too_long"
    assert read_audio(tmp_path / "long.wav", max_seconds=10.0).size == 160_000


def test_speech_check_tells_what_is_wrong():
    check_speech(tone(2.0))
    assert reason(check_speech, tone(0.1)) == "too_short"
    assert reason(check_speech, np.zeros(0, np.float32)) == "too_short"
    assert reason(check_speech, tone(600.0)) == "too_long"
    assert reason(check_speech, np.zeros(32000, np.float32)) == "silence"
    assert reason(check_speech, np.full(32000, 0.4, np.float32)) == "silence"  # an offset is not sound
    assert reason(check_speech, tone(2.0, level=1e-3)) == "silence"


def test_a_short_word_in_a_long_pause_is_not_silence():
    wav_T = np.zeros(5 * SAMPLE_RATE, np.float32)
    wav_T[16000:24000] = tone(0.5)
    check_speech(wav_T)
    assert active_dbfs(wav_T) > -15
