"""A PNG or JPEG file without its notes: text, times, previews, profiles, whatever is not a pixel.

Pillow gives up a picture for a note that is damaged, or larger than it likes; its pixels are whole.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
LARGEST = 200_000_000  # bytes of a file that is looked through
_TRANSPARENCY = b"tRNS"
_START_OF_SCAN = 0xDA
_EXIF, _ADOBE = b"Exif\0\0", b"Adobe"  # how it was held, and how its colours are coded


def bare_picture(file: bytes) -> bytes | None:
    """The file without its notes; None where it has none, or is neither PNG nor JPEG."""
    if file.startswith(PNG):
        bare = PNG + b"".join(_chunks(file))
    elif file.startswith(JPEG):
        bare = JPEG + b"".join(_segments(file))
    else:
        return None
    return None if bare == file else bare


def _chunks(file: bytes) -> Iterator[bytes]:
    """Those that Pillow cannot do without, and the transparency."""
    at = len(PNG)
    while at + 12 <= len(file):
        size, name = struct.unpack(">I4s", file[at : at + 8])
        whole = file[at : at + 12 + size]
        critical = not name[0] & 0x20
        if critical or (name == _TRANSPARENCY and _is_whole(whole)):
            yield whole
        at += 12 + size


def _is_whole(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _segments(file: bytes) -> Iterator[bytes]:
    """Those before the first scan that are no notes, then the rest as it is."""
    at = len(JPEG)
    while at + 4 <= len(file) and file[at] == 0xFF:
        marker, size = file[at + 1], int.from_bytes(file[at + 2 : at + 4], "big")
        if marker == _START_OF_SCAN:
            break
        whole = file[at : at + 2 + size]
        note = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not note or whole[4:].startswith(_EXIF) or (whole[4:].startswith(_ADOBE) and size >= 14):
            yield whole
        at += 2 + size
    yield file[at:]
