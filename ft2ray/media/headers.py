"""Where the sound of a file really is, when sizes in its header are placeholders or wrong.

WAV, AIFF, W64 and CAF state the size of their samples before these. A program that writes into a pipe does
not know it yet and puts 0, -1, 0x7FFFFFFF, 2,000,000,036 or the size of its first block there; and several
whole files, of any kind, are joined with `cat`. So sizes are hints: what a file holds counts.
"""

from __future__ import annotations

import logging
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from ft2ray.errors import MediaError

log = logging.getLogger(__name__)

MAX_PARTS = 1000
_CHUNKS = 1000  # more before the samples are an attack
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
_SEARCH_BYTES = 1 << 20


class Window:
    """Bytes `start` to `stop` of an open file as a file of their own, beginning with `head`.

    It is what `av.open` wants of a file: read, seek and tell. `head` takes the place of as many bytes.
    """

    def __init__(self, file: BinaryIO, start: int, stop: int, head: bytes = b"") -> None:
        self.file, self.start, self.stop, self.head = file, start, stop, head
        self.name = ""  # PyAV puts it into its messages
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        left = max(self.stop - self.start - self._at, 0)
        size = left if size < 0 else min(size, left)
        if self._at < len(self.head):
            data = self.head[self._at : self._at + size]
        else:
            self.file.seek(self.start + self._at)
            data = self.file.read(size)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.stop - self.start}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True)
class _Layout:
    """How a container of samples is laid out: a head, then chunks of a name, a size and content."""

    start: re.Pattern[bytes]  # the first bytes of a file
    chunks_at: int  # offset of the first chunk
    name_bytes: int
    size: str  # struct format
    size_counts_header: bool
    align: int
    samples: bytes  # name of the chunk of samples
    file_size_at: int | None  # offset of the file's own size, which is a field like that of a chunk
    not_counted: int = 0  # bytes at the start of the file that this size leaves out

    @property
    def header_bytes(self) -> int:
        return self.name_bytes + struct.calcsize(self.size)


