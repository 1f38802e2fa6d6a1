"""Decoding a sound track to 16 kHz mono, every sample at its time.

Shape suffixes: T audio samples, C channels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import av
import numpy as np
from av.container import InputContainer

from ft2ray.errors import MediaError
from ft2ray.media.packets import RAW, frames

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
SAMPLE_RATES = (4_000, 768_000)
"""Lowest and highest rate that is read; a block of 4 Hz grows to gigabytes when it is resampled."""
MAX_BLOCK_SECONDS = 30.0
"""Longest frame of sound that is read: a codec decodes it as a whole."""
GAP_SECONDS = 0.04
"""Timestamps that differ less from where the samples before them end are rounding and jitter."""

MAX_MISSING = 0.5
"""Seconds of gaps in all that are not worth a word."""

_RESTART_SECONDS = 0.5  # times that jump back further begin anew: files that were joined
_CANCELS = 0.25  # power of the channels' mean, of what it would be if they were independent
_CANCELLED_SHARE = 0.1  # of the power, in stretches where the channels cancel each other


@dataclass
class Track:
    """Mono sound as it is decoded.

    pieces: (first sample, wav_T), those that overlap earlier ones take their place.
    power_C: of each channel; all_power and cancelled_power tell whether they cancel each other.
    missing: seconds between its pieces.
    integral: whether every sample of a float track is an integer, as of 16-bit samples not scaled to +-1.
    """

    pieces: list[tuple[int, np.ndarray]] = field(default_factory=list)
    end: int = 0
    power_C: np.ndarray = field(default_factory=lambda: np.zeros(0))
    all_power: float = 0.0
    cancelled_power: float = 0.0
    missing: float = 0.0
    integral: bool = True

    def add(self, at: int, samples_TC: np.ndarray, channel: int | None) -> None:
        """Append sound from sample `at` on: the mean of its channels, or one of them."""
        channels = samples_TC.shape[1]
        mono_T = (
            samples_TC.mean(axis=1) if channel is None else samples_TC[:, min(channel, channels - 1)].copy()
        )
        self.pieces.append((at, mono_T))
        self.end = max(self.end, at + mono_T.size)
        power_C = samples_TC.var(axis=0, dtype=np.float64) * len(samples_TC)
        self.power_C = np.pad(self.power_C, (0, max(channels - self.power_C.size, 0)))
        self.power_C[:channels] += power_C
        mean_power = float(samples_TC.mean(axis=1).var(dtype=np.float64)) * len(samples_TC)
        independent = float(power_C.sum()) / channels**2
        self.all_power += independent
        self.cancelled_power += independent if mean_power < _CANCELS * independent else 0.0

    @property
    def cancels(self) -> bool:
        """Whether the channels' mean loses, in a part of the track, what the channels hold."""
        return self.cancelled_power > _CANCELLED_SHARE * self.all_power

    def wav_T(self) -> np.ndarray:
        wav_T = np.zeros(max(self.end, 0), np.float32)
        for at, piece_T in self.pieces:
            piece_T = piece_T[max(-at, 0) :]
            wav_T[max(at, 0) : max(at, 0) + piece_T.size] = piece_T
        return wav_T


