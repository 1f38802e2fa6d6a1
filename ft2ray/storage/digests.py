"""Digests that stored files carry, so that no damaged byte is ever read as another number.

A Parquet shard holds the digest of all its other bytes in the gap before its footer, which readers of Parquet
skip. (The format's own page checksums leave headers and footer open: of all single flipped bits of a small
shard about 1 in 100 still reads as other values.) A JSON file holds the digest of its values as "digest", a
folder those of its files in `digests.json`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ft2ray.errors import StoredDataError
from ft2ray.records import content_id
from ft2ray.storage.files import list_files, read_bytes, write_atomically

MARK, BYTES = b"ft2ray digest: ", 16
DIGEST, DIGESTS = "digest", "digests.json"


def with_digest(parquet: bytes) -> bytes:
    """The same Parquet file with its digest in it."""
    footer = len(parquet) - _footer(parquet)
    return b"".join((parquet[:footer], MARK, _digest(parquet), parquet[footer:]))


def fault(parquet: bytes) -> str | None:
    """What is wrong with a file that `with_digest` made; None where every byte is as it was written."""
    if len(parquet) < 12 or parquet[-4:] != b"PAR1" or _footer(parquet) > len(parquet):
        return "is empty, truncated or not a Parquet file"
    footer = len(parquet) - _footer(parquet)
    begin, all_of_it = footer - BYTES - len(MARK), memoryview(parquet)
    if begin < 0 or parquet[begin : footer - BYTES] != MARK:
        return "carries no digest: it is damaged, or written by another program or an older version"
    if _digest(all_of_it[:begin], all_of_it[footer:]) != parquet[footer - BYTES : footer]:
        return "is damaged: its bytes are not those that were written"
    return None


def write_json(url: str | Path, value: dict[str, Any], if_absent: bool = False) -> bool:
    """Write the values with their digest; False where `if_absent` finds a file."""
    data = json.dumps(value | {DIGEST: content_id(value)}, indent=1).encode() + b"\n"
    return write_atomically(url, data, if_absent)


def read_json(url: str | Path, what: str, remedy: str) -> dict[str, Any]:
    """The values that `write_json` wrote; FileNotFoundError where there is no such file.

    Args:
        url: the file.
        what: what it is, for the sentence: "a list of groups".
        remedy: what to do where it is damaged.

    Raises:
        StoredDataError: where the file does not hold what was written.
    """
    value = plain_json(url, what, remedy)
    if not isinstance(value, dict) or value.pop(DIGEST, None) != content_id(value):
        raise StoredDataError(str(url), f"{what} is damaged: it does not hold what was written", remedy)
    return value


def plain_json(url: str | Path, what: str, remedy: str) -> Any:
    """The values of a JSON file with or without a digest, which is not looked at.

    Raises:
        StoredDataError: where it is not JSON at all.
    """
    try:
        return json.loads(read_bytes(url))
    except (ValueError, RecursionError) as error:  # bytes that are not text, or a text that is not JSON
        raise StoredDataError(str(url), f"{what} is damaged ({error})", remedy) from error


def file_digests(folder: Path) -> dict[str, str]:
    """The digest of every file below the folder, by its relative path."""
    return {file: _file_digest(folder / file) for file in list_files(folder, recursive=True)}


def check_files(folder: Path, digests: dict[str, str], what: str, remedy: str) -> None:
    """Compare the files of a folder with their digests.

    Raises:
        StoredDataError: for the first file that is missing or not the one that was written.
    """
    for file, digest in digests.items():
        path = folder / file
        if not path.is_file():
            raise StoredDataError(str(path), f"a file of {what} is missing", remedy)
        if _file_digest(path) != digest:
            raise StoredDataError(str(path), f"{what} is damaged: this file is not what was written", remedy)


def write_digests(folder: Path) -> None:
    """Write `digests.json`, which covers all other files of the folder."""
    write_json(folder / DIGESTS, file_digests(folder))


def check_folder(folder: Path, what: str, remedy: str) -> None:
    """Compare every file of a folder with its `digests.json`, as `check_files` does."""
    check_files(folder, read_json(folder / DIGESTS, f"the list of files of {what}", remedy), what, remedy)


def _footer(parquet: bytes) -> int:
    """Length of the footer, the magic bytes included."""
    return 8 + int.from_bytes(parquet[-8:-4], "little")


def _digest(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.sha256()  # where the processor helps it is three times as fast as BLAKE2
    for part in parts:
        digest.update(part)
    return digest.digest()[:BYTES]


def _file_digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[: 2 * BYTES]
