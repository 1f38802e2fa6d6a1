"""Typed text becomes speech, or one sentence says why not."""

import pytest

from ft2ray.errors import UserError
from ft2ray.media import flite
from ft2ray.media.audio import SAMPLE_RATE, check_speech, read_audio

TEXT = "The quick brown fox jumps over the lazy dog, and then it sleeps."


@pytest.fixture
def program():
    if not flite.available():
        pytest.skip("needs the program flite (apt-get install flite)")


@pytest.mark.slow  # it starts a process
@pytest.mark.parametrize("voice", flite.VOICES)
def test_text_becomes_speech_that_the_generator_takes(program, tmp_path, voice):
    flite.spoken(TEXT, voice, tmp_path / "a.wav")
    wav_T = read_audio(tmp_path / "a.wav")
    check_speech(wav_T, "a.wav")
    assert 2 * SAMPLE_RATE < len(wav_T) < 8 * SAMPLE_RATE


@pytest.mark.slow
def test_a_text_that_looks_like_an_option_is_said(program, tmp_path):
    flite.spoken("-voice none — --help; $(touch x) `id` isn’t", "slt", tmp_path / "a.wav")
    assert len(read_audio(tmp_path / "a.wav")) > SAMPLE_RATE


@pytest.mark.parametrize(
    "text, voice, says",
    [
        (" \n.,;", "slt", "nothing to say"),
        ("a" * 2001, "slt", "2001 characters, 2000 at most"),
        ("schöne Grüße", "slt", "English only, and the text holds 'ö'"),
        ("null\0byte", "slt", "English only"),
        ("hello", "../x", "no voice '../x'; take one of slt, rms"),
    ],
)
def test_what_cannot_be_said_is_one_sentence(monkeypatch, tmp_path, text, voice, says):
    monkeypatch.setattr(flite, "available", lambda: True)
    with pytest.raises(UserError, match=says):
        flite.spoken(text, voice, tmp_path / "a.wav")


def test_without_the_program_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(flite.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs the program flite; install it"):
        flite.spoken(TEXT, "slt", tmp_path / "a.wav")
