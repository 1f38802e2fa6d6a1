"""Sizes in headers are hints: placeholders of pipes, wrong sizes, several files in one, bytes that follow."""

import logging
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.media.audio import SAMPLE_RATE, read_audio
from tests.media.files import float_wav, sound, tone

SIZES = {  # kind -> where its sizes are: a chunk's name, offset from it, struct format
    "wav": [(b"data", 4, "<I"), (b"RIFF", 4, "<I")],
    "aiff": [(b"SSND", 4, ">I"), (b"FORM", 4, ">I")],
    "au": [(b".snd", 8, ">I")],
    "w64": [(b"data", 16, "<Q"), (b"riff", 16, "<Q")],
    "caf": [(b"data", 4, ">Q")],
}
PLACEHOLDERS = [0, 1, 1000, 0x7FFFF024, 0x7FFFFFFF, 0x80000024, 2_000_000_036, 0xFFFFFFFF]


def with_size(file: bytes, kind: str, value: int, only: int | None = None) -> bytes:
    changed = bytearray(file)
    for index, (name, offset, form) in enumerate(SIZES[kind]):
        if only in (None, index):
            limit = (1 << 8 * struct.calcsize(form)) - 1
            at = changed.index(name) + offset
            struct.pack_into(form, changed, at, limit if value == 0xFFFFFFFF else value)
    return bytes(changed)


def read(tmp_path, file: bytes) -> np.ndarray:
    (tmp_path / "a").write_bytes(file)
    return read_audio(tmp_path / "a")


@pytest.mark.parametrize("kind", SIZES)
def test_what_a_file_holds_counts_whatever_sizes_its_header_states(tmp_path, kind):
    file = sound(kind)
    right_T = read(tmp_path, file)
    assert right_T.size == 2 * SAMPLE_RATE
    for value in PLACEHOLDERS:
        for only in range(len(SIZES[kind])):
            np.testing.assert_array_equal(read(tmp_path, with_size(file, kind, value, only)), right_T)


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("value", [None, 0, 0xFFFFFFFF])
def test_files_that_were_joined_are_all_read(tmp_path, kind, value, caplog):
    parts = [sound(kind, seconds) for seconds in (1.0, 1.5, 0.5)]
    if value is not None:
        parts = [with_size(part, kind, value) for part in parts]
    wav_T = read(tmp_path, b"".join(parts))
    assert wav_T.size == 3 * SAMPLE_RATE
    assert "3 files one after the other; all are read" in caplog.text
    np.testing.assert_allclose(wav_T[SAMPLE_RATE + 100 : SAMPLE_RATE + 1700], wav_T[100:1700], atol=1e-4)


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "caf", "w64", "flac", "mp3", "opus", "aac", "mkv"])
@pytest.mark.parametrize("tail", [b'{"error": "quota exceeded"}' * 9, bytes(5000), b"TAG" + b" " * 125])
def test_bytes_that_follow_are_no_sound(tmp_path, kind, tail):
    file = sound(kind)
    assert abs(read(tmp_path, file + tail).size - read(tmp_path, file).size) < 0.03 * SAMPLE_RATE


def test_samples_behind_a_size_that_is_too_small_are_read_and_said(tmp_path, caplog):
    file = with_size(sound("wav"), "wav", 8000, only=0)
    assert read(tmp_path, file).size == 2 * SAMPLE_RATE
    assert "the 56000 that follow are read too" in caplog.text


def test_a_recording_that_was_cut_off_is_read_to_its_end_and_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, sound("wav", 4.0)[:64_078]).size == 2 * SAMPLE_RATE
    assert "states 128000 bytes of sound and holds 64000" in caplog.text


def test_rf64_and_bw64_are_read(tmp_path):
    wav = sound("wav")
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, 0, 0, 0)
    for magic in (b"RF64", b"BW64"):
        for size in (0, 0xFFFFFFFF):
            file = magic + b"\xff\xff\xff\xffWAVE" + sizes + wav[12:]
            at = file.index(b"data") + 4
            file = file[:at] + struct.pack("<I", size) + file[at + 4 :]
            assert read(tmp_path, file).size == 2 * SAMPLE_RATE


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_no_size_loses_a_sample(tmp_path_factory, values, copies):
    file = with_size(with_size(float_wav(tone(0.5)[None]), "wav", values[0], 0), "wav", values[1], 1)
    lost = copies * SAMPLE_RATE // 2 - read(tmp_path_factory.mktemp("size"), file * copies).size
    assert 0 <= lost <= 2 * copies  # fewer than the eight bytes of a chunk's header: may be padding