def decode_track(
    container: InputContainer,
    stream: av.AudioStream,
    name: str,
    max_seconds: float,
    origin: float | None,
    channel: int | None,
) -> Track:
    """Decode a track.

    Args:
        container: an open file.
        stream: its track.
        name: what messages call the file.
        max_seconds: more is refused while decoding.
        origin: the time, in seconds of the container, that is sample 0; None for the first sample's.
        channel: the channel to take; None for the mean of all.

    Raises:
        MediaError: too_long, sample_rate, or what `frames` raises.
    """
    track = Track()
    resampler, form, clocked = None, None, True
    start, fed, shift = 0.0, 0.0, 0.0  # of this stretch of sound, in seconds from sample 0 on
    at = 0  # where the resampler's next sample goes
    for frame in frames(container, stream, name):
        if not SAMPLE_RATES[0] <= frame.sample_rate <= SAMPLE_RATES[1]:
            raise MediaError(
                "sample_rate",
                f"{name} has {frame.sample_rate} samples a second; export it with 16,000 to 48,000.",
            )
        if frame.samples > MAX_BLOCK_SECONDS * frame.sample_rate:
            raise too_long(name, max_seconds)
        if frame.format.name in ("flt", "dbl"):
            track.integral &= _integral(frame)
        elif frame.format.name in ("fltp", "dblp"):
            track.integral = False
        if container.format.name in RAW and form not in (None, _form(frame)):
            clocked = False  # its times count in frames of the first form
        time = start + fed
        if clocked and frame.time is not None:
            origin = float(frame.time) if origin is None else origin
            time = float(frame.time) - origin + shift
        late = time - (start + fed)
        first = resampler is None
        if late < -_RESTART_SECONDS and not first:
            log.warning("%s: its times begin anew after %.1f s; both parts are read", name, start + fed)
            shift, late = shift - late, 0.0
        moved = abs(late) > (0.0 if first else GAP_SECONDS)
        if moved and not first:
            track.missing += max(late, 0.0)
        if moved and late > max_seconds + 1.0:
            raise too_long(name, max_seconds)
        if moved or form != _form(frame):
            if resampler is not None:
                _drain(resampler, track, at, channel)
            # Keeps the channels. Packed: PyAV reads beyond the end of a frame of eight or more planes.
            resampler, form = av.AudioResampler(format="flt", rate=SAMPLE_RATE), _form(frame)
            start, fed = (start + fed + late if moved else start + fed), 0.0
            at = round(start * SAMPLE_RATE)
        assert resampler is not None
        fed += frame.samples / frame.sample_rate
        for piece in resampler.resample(frame):
            track.add(at, _samples(piece), channel)
            at += piece.samples
        if track.end > (max_seconds + 1.0) * SAMPLE_RATE:
            raise too_long(name, max_seconds)
    if resampler is not None:
        _drain(resampler, track, at, channel)
    if track.missing > MAX_MISSING:
        log.warning("%s: %.1f s of its sound are missing; silence stands for them", name, track.missing)
    return track


def _drain(resampler: av.AudioResampler, track: Track, at: int, channel: int | None) -> None:
    for piece in resampler.resample(None):
        track.add(at, _samples(piece), channel)
        at += piece.samples


def _samples(packed: av.AudioFrame) -> np.ndarray:
    return packed.to_ndarray().reshape(packed.samples, -1)


def _form(frame: av.AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate


def _integral(frame: av.AudioFrame) -> bool:
    samples = frame.to_ndarray()
    return bool((samples == np.round(samples)).all())


def in_range(wav_T: np.ndarray, integral: bool, name: str) -> np.ndarray:
    """Float samples in [-1, 1].

    A few that lie outside are clipped, as players do. Where many do, samples were stored as integers without
    dividing by 32,768 (or 2**23, 2**31): this is made good. Recordings up to 12 dB too loud are turned down.

    Raises:
        MediaError: not_finite or out_of_range.
    """
    if not np.isfinite(wav_T).all():
        raise MediaError(
            "not_finite", f"{name} holds NaN or infinite samples; export it again as 16-bit WAV."
        )
    over = float((np.abs(wav_T) > 1.0).mean()) if wav_T.size else 0.0
    if over <= 1e-3:
        return np.clip(wav_T, -1.0, 1.0)
    peak = float(np.abs(wav_T).max())
    for bits in (15, 23, 31):
        # Quieter than 1/64 of a scale would be guesswork, unless the samples are integers.
        if 2.0 ** (bits - 6) < peak <= 1.01 * 2.0**bits or (integral and peak <= 2.0**bits):
            log.warning("%s: its samples are integers of %d bits stored as floats; scaled", name, bits + 1)
            return np.clip(wav_T / np.float32(2.0**bits), -1.0, 1.0)
    if peak <= 4.0:
        log.warning("%s: %.0f %% of its samples are beyond full scale; turned down", name, 100 * over)
        return wav_T / np.float32(peak)
    raise MediaError(
        "out_of_range",
        f"{name} holds samples up to {peak:.3g}, not from -1 to 1; export it again as 16-bit WAV.",
    )


def too_long(name: str, max_seconds: float) -> MediaError:
    return MediaError(
        "too_long",
        f"{name} is longer than the limit of {max_seconds:g} s; cut it, or raise the limit in the config.",
    )
