"""Reading the few pictures of a clip that a critic looks at, and its sound.

decord seeks to the pictures that are wanted and decodes only what leads to them, but knows nothing of
rotation, edit lists, pixel shapes and damage. It therefore reads plain H.264 only, such as every mp4 that
`write_video` makes; there its pictures equal those of `read_video` bit for bit (a test compares them).
`read_video` reads the rest, and everything where decord has no wheel.

Shapes: F frames, H W 3 pixels, T audio samples.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from ft2ray.errors import MediaError
from ft2ray.media.audio import read_audio
from ft2ray.media.containers import decoding, opened, require_content
from ft2ray.media.packets import main_track
from ft2ray.media.source import local_media
from ft2ray.media.video import MAX_SECONDS, MAX_SIDE, read_video

try:
    import decord
except ImportError:  # it has wheels for x86-64 only
    decord = None

_CLOSE = 1e-3  # seconds: decord's times are 32-bit floats


def read_clip(
    path: str | Path, fps: float, sound: str | Path | None = None, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures at `fps`, each the one shown in the middle of its time, and the sound.

    Args:
        path: of the clip.
        fps: pictures a second.
        sound: a file whose sound takes the place of the clip's own.
        max_seconds: longer clips are refused.

    Returns:
        frames_FHW3 uint8 RGB; wav_T 16 kHz mono float32 from the first picture on, None for a silent film.

    Raises:
        MediaError: what `read_video` and `read_audio` raise.
    """
    path = local_media(path)
    pictures = (
        _decord_pictures(path, fps) if decord is not None and is_plain_h264(path, max_seconds) else None
    )
    if pictures is None:
        frames_FHW3, wav_T = read_video(path, fps, max_seconds)
    else:
        frames_FHW3, wav_T = pictures, _sound(path, max_seconds)
    return frames_FHW3, wav_T if sound is None else read_audio(sound)


def is_plain_h264(path: Path, max_seconds: float = MAX_SECONDS) -> bool:
    """Whether a file is an mp4 of H.264 whose pictures follow each other evenly and are shown as they are."""
    try:
        require_content(path)
        with decoding(path.name, "a video"), opened(path, "a video") as container:
            stream = main_track(container, "video")
            if stream is None or "mov" not in container.format.name:
                return False
            codec = stream.codec_context
            if codec is None or (codec.name, codec.pix_fmt) != ("h264", "yuv420p"):
                return False
            if max(stream.width, stream.height) > MAX_SIDE or (stream.sample_aspect_ratio or 1) != 1:
                return False
            packets = [packet for packet in container.demux(stream) if packet.size]
            times = sorted(
                float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None
            )
            if len(times) < len(packets) or any(packet.is_discard or packet.is_corrupt for packet in packets):
                return False
            step = 1 / float(stream.average_rate)
            even = all(abs(b - a - step) < _CLOSE for a, b in itertools.pairwise(times))
            if not times or abs(times[0]) > _CLOSE or not even or len(times) * step > max_seconds:
                return False
            container.seek(0)
            first = next(container.decode(stream), None)
            if first is None or first.interlaced_frame:
                return False
            return all(data.type.name != "DISPLAYMATRIX" for data in first.side_data)
    except MediaError:
        return False  # `read_video` says what is wrong with it


def _sound(path: Path, max_seconds: float) -> np.ndarray | None:
    with opened(path, "a video") as container:
        silent = main_track(container, "audio") is None
    return None if silent else read_audio(path, max_seconds + 1.0, origin=0.0)


def _decord_pictures(path: Path, fps: float) -> np.ndarray | None:
    """The wanted pictures; None where decord gives up, as on very narrow pictures."""
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        span_F2 = reader.get_frame_timestamp(list(range(len(reader)))).astype(np.float64)
        start_F, seconds = span_F2[:, 0] - span_F2[0, 0], float(span_F2[-1, 1] - span_F2[0, 0])
        middle = (np.arange(math.ceil(seconds * fps - 0.5 - _CLOSE)) + 0.5) / fps
        shown = np.searchsorted(start_F - _CLOSE, middle, side="right") - 1
        return reader.get_batch(shown.tolist()).asnumpy()
    except decord.DECORDError:
        return None


def header_fault(path: str | Path, needs_sound: bool = True) -> str | None:
    """What a file's header says against it, None if nothing; it is not decoded."""
    path = Path(path)
    try:
        require_content(path)
        with decoding(path.name, "a video"), opened(path, "a video") as container:
            if main_track(container, "video") is None:
                return "has no pictures"
            return "has no sound" if needs_sound and main_track(container, "audio") is None else None
    except MediaError as error:
        return f"is not a readable video ({error})"
