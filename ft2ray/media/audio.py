"""Reading speech: any container, any rate, any channel layout, to 16 kHz mono.

Shape suffixes: T audio samples.
"""

from pathlib import Path

import av
import numpy as np

from ft2ray.errors import MediaError
from ft2ray.media.source import local_media

SAMPLE_RATE = 16_000
MIN_SECONDS = 1.0
MAX_SECONDS = 300.0
SILENCE_DBFS = -50.0
"""Below this loudness the loudest part of a recording counts as silence."""

_LOUDNESS_WINDOW = SAMPLE_RATE // 10


def read_audio(path: str | Path, max_seconds: float = MAX_SECONDS) -> np.ndarray:
    """Decode the first sound track of a file.

    Args:
        path: an audio or video file (or its s3:// URL) in any format that FFmpeg reads.
        max_seconds: longer recordings are refused while decoding, before they fill the memory.

    Returns:
        wav_T: float32 in [-1, 1], 16 kHz, mono (channels averaged).

    Raises:
        MediaError: unreadable, no_audio, too_long or not_finite.
    """
    path = local_media(path)
    if not path.is_file():
        raise MediaError("unreadable", f"{path.name}: there is no such file; check the path.")
    if path.stat().st_size == 0:
        raise MediaError("unreadable", f"{path.name} is empty (0 bytes); copy or record it again.")
    if _riff_is_cut(path):
        raise MediaError(
            "truncated", f"{path.name} is shorter than its header says: truncated. Copy it again."
        )
    try:
        wav_T = _decode(path, max_seconds)
    except MediaError:
        raise
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(
            "unreadable",
            f"{path.name} cannot be decoded as sound ({error}); it is truncated or not a recording. "
            "Export it again, for example as WAV or FLAC.",
        ) from error
    if not np.isfinite(wav_T).all():
        raise MediaError(
            "not_finite", f"{path.name} holds NaN or infinite samples; export it again as 16-bit WAV."
        )
    return np.clip(wav_T, -1.0, 1.0)


def _decode(path: Path, max_seconds: float) -> np.ndarray:
    chunks: list[np.ndarray] = []
    samples = 0
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise MediaError("no_audio", f"{path.name} has no sound track; give a file with speech in it.")
        stream = container.streams.audio[0]
        # Keeps the channels. Packed: PyAV reads beyond the end of a frame of eight or more planes.
        resampler = av.AudioResampler(format="flt", rate=SAMPLE_RATE)
        for frame in container.decode(stream):
            for piece in resampler.resample(frame):
                chunks.append(_mono(piece))
                samples += chunks[-1].size
            if samples > (max_seconds + 1.0) * SAMPLE_RATE:
                raise _too_long(path.name, max_seconds)
        chunks += [_mono(piece) for piece in resampler.resample(None)]
        promised = _promised_seconds(container, stream)
    if not chunks:
        raise MediaError(
            "unreadable", f"{path.name} holds no decodable sound; it is truncated. Export it again."
        )
    wav_T = np.concatenate(chunks).astype(np.float32)
    seconds = wav_T.size / SAMPLE_RATE
    if seconds > max_seconds:
        raise _too_long(path.name, max_seconds)
    if promised is not None and seconds < 0.9 * promised - 0.5:
        raise MediaError(
            "truncated",
            f"{path.name} promises {promised:.1f} s of sound but only {seconds:.1f} s can be decoded; "
            "the file is truncated. Copy it again.",
        )
    return wav_T


def _mono(packed: av.AudioFrame) -> np.ndarray:
    return packed.to_ndarray().reshape(packed.samples, -1).mean(axis=1)


def _riff_is_cut(path: Path) -> bool:
    """Whether a WAV file ends before the size in its header: FFmpeg decodes what is there, silently."""
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) < 8 or head[:4] != b"RIFF":
        return False
    size = int.from_bytes(head[4:], "little")
    if size in (0, 0xFFFFFFFF):  # written as a stream, the size was not known
        return False
    return path.stat().st_size < size + 8 - 1024  # some writers count a few bytes too many


def _promised_seconds(container: av.container.InputContainer, stream: av.AudioStream) -> float | None:
    """Length that the header states, where it states one."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    return None


def _too_long(name: str, max_seconds: float) -> MediaError:
    return MediaError(
        "too_long",
        f"{name} is longer than the limit of {max_seconds:g} s; cut it, or raise the limit in the config.",
    )


def check_speech(
    wav_T: np.ndarray,
    name: str = "the recording",
    min_seconds: float = MIN_SECONDS,
    max_seconds: float = MAX_SECONDS,
) -> None:
    """Refuse a recording that no clip can be made from.

    Raises:
        MediaError: not_finite, too_short, too_long or silence.
    """
    seconds = wav_T.size / SAMPLE_RATE
    if not np.isfinite(wav_T).all():
        raise MediaError(
            "not_finite", f"{name} holds NaN or infinite samples; export it again as 16-bit WAV."
        )
    if seconds < min_seconds:
        raise MediaError(
            "too_short",
            f"{name} lasts {seconds:.2f} s; at least {min_seconds:g} s of speech are needed. Record more.",
        )
    if seconds > max_seconds:
        raise _too_long(name, max_seconds)
    if active_dbfs(wav_T) < SILENCE_DBFS:
        raise MediaError(
            "silence",
            f"{name} is silent ({active_dbfs(wav_T):.0f} dBFS at its loudest); "
            "record again with the microphone switched on, or raise the level.",
        )


def active_dbfs(wav_T: np.ndarray) -> float:
    """Loudness of the active part: the 95th percentile of the RMS of 0.1 s windows, in dB of full scale.

    The constant offset of a badly built microphone is not sound, so it is taken off first.
    """
    if wav_T.size == 0:
        return -200.0
    centred_T = wav_T.astype(np.float64) - wav_T.mean(dtype=np.float64)
    window = min(_LOUDNESS_WINDOW, centred_T.size)
    windows = centred_T[: centred_T.size // window * window].reshape(-1, window)
    rms = np.sqrt(np.mean(windows**2, axis=1))
    return float(20.0 * np.log10(max(np.percentile(rms, 95), 1e-10)))


def slice_clips(wav_T: np.ndarray, seconds: float, hop: float) -> list[int]:
    """Where clips of `seconds` start, every `hop` seconds, each wholly inside the recording.

    Returns:
        starts: sample indices. A recording shorter than one clip gives none.
    """
    if seconds <= 0 or hop <= 0:
        raise ValueError(
            f"clip length and hop must be positive, got {seconds=} {hop=}; give both in seconds."
        )
    length, step = round(seconds * SAMPLE_RATE), max(round(hop * SAMPLE_RATE), 1)
    return list(range(0, wav_T.size - length + 1, step))
