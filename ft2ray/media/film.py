"""Decoding the pictures of a film at a constant rate, each as it is meant to be shown.

Shape suffixes: F frames, H height, W width, 3 rgb.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from ft2ray.errors import MediaError
from ft2ray.media.containers import opened
from ft2ray.media.packets import check_length, frames, main_track

log = logging.getLogger(__name__)

MAX_FRAME_PIXELS = 8192 * 4320
MAX_RATE = 240.0
"""Pictures a second that are decoded at most, on average: the slow motion of phones."""
MAX_DECODED_PIXELS = 8_000_000_000
"""Of all pictures together: 60 s of 1920 x 1080 at 60 pictures a second, 32 s of 3840 x 2160 at 30."""
MAX_ASPECT = 10.0

_RESTART_SECONDS = 0.5  # times that jump back further begin anew: films that were joined
_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics (ITU-T H.273)


@dataclass(frozen=True)
class Survey:
    """What a film's packets say before any is decoded: pictures to be shown, and how long they take."""

    pictures: int
    seconds: float


def decode_pictures(path: Path, fps: float, max_seconds: float, max_side: int) -> tuple[np.ndarray, float]:
    """Pictures at a constant rate: each is the source's picture that is shown at the middle of its time.

    FFmpeg through PyAV, not decord: decord 0.6 loses the first 12 pictures of MPEG-1 program streams (GRID)
    and knows nothing of rotation, edit lists and hidden pictures.

    Returns:
        frames_FHW3: uint8 RGB, even height and width, turned and stretched as the container says.
        start: when the first picture is shown, in seconds of the container.

    Raises:
        MediaError: no_video, too_large, too_many_frames, too_long, truncated, unreadable, or what
            `ft2ray.media.packets.frames` raises.
    """
    with opened(path, "a video") as container:
        stream = _pictures(container, path.name)
        survey = _survey(container, stream)
        _check_work(survey, stream.width, stream.height, path.name)
    with opened(path, "a video", "only the first is read") as container:
        stream = _pictures(container, path.name)
        size = _scaled_size(stream, max_side, path.name)
        shown, start, seconds = _decode(container, stream, size, fps, max_seconds, path.name)
        check_length(container, stream, seconds, path.name)
    return np.stack(shown), start


def _pictures(container: InputContainer, name: str) -> Any:
    stream = main_track(container, "video")
    if stream is None:
        raise MediaError("no_video", f"{name} has no pictures, only sound; give a video file.")
    if stream.codec_context is None:
        raise MediaError("unreadable", f"the pictures of {name} are in an unknown format; export it as MP4.")
    return stream


