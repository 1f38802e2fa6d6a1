"""Reading the few pictures of a clip that a critic looks at, and its sound.

H.264, which every mp4 of ours is, is decoded by decord: it decodes only what leads to a wanted picture.
Everything else goes through `ft2ray.media.video.read_video` (PyAV), and so does H.264 where decord has no
wheel or gives up: decord 0.6 loses the first 12 frames of MPEG-1 files, and its frames of H.264 equal PyAV's
bit for bit (a test compares them). Sound is always decoded by PyAV: decord's mono mix of two channels
overflows, and from 44.1 kHz it comes a millisecond late.

Shapes: F frames, H W 3 pixels, T audio samples.
"""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np

from ft2ray.media.audio import read_audio
from ft2ray.media.source import local_media
from ft2ray.media.video import MAX_SECONDS, MAX_SIDE, read_video

try:
    import decord
except ImportError:  # no wheel outside x86-64
    decord = None

_CLOSE = 1e-4  # seconds


def read_clip(
    path: str | Path, fps: float, sound: str | Path | None = None, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures at `fps`, each the one shown in the middle of its time, and the sound.

    sound: a file whose sound takes the place of the clip's own.

    Returns:
        frames_FHW3 uint8 RGB; wav_T 16 kHz mono float32 from the first picture on, None for a silent film.

    Raises:
        MediaError: what `read_video` and `read_audio` raise.
    """
    path = local_media(path)
    pictures = _decord_pictures(path, fps, max_seconds) if is_plain_h264(path) else None
    if pictures is None:
        frames_FHW3, wav_T = read_video(path, fps, max_seconds)
    else:
        frames_FHW3, wav_T = pictures, _sound(path, max_seconds)
    return frames_FHW3, wav_T if sound is None else read_audio(sound)


def is_plain_h264(path: Path) -> bool:
    """Whether decord can be asked: it is there, and the file is H.264 that needs no scaling down."""
    if decord is None:
        return False
    try:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            return video.codec_context.name == "h264" and max(video.width, video.height) <= MAX_SIDE
    except (av.error.FFmpegError, OSError, ValueError, IndexError, AttributeError):
        return False  # `read_video` says what is wrong with it


def header_fault(path: str | Path, needs_sound: bool = True) -> str | None:
    """What a file's header says against it, None if nothing; it is not decoded."""
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                return "has no pictures"
            return "has no sound" if needs_sound and not container.streams.audio else None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return f"is no readable video ({error})"


def _sound(path: Path, max_seconds: float) -> np.ndarray | None:
    with av.open(str(path)) as container:
        silent = not container.streams.audio
    return None if silent else read_audio(path, max_seconds + 1.0)


def _decord_pictures(path: Path, fps: float, max_seconds: float) -> np.ndarray | None:
    """The wanted pictures; None where decord gives up: files that end early, very narrow pictures."""
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        span_F2 = reader.get_frame_timestamp(list(range(len(reader)))).astype(np.float64)
        start_F, seconds = span_F2[:, 0] - span_F2[0, 0], float(span_F2[-1, 1] - span_F2[0, 0])
        if seconds > max_seconds:
            return None
        middle = (np.arange(math.ceil(seconds * fps - 0.5 - _CLOSE)) + 0.5) / fps
        shown = np.searchsorted(start_F - _CLOSE, middle, side="right") - 1  # its times are 32-bit floats
        return reader.get_batch(shown.tolist()).asnumpy()
    except decord.DECORDError:
        return None  # `read_video` reads it, or says what is wrong with it
