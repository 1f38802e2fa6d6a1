"""Temporary folders that do not outlive their process, even one that is killed.

Portraits and recordings of users pass through them. A folder holds a file that its process keeps locked; the
kernel lets go of the lock when the process ends, however it ends, so that the next start knows which folders
nobody uses any more. A process id would not do: ids are used again, and containers share /tmp but not ids.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "ft2ray-scratch-"
_LOCK = ".in-use"
_SETTLED_SECONDS = 60.0  # a younger folder without that file may be one that is just being made


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the system's temporary directory, removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with (folder / (_LOCK + ".new")).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (folder / (_LOCK + ".new")).rename(folder / _LOCK)  # under this name it is locked from the start
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a thread that missed its deadline may still write there


def remove_leftovers() -> list[Path]:
    """Remove this user's scratch folders whose process has ended; call it once when a process starts.

    Returns:
        What was removed.
    """
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            if _in_use(folder):
                continue
            shutil.rmtree(folder)
        except OSError:  # another user's, or another process removes it at this moment
            continue
        removed.append(folder)
    return removed


def _in_use(folder: Path) -> bool:
    try:
        with (folder / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime < _SETTLED_SECONDS
    except BlockingIOError:
        return True
    return False