_LAYOUTS = {
    "wav": _Layout(re.compile(rb"(RIFF|RF64|BW64)....WAVE", re.DOTALL), 12, 4, "<I", False, 2, b"data", 4, 8),
    "aiff": _Layout(re.compile(rb"FORM....AIF[FC]", re.DOTALL), 12, 4, ">I", False, 2, b"SSND", 4, 8),
    "w64": _Layout(
        re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0........wave", re.DOTALL),
        *(40, 16, "<Q", True, 8),
        b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",
        16,
    ),
    "caf": _Layout(re.compile(rb"caff\0\x01\0\0desc", re.DOTALL), 8, 4, ">Q", False, 1, b"data", None),
}
_STARTS = {  # FFmpeg's demuxer -> how a file of the kind begins, long enough not to occur by chance
    "au": re.compile(rb"\.snd\0\0[\0-\x0f].{5}\0\0\0[\x01-\x1b]", re.DOTALL),
    "flac": re.compile(rb"fLaC[\0\x80]\0\0\x22"),
    "matroska": re.compile(rb"\x1aE\xdf\xa3.{1,40}?(matroska|webm)", re.DOTALL),
    "avi": re.compile(rb"RIFF....AVI LIST", re.DOTALL),
    "asf": re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"),
    "flv": re.compile(rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0"),
    "amr": re.compile(rb"#!AMR(-WB)?\n"),
}
_OGG_STREAM = re.compile(rb"OggS\0[\x02\x06]\0{8}")  # the first page of a stream


def parts(file: BinaryIO, format_name: str, name: str) -> list[Window]:
    """The files in a file, each with sizes in its header that agree with what is there.

    Args:
        file: an open file.
        format_name: FFmpeg's name of its container.
        name: what messages call the file.

    Raises:
        MediaError: too_complex.
    """
    total = file.seek(0, os.SEEK_END)
    found: list[Window] = []
    if layout := _LAYOUTS.get(format_name):
        at = 0
        while at < total and len(found) <= MAX_PARTS:
            part, at = _part(file, layout, at, total, name)
            found.append(part)
    else:
        bounds = [0, *islice(_starts(file, format_name, total), MAX_PARTS), total]
        found = [Window(file, *pair) for pair in zip(bounds, bounds[1:], strict=False)]
    if format_name == "au":
        found = [_au(file, part.start, part.stop, name) for part in found]
    if len(found) > MAX_PARTS:
        raise MediaError("too_complex", f"{name} holds more than {MAX_PARTS} recordings; join them first.")
    return found


def _starts(file: BinaryIO, format_name: str, total: int) -> Iterator[int]:
    """Where the second file begins in a file, the third and so on."""
    if format_name == "mov":
        return _films(file, total)
    if format_name == "ogg":
        return _chains(file, total)
    pattern = _STARTS.get(format_name)
    return iter(()) if pattern is None else _all(file, pattern, 1, total)


def _part(file: BinaryIO, layout: _Layout, start: int, total: int, name: str) -> tuple[Window, int]:
    """The file that begins at `start`, and where the next one begins (the end, where there is none)."""
    header = _find_samples(file, layout, start, total)
    if header is None:  # FFmpeg says what is wrong with it
        return Window(file, start, total), total
    samples, promised = header
    stop = samples + promised
    following = next(_all(file, layout.start, samples, total), total)
    if promised <= 0 or stop > following:
        if promised > 0 and not _placeholder(promised):
            log.warning("%s states %d bytes of sound and holds %d", name, promised, following - samples)
        return _window(file, layout, start, samples, following, following), following
    behind = _after_chunks(file, layout, stop, following)
    if behind >= following:
        return _window(file, layout, start, samples, stop, following), following
    if behind == stop and _looks_like_samples(file, layout, start, stop, following):
        log.warning(
            "%s states %d bytes of sound; the %d that follow are read too", name, promised, following - stop
        )
        return _window(file, layout, start, samples, following, following), following
    log.warning("%s: the %d bytes after its sound are something else and left out", name, following - behind)
    return _window(file, layout, start, samples, stop, behind), following


def _find_samples(file: BinaryIO, layout: _Layout, start: int, total: int) -> tuple[int, int] | None:
    """Offset of the first sample and the stated size, None where there is no chunk of samples."""
    at = start + layout.chunks_at
    for _ in range(_CHUNKS):
        chunk = _chunk(file, layout, at)
        if chunk is None:
            return None
        name, size = chunk
        if name == layout.samples:
            return at + layout.header_bytes, size
        at = _next(layout, at, size)
        if at >= total:
            return None
    return None


def _chunk(file: BinaryIO, layout: _Layout, at: int) -> tuple[bytes, int] | None:
    """Name and stated size of the content of the chunk at an offset."""
    file.seek(at)
    header = file.read(layout.header_bytes)
    if len(header) < layout.header_bytes:
        return None
    (size,) = struct.unpack(layout.size, header[layout.name_bytes :])
    return header[: layout.name_bytes], size - (layout.header_bytes if layout.size_counts_header else 0)


def _next(layout: _Layout, at: int, size: int) -> int:
    end = at + layout.header_bytes + max(size, 0)
    return end + -end % layout.align


def _after_chunks(file: BinaryIO, layout: _Layout, at: int, total: int) -> int:
    """The end of the chunks that follow the samples at `at`: only those that look like chunks count."""
    for _ in range(_CHUNKS):
        for aligned in (at + -at % layout.align, at):  # not every writer fills up
            chunk = _chunk(file, layout, aligned)
            known = chunk is not None and re.fullmatch(rb"[A-Za-z0-9 _]{4}", chunk[0][:4])
            if known and chunk and chunk[1] >= 0 and _next(layout, aligned, chunk[1]) <= total + 1:
                at = _next(layout, aligned, chunk[1])
                break
        else:
            return at if total - at >= 8 else total
    return at


def _looks_like_samples(file: BinaryIO, layout: _Layout, start: int, at: int, stop: int) -> bool:
    """Whether bytes behind the stated end are sound all the same: not a tag, not text, not another format."""
    if _foreign(file, at):
        return False
    ends_here = True
    if layout.file_size_at is not None:
        file.seek(start + layout.file_size_at)
        (file_size,) = struct.unpack(layout.size, file.read(struct.calcsize(layout.size)))
        ends_here = abs(start + layout.not_counted + file_size - at) <= 8
    return (
        not ends_here or stop - at >= (at - start) // 10
    )  # a header that agrees with itself: not for crumbs


def _window(
    file: BinaryIO, layout: _Layout, start: int, samples: int, samples_stop: int, stop: int
) -> Window:
    """A part of the file whose header states what is there."""
    file.seek(start)
    head = bytearray(file.read(samples - start))
    size = samples_stop - samples + (layout.header_bytes if layout.size_counts_header else 0)
    width = struct.calcsize(layout.size)
    struct.pack_into(layout.size, head, len(head) - width, min(size, (1 << 8 * width) - 1))
    if layout.file_size_at is not None:
        body = stop - start - layout.not_counted
        struct.pack_into(layout.size, head, layout.file_size_at, min(body, (1 << 8 * width) - 1))
    if head[:4] in (b"RF64", b"BW64"):  # its sizes are in another chunk, which no longer counts
        head[:4] = b"RIFF"
    return Window(file, start, stop, bytes(head))


def _foreign(file: BinaryIO, at: int) -> bool:
    """Whether what begins at an offset is a tag, text, zeros or a file of another kind."""
    file.seek(at)
    head = file.read(512)
    return (
        head.startswith((*_TAGS, b"\xff\xd8\xff", b"\x89PNG", b"PK\x03\x04", b"fLaC", b"OggS"))
        or re.fullmatch(rb"[\t\r\n\x20-\x7e]+", head[:64]) is not None
        or not head.strip(b"\0")
    )


def _au(file: BinaryIO, start: int, stop: int, name: str) -> Window:
    """AU has no chunks: FFmpeg reads to the end, but refuses sizes from 2 GiB on."""
    file.seek(start)
    head = bytearray(file.read(24))
    if len(head) == 24:
        samples, size = struct.unpack(">II", head[4:12])
        end = start + samples + size
        if size > 0 and end < stop:
            if _foreign(file, end) or stop - end < size // 10:  # a size that was known: not for crumbs
                log.warning(
                    "%s: the %d bytes after its sound are something else and left out", name, stop - end
                )
                stop = end
            else:
                log.warning(
                    "%s states %d bytes of sound; the %d that follow are read too", name, size, stop - end
                )
        head[8:12] = b"\xff\xff\xff\xff"  # not known
    return Window(file, start, stop, bytes(head))


def _placeholder(size: int) -> bool:
    """Sizes that stand for "not known yet": no recording is taken for cut off because of them."""
    return size >= 0x7FFF0000 or size in (2_000_000_000, 2_000_000_036)


def _all(file: BinaryIO, pattern: re.Pattern[bytes], at: int, stop: int) -> Iterator[int]:
    """Offsets in a stretch of the file where a file of the kind begins."""
    while at < stop:
        file.seek(at)
        block = file.read(min(_SEARCH_BYTES + 64, stop - at))
        for match in pattern.finditer(block):
            if match.start() < _SEARCH_BYTES:
                yield at + match.start()
        at += _SEARCH_BYTES


def _films(file: BinaryIO, total: int) -> Iterator[int]:
    """Where a second film begins in an MP4: a box `ftyp` after an index."""
    at, indexed = 0, False
    for _ in range(_CHUNKS):
        file.seek(at)
        header = file.read(16)
        if len(header) < 8:
            return
        size, box = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            (size,) = struct.unpack(">Q", header[8:])
        if box == b"ftyp" and indexed:
            indexed = False
            yield at
        indexed |= box == b"moov"
        if size < 8 or at + size > total:
            return
        at += size


def _chains(file: BinaryIO, total: int) -> Iterator[int]:
    """Where a second recording begins in an Ogg: streams of one have their first pages in a row."""
    end = None
    for at in _all(file, _OGG_STREAM, 0, total):
        if end is not None and at != end:
            yield at
        file.seek(at + 26)
        (segments,) = file.read(1) or b"\0"
        end = at + 27 + segments + sum(file.read(segments))
