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

_READ_FAILURES = 100  # in a row


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

    Packets that cannot be decoded are left out. Those behind the last good one are trailing bytes; the others
    count as lost.

    Raises:
        MediaError: damaged, where more than `MAX_LOST` is lost; too_complex, beyond `MAX_DECODE_SECONDS`.
    """
    good, lost, trailing = 0, 0, 0
    began = time.thread_time()
    stream.thread_count = 1
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
    if trailing and good:
        log.info("%s: what follows its %s is something else and left out", name, stream.type)


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
