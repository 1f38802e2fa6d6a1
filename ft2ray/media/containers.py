"""Which container a sound or video file is, and opening it as that and nothing else.

FFmpeg also opens playlists, session descriptions and other things that name further files and hosts. So a
file is recognised by its first bytes and opened with that one demuxer; and FFmpeg gets the bytes of a file
that is open already, never a name. A recording called `take:1.wav` is therefore not taken for a URL, and no
message holds a path.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer

from ft2ray.errors import FT2RayError, MediaError
from ft2ray.media.headers import parts

log = logging.getLogger(__name__)

HEAD_BYTES = 4096
"""What `demuxer` needs to see of a file."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes, FFmpeg's demuxer
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (4, b"skip", "mov"),
    (4, b"styp", "mov"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (8, b"WAVE", "wav"),
    (8, b"AVI ", "avi"),
    (0, b"riff\x2e\x91\xcf\x11", "w64"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    (0, b".snd", "au"),
    (0, b"caff", "caf"),
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x00\x00\x01\xb3", "mpegvideo"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (0, b"#!AMR", "amr"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
    (0, b"TTA1", "tta"),
    (0, b"\x0b\x77", "ac3"),
    (0, b"NIST_1A", "nistsphere"),
    (0, b"Creative Voice File\x1a", "voc"),
)
_RIFF_HEADS = (b"RIFF", b"RF64", b"BW64", b"FORM")
_PICTURE_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"avif", b"avis")
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\x00", b"MM\x00*")


def demuxer(head: bytes) -> str | None:
    """FFmpeg's name for the container that a file's first bytes tell; None for everything else.

    Args:
        head: the first `HEAD_BYTES` of the file; fewer are enough where no tag and no zeros come first.
    """
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURE_BRANDS:
        return None
    for offset, magic, name in _MAGIC:
        if head[offset : offset + len(magic)] == magic and (offset < 8 or head[:4] in _RIFF_HEADS):
            return name
    for packet in (188, 192, 204):
        start = 4 if packet == 192 else 0
        if len(head) > start + 4 * packet and set(head[start : start + 5 * packet : packet]) == {0x47}:
            return "mpegts"
    head = head.lstrip(b"\0")
    if head.startswith(b"ID3") and len(head) >= 10:
        after = 10 + sum(
            (byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True)
        )
        behind = demuxer(head[after:]) if after + 12 <= len(head) else None
        return behind if behind in ("aac", "flac", "tta", "ac3") else "mp3"
    return _bare_frames(head)


def _bare_frames(head: bytes) -> str | None:
    """MPEG audio and AAC have no file header: they begin with a frame, whose header has fields to check."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "aac"  # ADTS
    known = head[1] & 0x18 != 0x08 and head[1] & 0x06 and head[2] & 0xF0 != 0xF0 and head[2] & 0x0C != 0x0C
    return "mp3" if known else None


@contextmanager
def decoding(name: str, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into a MediaError of the file `name`.

    Decoders are other people's C and Python: on hostile bytes they raise anything, `struct.error`,
    `MemoryError` and `IndexError` among others, and all of it says something about this file only.
    """
    try:
        yield
    except FT2RayError:
        raise
    except MemoryError as error:
        raise MediaError(
            "too_large", f"{name} needs more memory than there is; scale it down, or cut it."
        ) from error
    except Exception as error:
        detail = getattr(error, "strerror", None) or str(error).split(": '")[0] or type(error).__name__
        raise MediaError(
            "unreadable",
            f"{name} cannot be decoded as {kind} ({detail}): it is damaged, truncated or something else. "
            "Export it again.",
        ) from error


def require_content(path: Path) -> None:
    """Refuse a file that is not there, or empty.

    Raises:
        MediaError: unreadable.
    """
    try:
        there, linked, a_file = path.exists(), path.is_symlink(), path.is_file()
        empty = a_file and path.stat().st_size == 0
    except OSError as error:  # such as a name that is too long
        raise MediaError("unreadable", f"{path.name[:80]}: {error.strerror}; check the path.") from error
    if not a_file:
        what = "it is a folder or a device, not a file" if there else "there is no such file"
        if linked and not there:
            what = "it is a link to a file that is not there"
        raise MediaError("unreadable", f"{path.name}: {what}; check the path.")
    if empty:
        raise MediaError("unreadable", f"{path.name} is empty (0 bytes); copy or record it again.")


@contextmanager
def opened(path: Path, kind: str, about_parts: str = "") -> Iterator[InputContainer]:
    """The first part of a file as an open container; see `opened_parts`."""
    containers = opened_parts(path, kind, about_parts)
    try:
        yield next(containers)
    finally:
        containers.close()


def opened_parts(path: Path, kind: str, about_parts: str = "") -> Generator[InputContainer, None, None]:
    """Open each file in a file: several whole files written one after the other are several parts.

    Args:
        path: the file.
        kind: what messages call what is wanted of it.
        about_parts: what becomes of several parts, for the log; empty where it was said already.

    Yields:
        An open container, closed when the next one is asked for.

    Raises:
        MediaError: unreadable, for a container that is not recognised.
    """
    with path.open("rb") as file:
        format_name = _recognised(file, path.name, kind)
        found = parts(file, format_name, path.name)
        if len(found) > 1 and about_parts:
            log.warning("%s holds %d files one after the other; %s", path.name, len(found), about_parts)
        for part in found:
            with av.open(part, "r", format=format_name) as container:
                yield container


def _recognised(file: BinaryIO, name: str, kind: str) -> str:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    found = demuxer(head)
    if found is None:
        is_picture = head.startswith(_PICTURES) or head[8:12] in (b"WEBP", *_PICTURE_BRANDS)
        what = f"is a picture, not {kind}" if is_picture else f"is not {kind} in a format that is read here"
        raise MediaError(
            "unreadable",
            f"{name} {what}, whatever its name says; export it as WAV, FLAC, MP3, MP4 or WebM.",
        )
    return found
