"""Copies of S3 objects on this machine, least recently used ones removed where they grow too many.

~/.cache/ft2ray/s3/<id>/...    an entry for each version of an object, and for each folder of links to copies

At most FT2RAY_CACHE_GB (100) are kept; the environment variable XDG_CACHE_HOME moves the place. What was used
within the last hour stays whatever its size: somebody may be about to open it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from stat import S_ISDIR

from ft2ray.errors import UserError

IN_USE_SECONDS = 3600.0
LOOK_EVERY = 0.02  # share of the limit: after so many new bytes the whole cache is checked again
_new_bytes = float("inf")  # since the last look; the first one comes with the first new copy


def entry(name: str) -> Path:
    """The folder of an entry, noted as used now; it need not exist yet."""
    folder = _root() / name
    if folder.is_dir():
        os.utime(folder)
    return folder


def added(copy: Path) -> None:
    """To be called after a new copy: makes room where there is too much."""
    global _new_bytes
    _new_bytes += copy.stat().st_size
    limit = _limit()
    if _new_bytes > LOOK_EVERY * limit:
        _new_bytes = 0.0
        trim(_root(), limit)


def trim(root: Path, limit: float) -> None:
    """Remove least recently used entries below `root` until the others have `limit` bytes at most.

    Other processes may add, rename and remove files meanwhile.
    """
    used = {folder: about.st_mtime for folder, about in _there(root.iterdir()) if S_ISDIR(about.st_mode)}
    sizes = {folder: _sizes(folder) for folder in used}
    held = Counter(file for files in sizes.values() for file in files)  # a copy may be linked to by a folder
    total = sum({file: size for files in sizes.values() for file, size in files.items()}.values())
    for folder in sorted(used, key=lambda folder: used[folder]):
        if total <= limit or time.time() - used[folder] < IN_USE_SECONDS:
            return
        shutil.rmtree(folder, ignore_errors=True)
        held.subtract(list(sizes[folder]))
        total -= sum(size for file, size in sizes[folder].items() if held[file] == 0)


def _sizes(folder: Path) -> dict[int, int]:
    """Bytes of the files below an entry by inode."""
    found = _there(Path(place, file) for place, _, files in os.walk(folder) for file in files)
    return {about.st_ino: about.st_size for _, about in found}


def _there(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()


def _limit() -> float:
    text = os.environ.get("FT2RAY_CACHE_GB", "100")
    try:
        return 1e9 * float(text)
    except ValueError as error:
        raise UserError(f"FT2RAY_CACHE_GB is {text!r}; give a number of gigabytes") from error


def _root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ft2ray" / "s3"
