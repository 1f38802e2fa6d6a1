"""Reading and checking speech: any container, any rate, any channel layout, to 16 kHz mono.

Shape suffixes: T audio samples.
"""

import logging
from pathlib import Path

import numpy as np
from av.container import InputContainer

from ft2ray.errors import MediaError
from ft2ray.media.containers import decoding, opened_parts, require_content
from ft2ray.media.packets import check_length, main_track
from ft2ray.media.sound import SAMPLE_RATE, decode_track, in_range, too_long
from ft2ray.media.source import local_media

log = logging.getLogger(__name__)

MIN_SECONDS = 1.0
MAX_SECONDS = 300.0
SILENCE_DBFS = -50.0
"""Below this loudness the loudest part of a recording counts as silence."""

_LOUDNESS_WINDOW = SAMPLE_RATE // 10


def read_audio(path: str | Path, max_seconds: float = MAX_SECONDS, origin: float | None = None) -> np.ndarray:
    """Decode the sound track that a player would play, every sample at its time; gaps are silence.

    Args:
        path: an audio or video file (or its s3:// URL) in one of the formats of `ft2ray.media.containers`.
        max_seconds: longer recordings are refused while decoding, before they fill the memory.
        origin: the time of the container, in seconds, that is sample 0. None for the start of the file: that
            of its pictures or its sound, whichever comes first, and of each where several files are joined
            in one.

    Returns:
        wav_T: float32 in [-1, 1], 16 kHz, mono: the mean of the channels, or the loudest one where they
            cancel each other.

    Raises:
        MediaError: unreadable, no_audio, too_long, truncated, damaged, too_complex, sample_rate, out_of_range
            or not_finite.
    """
    path = local_media(path)
    require_content(path)
    with decoding(path.name, "sound"):
        wav_T, loudest = _decode(path, max_seconds, origin, None)
        if loudest is not None:
            log.warning("%s: its channels cancel each other; channel %d is taken", path.name, loudest + 1)
            wav_T, _ = _decode(path, max_seconds, origin, loudest)
    return wav_T


def _decode(
    path: Path, max_seconds: float, origin: float | None, channel: int | None
) -> tuple[np.ndarray, int | None]:
    """wav_T of all parts of a file, and the channel to take instead where the channels cancel each other."""
    waves, integral, cancels, power_C = [], True, False, np.zeros(1)
    about_parts = "all are read" if origin is None and channel is None else ""
    for container in opened_parts(path, "sound", about_parts):
        stream = main_track(container, "audio")
        if stream is None:
            raise MediaError("no_audio", f"{path.name} has no sound track; give a file with speech in it.")
        begins = _start(container) if origin is None else origin
        track = decode_track(container, stream, path.name, max_seconds, begins, channel)
        waves.append(track.wav_T())
        integral &= track.integral
        cancels |= track.cancels
        power_C = track.power_C
        check_length(container, stream, waves[-1].size / SAMPLE_RATE, path.name)
        if sum(wave.size for wave in waves) > max_seconds * SAMPLE_RATE:
            raise too_long(path.name, max_seconds)
        if origin is not None:  # the sound of a film, of which the first part is shown
            break
    wav_T = np.concatenate(waves)
    if not wav_T.size:
        raise MediaError(
            "unreadable", f"{path.name} holds no decodable sound; it is truncated. Export it again."
        )
    loudest = int(power_C.argmax()) if cancels and channel is None else None
    return in_range(wav_T, integral, path.name), loudest


def _start(container: InputContainer) -> float | None:
    """When a film begins; None for a recording, which begins with its first sample."""
    pictures = main_track(container, "video")
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in (pictures, main_track(container, "audio"))
        if stream is not None and stream.start_time is not None and stream.time_base is not None
    ]
    return min(starts, default=None) if pictures is not None else None


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
        raise too_long(name, max_seconds)
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
