"""Decoding one track packet by packet: a damaged packet is lost, not the file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import av
from av.container import InputContainer

from ft2ray.errors import MediaError

log = logging.getLogger(__name__)

MAX_LOST = 0.25
"""Share of a track's packets that may be lost to damage before the file is refused."""
MAX_DECODE_SECONDS = 120.0
"""Processor time for one track: what is asked of the decoder is bounded whatever a header says."""

RAW = ("mp3", "aac", "ac3", "amr")
"""FFmpeg's containers of bare frames: times and lengths are the demuxer's guess from the first frame."""

_READ_FAILURES = 100  # in a row
_CHECKED = ("flac", "wavpack", "tta")  # codecs whose packets carry a checksum


def main_track(container: InputContainer, kind: str) -> Any:
    """The track that a player plays: the first that the container marks as default, else the first.

    Args:
        container: an open file.
        kind: "audio" or "video". A cover picture is not a video.
    """
    tracks = [
        stream
        for stream in getattr(container.streams, kind)
        if not stream.disposition & av.stream.Disposition.attached_pic
        and (stream.codec_context is not None or len(getattr(container.streams, kind)) == 1)
    ]
    default = [stream for stream in tracks if stream.disposition & av.stream.Disposition.default]
    return (default or tracks or [None])[0]


def frames(container: InputContainer, stream: Any, name: str) -> Iterator[Any]:
    """The frames of a track that are to be shown or heard.

    Packets that cannot be decoded are left out. Those behind the last good one may be something that was
    appended; the others count as lost. Pictures that the decoder had to patch are used, and said.

    Raises:
        MediaError: damaged, where more than `MAX_LOST` is lost; too_complex, beyond `MAX_DECODE_SECONDS`.
    """
    good, lost, trailing, patched = 0, 0, 0, 0
    began = time.thread_time()
    stream.thread_count = 1
    if stream.codec_context.name in _CHECKED:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    for packet in _packets(container, stream):
        try:
            decoded = packet.decode() if packet is not None else []
        except (av.error.FFmpegError, ValueError):  # EOFError is one of FFmpeg's
            trailing += 1
            continue
        if packet is None:
            trailing += 1
        elif decoded:
            good, lost, trailing = good + 1, lost + trailing, 0
        patched += sum(frame.is_corrupt for frame in decoded)
        yield from decoded
        if time.thread_time() - began > MAX_DECODE_SECONDS:
            raise MediaError(
                "too_complex",
                f"{name} takes more than {MAX_DECODE_SECONDS:.0f} s to decode; cut it or scale it down.",
            )
    if lost > MAX_LOST * (good + lost):
        raise MediaError(
            "damaged",
            f"{name} is damaged: {lost} of its {good + lost} packets of {stream.type} cannot be decoded. "
            "Copy or export it again.",
        )
    if lost:
        log.warning(
            "%s: %d of %d packets of %s are damaged and left out", name, lost, good + lost, stream.type
        )
    if patched:
        log.warning("%s: %d of its %d frames of %s are damaged", name, patched, good, stream.type)
    if trailing and good:
        log.warning(
            "%s: the last %d packets of %s are damaged or something else, and left out",
            *(name, trailing, stream.type),
        )


def check_length(container: InputContainer, stream: Any, seconds: float, name: str) -> None:
    """Say where a track ends long before its header promises.

    Args:
        container: the open file.
        stream: the track.
        seconds: how long it is, as decoded.
        name: what messages call the file.

    Raises:
        MediaError: truncated, for an MP4, which lists what it holds, that lacks more than `MAX_LOST` of it.
            Other headers state lengths that nobody knew when they were written.
    """
    promised = None
    if stream.duration is not None:
        promised = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        promised = (container.duration - (container.start_time or 0)) / av.time_base
    if promised is None or container.format.name in RAW:
        return
    if "mov" in container.format.name and seconds < (1 - MAX_LOST) * promised - 0.1:
        raise MediaError(
            "truncated",
            f"{name} lists {promised:.1f} s of {stream.type} but only {seconds:.1f} s can be decoded; the "
            "file is truncated. Copy or export it again.",
        )
    if seconds < promised - 0.5:
        log.warning(
            "%s states a length of %.1f s; its %s ends after %.1f s", name, promised, stream.type, seconds
        )


def _packets(container: InputContainer, stream: Any) -> Iterator[av.Packet | None]:
    """Packets in the order of the file, None for one that cannot be read."""
    failures = 0
    while failures < _READ_FAILURES:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
            return
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            failures += 1
            yield None