def _survey(container: InputContainer, stream: Any) -> Survey:
    pictures, low, high = 0, math.inf, -math.inf
    try:
        for packet in container.demux(stream):
            if packet.pts is not None and packet.time_base is not None and not packet.is_discard:
                low = min(low, float(packet.pts * packet.time_base))
                high = max(high, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            pictures += packet.size > 0
    except av.error.FFmpegError as error:  # decoding meets it again, and counts what is lost
        log.debug("survey ends: %s", error)
    return Survey(pictures, max(high - low, 0.0))


def _check_work(survey: Survey, width: int, height: int, name: str) -> None:
    """Refuse what would take minutes to decode, before anything is decoded."""
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError("too_large", f"the pictures of {name} are {width} x {height}; scale them down.")
    if survey.pictures > MAX_RATE * (survey.seconds + 1.0):
        raise MediaError(
            "too_many_frames",
            f"{name} holds {survey.pictures} pictures in {survey.seconds:.1f} s; export it with 25 a second.",
        )
    if survey.pictures * width * height > MAX_DECODED_PIXELS:
        raise MediaError(
            "too_large",
            f"{name} holds {survey.pictures} pictures of {width} x {height}; scale it down or cut it.",
        )


def _decode(
    container: InputContainer, stream: Any, size: tuple[int, int], fps: float, max_seconds: float, name: str
) -> tuple[list[np.ndarray], float, float]:
    """The pictures shown, when the first one is, and how long all are."""
    shown: list[np.ndarray] = []
    usual = 1 / float(stream.average_rate or fps)
    current, start, shift, moment, lasts, pixels = None, 0.0, 0.0, 0.0, usual, 0
    for frame in frames(container, stream, name):
        pixels += frame.width * frame.height
        if frame.width * frame.height > MAX_FRAME_PIXELS or pixels > 2 * MAX_DECODED_PIXELS:
            raise MediaError("too_large", f"the pictures of {name} are too large; scale it down or cut it.")
        if current is None:
            start = frame.time if frame.time is not None else 0.0
            _say_what_is_lost(stream, frame, name)
            now = 0.0
        else:
            now = moment + lasts if frame.time is None else frame.time - start + shift
            if now < moment - _RESTART_SECONDS:
                log.warning(
                    "%s: its times begin anew after %.1f s; both parts are read", name, moment + lasts
                )
                shift, now = shift + moment + lasts - now, moment + lasts
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else usual
        if now + min(lasts, usual) / 2 > max_seconds or (now == 0 and lasts > max_seconds):
            raise MediaError(  # a single picture may be shown for hours
                "too_long", f"{name} is longer than the limit of {max_seconds:g} s; cut it."
            )
        if current is not None:
            _show_until(now, current, shown, size, fps)
        current, moment = frame, max(now, moment)
    if current is not None:
        _show_until(min(moment + lasts, max_seconds), current, shown, size, fps)
        if not shown:  # shorter than half a picture of the result
            shown.append(_picture(current, size))
    if not shown:
        raise MediaError("unreadable", f"{name} holds no decodable pictures. Export it again.")
    return shown, start, moment + lasts


def _say_what_is_lost(stream: Any, frame: av.VideoFrame, name: str) -> None:
    if frame.color_trc in _HDR:
        log.warning("%s is in high dynamic range (%s); its colours look pale", name, _HDR[frame.color_trc])
    if stream.metadata.get("alpha_mode") == "1":
        log.warning("%s is transparent; what lies behind is not known", name)
    if frame.interlaced_frame:
        log.warning("%s is interlaced; one of the two fields of each picture is taken", name)


def _show_until(
    end: float, frame: av.VideoFrame, shown: list[np.ndarray], size: tuple[int, int], fps: float
) -> None:
    """Append the frame for each output interval whose middle lies before `end` seconds."""
    picture = None
    while (len(shown) + 0.5) / fps < end - 1e-9:
        if picture is None:
            picture = _picture(frame, size)
        shown.append(picture)


def _picture(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """The frame as it is meant to be shown, RGB: one field, over grey where transparent, upright."""
    width, height = size
    matrix = _display_matrix(frame)
    rgb = "rgba" if any(part.is_alpha for part in frame.format.components) else "rgb24"
    if frame.interlaced_frame:
        field_HW3 = np.ascontiguousarray(frame.to_ndarray(format="rgb24")[::2])
        frame, rgb = av.VideoFrame.from_ndarray(field_HW3.astype(np.uint8), format="rgb24"), "rgb24"
    picture_HWC = frame.to_ndarray(format=rgb, width=width, height=height)
    if rgb == "rgba":
        alpha_HW1 = picture_HWC[..., 3:].astype(np.uint16)
        over = picture_HWC[..., :3] * alpha_HW1 + 128 * (255 - alpha_HW1)
        picture_HWC = ((over + 127) // 255).astype(np.uint8)
    return _turned(picture_HWC, matrix)


def _display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Signs of the container's matrix: column x, row y is shown at column a x + c y and row b x + d y.

    Returns:
        a, b, c, d. (1, 0, 0, 1) where the container says nothing, or something else than turns by 90 degrees.
    """
    side_data: Any = frame.side_data  # its stubs lack the types
    for data in side_data:
        if data.type.name == "DISPLAYMATRIX":
            values = np.frombuffer(bytes(data), np.int32)[[0, 1, 3, 4]]
            a, b, c, d = (
                int(np.sign(v)) if 2 * abs(int(v)) > int(np.abs(values).max()) else 0 for v in values
            )
            if abs(a * d - b * c) == 1:
                return a, b, c, d
    return 1, 0, 0, 1


def _turned(image_HWC: np.ndarray, matrix: tuple[int, int, int, int]) -> np.ndarray:
    a, b, c, d = matrix
    if b or c:  # columns become rows
        image_HWC = image_HWC.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(image_HWC[:: d or 1, :: a or 1])


def _scaled_size(stream: Any, max_side: int, name: str) -> tuple[int, int]:
    """Width and height to decode to, even, of square pixels; the longer one at most `max_side`."""
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    width, height = stream.width * max(aspect, 1.0), stream.height * max(1 / aspect, 1.0)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise MediaError(
            "too_large",
            f"the pictures of {name} are shown as {width:.0f} x {height:.0f}, more than {MAX_ASPECT:g} : 1; "
            "crop them.",
        )
    scale = min(1.0, max_side / max(width, height))
    return max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 2)
