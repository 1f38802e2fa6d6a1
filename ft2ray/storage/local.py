"""Files of this machine: written whole, synced, and explained where the operating system refuses."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ft2ray.errors import DataError, StoreRefused, StoreUnavailable
from ft2ray.storage.interface import Files

log = logging.getLogger(__name__)

LEFTOVER = re.compile(r"\.ft2ray-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")
LEFTOVER_AGE = 24 * 3600.0  # seconds after which a temporary file of another machine counts as left behind

SAYS: dict[int | None, tuple[type[Exception], str]] = {
    errno.ENOSPC: (StoreUnavailable, "the disk is full (No space left on device); free or enlarge it"),
    errno.EDQUOT: (StoreUnavailable, "your quota is used up (Disk quota exceeded); free or enlarge it"),
    errno.EIO: (StoreUnavailable, "the disk reports an input/output error; check it"),
    errno.ESTALE: (StoreUnavailable, "the file server lost it (stale file handle); mount it again"),
    errno.EACCES: (StoreRefused, "permission denied; give this user the right to read and write there"),
    errno.EPERM: (StoreRefused, "operation not permitted; give this user the right to read and write there"),
    errno.EROFS: (StoreRefused, "the file system is read-only; choose a place that can be written to"),
    errno.ENAMETOOLONG: (DataError, "the name is too long for this file system; choose a shorter one"),
    errno.ENOTDIR: (DataError, "a part of this path is a file, not a folder; choose another path"),
    errno.EEXIST: (DataError, "a part of this path is a file, not a folder; choose another path"),
    errno.EISDIR: (DataError, "this is a folder, not a file; choose another path"),
    errno.ENOTEMPTY: (DataError, "there are files in this folder already; give a new one"),
    errno.ELOOP: (DataError, "symbolic links lead round in a circle; mend them"),
}

OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)


@contextmanager
def explained(url: str | Path, which: Container[int | None] = SAYS) -> Iterator[None]:
    """What the operating system refuses as an FT2RayError that names `url`; other errors as they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in which:
            raise
        kind, sentence = SAYS[error.errno]
        raise kind(f"{url}: {sentence}") from error


class LocalFiles(Files):
    """Files of this machine, or of a shared file system that it mounts."""

    def exists(self, url: str) -> bool:
        with explained(url):
            return Path(url).is_file()

    def size(self, url: str) -> int:
        with explained(url):
            return Path(url).stat().st_size

    def read(self, url: str) -> bytes:
        with explained(url):
            return Path(url).read_bytes()

    def write(self, url: str, data: bytes, if_absent: bool) -> bool:
        path = Path(url)
        with explained(url), _temporary_beside(path) as temporary:
            temporary.write_bytes(data)
            return _put_in_place(temporary, path, if_absent)

    def names(self, folder: str, recursive: bool) -> list[str]:
        with explained(folder):
            return list(_walk(folder, "", recursive, frozenset()))

    def versions(self, folder: str) -> list[tuple[str, str]]:
        about = ((file, (Path(folder) / file).stat()) for file in self.names(folder, recursive=True))
        return [(file, f"{stat.st_size}-{stat.st_mtime_ns}") for file, stat in about]

    def upload(self, local: Path, url: str) -> None:
        with explained(url), _temporary_beside(Path(url)) as temporary:
            shutil.copyfile(local, temporary)
            _put_in_place(temporary, Path(url))

    def download(self, url: str, local: Path) -> None:
        self.upload(Path(url), str(local))

    def delete(self, url: str) -> None:
        with explained(url):
            Path(url).unlink(missing_ok=True)

    def folders(self, folder: str) -> list[str]:
        path = Path(folder)
        with explained(folder):
            return [found.name for found in path.iterdir() if found.is_dir()] if path.is_dir() else []

    def delete_folder(self, url: str) -> None:
        with explained(url), suppress(FileNotFoundError):
            shutil.rmtree(url)

    def local_copy(self, url: str) -> Path:
        return Path(url)

    def local_folder(self, url: str) -> Path:
        return Path(url)

    @contextmanager
    def new_file(self, url: str) -> Iterator[Path]:
        path = Path(url)
        with folder_beside(path) as folder:
            yield folder / path.name
            with explained(url):
                _put_in_place(folder / path.name, path)

    @contextmanager
    def new_folder(self, url: str, last: str) -> Iterator[Path]:
        path = Path(url)
        with folder_beside(path) as folder:
            whole = folder / path.name
            whole.mkdir()
            yield whole
            for file in whole.rglob("*"):
                if file.is_file():
                    _sync(file)
            with explained(url):
                os.rename(whole, path)  # fails where `path` already has files in it

    def link(self, url: str, seconds: int) -> str | None:
        return None

    @contextmanager
    def exclusive(self, url: str, what: str) -> Iterator[None]:
        lock = FileLock(url)
        with explained(url):
            Path(url).parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise DataError(
                    f"another {what} is working in {Path(url).parent}; wait for it or choose another folder"
                ) from error
        try:
            _remove_leftovers(Path(url).parent)
            yield
        finally:
            lock.release()


LOCAL = LocalFiles()


def _walk(folder: str, below: str, recursive: bool, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """Files in `folder` that are not hidden; symbolic links are followed, but not round in a circle."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        about = os.stat(folder)
        here = (about.st_dev, about.st_ino)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if recursive and here not in above:
                    yield from _walk(entry.path, f"{below}{entry.name}/", recursive, above | {here})
            elif entry.is_file():
                yield below + entry.name


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / _temporary_name()
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, path: Path, if_absent: bool = False) -> bool:
    _sync(temporary)
    if not if_absent:
        os.replace(temporary, path)
        return True
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def _sync(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `path`; what a kill leaves of it `exclusive` removes."""
    folder = path.parent / _temporary_name()
    with explained(path):
        folder.mkdir(parents=True, mode=0o700)
    try:
        with explained(path, OF_WRITING):  # what else happens in the block may be about other files
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of processes that are gone."""
    for found in folder.rglob(".ft2ray-*"):
        owner = LEFTOVER.fullmatch(found.name)
        with suppress(FileNotFoundError):  # several processes start at once
            if owner is not None and _is_gone(owner["host"], int(owner["pid"]), found.stat().st_mtime):
                log.warning("removing %s, which a killed process left behind", found)
                shutil.rmtree(found, ignore_errors=True) if found.is_dir() else found.unlink()


def _is_gone(host: str, pid: int, written: float) -> bool:
    if host != socket.gethostname():
        return time.time() - written > LEFTOVER_AGE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's: it lives
    return False


def _temporary_name() -> str:
    return f".ft2ray-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
