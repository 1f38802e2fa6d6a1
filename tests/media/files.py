"""Small sound files of every kind, written by the tests."""

import io
import struct

import av
import numpy as np

SAMPLE_RATE = 16_000

KINDS = {  # name -> FFmpeg's muxer, codec, rate
    "wav": ("wav", "pcm_s16le", 16_000),
    "w64": ("w64", "pcm_s16le", 16_000),
    "aiff": ("aiff", "pcm_s16be", 16_000),
    "au": ("au", "pcm_s16be", 16_000),
    "caf": ("caf", "pcm_s16be", 16_000),
    "flac": ("flac", "flac", 16_000),
    "mp3": ("mp3", "libmp3lame", 16_000),
    "opus": ("ogg", "libopus", 48_000),
    "aac": ("adts", "aac", 16_000),
    "m4a": ("mp4", "aac", 16_000),
    "webm": ("webm", "libopus", 48_000),
    "mkv": ("matroska", "pcm_s16le", 16_000),
    "avi": ("avi", "pcm_s16le", 16_000),
}


def tone(seconds: float, rate: int = SAMPLE_RATE, level: float = 0.3, hertz: float = 440.0) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(channels: np.ndarray, muxer: str, codec: str, rate: int, **options: str) -> bytes:
    """A file of sound; channels [channels, T] float32 at `rate`."""
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    file = io.BytesIO()
    with av.open(file, "w", format=muxer, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate = rate
        frame.pts = 0
        resampler = av.AudioResampler(format=stream.codec_context.format.name, layout=layout, rate=rate)
        queue = av.AudioFifo()
        for piece in resampler.resample(frame):
            queue.write(piece)
        while (piece := queue.read(stream.codec_context.frame_size or 4096, partial=True)) is not None:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return file.getvalue()


def sound(kind: str, seconds: float = 2.0) -> bytes:
    """A tone of 440 Hz in one of `KINDS`."""
    muxer, codec, rate = KINDS[kind]
    return encode(tone(seconds, rate)[None], muxer, codec, rate)


def float_wav(channels: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """A WAV of 32-bit floats, as they are; channels [channels, T]."""
    samples = np.ascontiguousarray(channels.T, "<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, len(channels), rate, 4 * len(channels) * rate, 4 * len(channels), 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body
