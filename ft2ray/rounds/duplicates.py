"""Whether two files hold the same recording, or the same picture, whatever their encodings.

A lossy encoder changes every sample, shifts a sound by some milliseconds and fills its end up; a quieter copy
is still the same recording. What stays is how the energy of a few bands moves from one twentieth of a second
to the next, and, of a picture, its brightness at 16 x 16 points. Without this, one recording as FLAC and as
MP3 would lie on both sides of the split.

Shapes: T samples, F frames of FRAME_SECONDS, B bands, P points of a picture.
"""

from __future__ import annotations

import numpy as np

from ft2ray.media.audio import SAMPLE_RATE

FRAME_SECONDS = 0.05
BANDS_HZ = (100, 300, 600, 1200, 2400, 4000)  # speech; lossy encoders drop what lies above
LAGS = 3  # frames that an encoder may shift the sound by
SAME_LENGTH = 4  # frames that it may add or lose
# Least correlations. MP3, AAC and Opus at 24 to 64 kbit/s keep 0.998 and more of a recording, different ones
# have 0.58 with each other at most; JPEG of quality 30 keeps 0.996 of a cropped portrait, 60 portraits have
# 0.87 with each other at most.
SAME_SOUND, SAME_PICTURE = 0.9, 0.98
POINTS = 16
QUIET = 1e-4  # of the loudest power: below it an encoder may write what it likes


def sound_print(wav_T: np.ndarray) -> np.ndarray:
    """Log power of the bands, frame by frame: [B, F]."""
    width = round(FRAME_SECONDS * SAMPLE_RATE)
    frames_FT = wav_T[: len(wav_T) // width * width].reshape(-1, width)
    power_FK = np.abs(np.fft.rfft(frames_FT * np.hanning(width), axis=1)) ** 2
    edges = np.searchsorted(np.fft.rfftfreq(width, 1 / SAMPLE_RATE), BANDS_HZ)
    power_BF = np.stack([power_FK[:, a:b].sum(1) for a, b in zip(edges[:-1], edges[1:], strict=True)])
    return np.log(power_BF + QUIET * power_BF.max() + 1e-12)


def same_sound(a_BF: np.ndarray, b_BF: np.ndarray) -> bool:
    """Whether two `sound_print`s are of one recording."""
    if abs(a_BF.shape[1] - b_BF.shape[1]) > SAME_LENGTH:
        return False
    return any(_correlation(*_shifted(a_BF, b_BF, lag)) > SAME_SOUND for lag in range(-LAGS, LAGS + 1))


def picture_print(image_HW3: np.ndarray) -> np.ndarray:
    """Brightness at 16 x 16 points: [P]."""
    grey_HW = image_HW3.astype(np.float64).mean(2)
    rows = [part.mean(0) for part in np.array_split(grey_HW, POINTS)]
    return np.stack([[cell.mean() for cell in np.array_split(row, POINTS)] for row in rows]).ravel()


def same_picture(a_P: np.ndarray, b_P: np.ndarray) -> bool:
    """Whether two `picture_print`s are of one picture."""
    return _correlation(a_P, b_P) > SAME_PICTURE


def _shifted(a_BF: np.ndarray, b_BF: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    a_BF, b_BF = a_BF[:, max(lag, 0) :], b_BF[:, max(-lag, 0) :]
    frames = min(a_BF.shape[1], b_BF.shape[1])
    return a_BF[:, :frames], b_BF[:, :frames]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of each band's own changes; 0 where one of the two does not change at all."""
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0
