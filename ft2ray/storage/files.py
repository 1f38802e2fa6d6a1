"""Files at local paths and s3:// URLs, by the same functions.

A `url` is a local path or s3://bucket/key; any other scheme is refused. Readers see the old file or the new
one, never a part of it. A file that is not there is a FileNotFoundError; whatever else a disk or a store
answers is an FT2RayError that names the path.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import socket
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ft2ray import scratch
from ft2ray.errors import ConfigurationError, DataError, StoreRefused, StoreUnavailable, UserError
from ft2ray.scratch import scratch_folder

log = logging.getLogger(__name__)

WEEK = 7 * 24 * 3600
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
LEFTOVER = re.compile(r"\.ft2ray-(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{8}")
LEFTOVER_AGE = 24 * 3600.0  # seconds after which a temporary file of another machine is nobody's


class Files(ABC):
    """What a place for files has to do. All paths are whole URLs of that place."""

    @abstractmethod
    def exists(self, url: str) -> bool:
        """Whether there is a file; a folder is not one."""

    @abstractmethod
    def size(self, url: str) -> int:
        """Bytes of the file; FileNotFoundError where there is none."""

    @abstractmethod
    def read(self, url: str) -> bytes:
        """The contents; FileNotFoundError where there is no such file."""

    @abstractmethod
    def write(self, url: str, data: bytes, if_absent: bool) -> bool:
        """Write the file whole; with `if_absent` exactly one of several writers gets True."""

    @abstractmethod
    def names(self, folder: str, recursive: bool) -> list[str]:
        """Paths of the files in the folder, relative to it, in any order."""

    @abstractmethod
    def versions(self, folder: str) -> list[tuple[str, str]]:
        """(relative path, version) of all files below the folder; a file that changes has another version."""

    @abstractmethod
    def upload(self, local: Path, url: str) -> None:
        """Copy a file of this machine to `url`."""

    @abstractmethod
    def download(self, url: str, local: Path) -> None:
        """Copy `url` to a path of this machine."""

    @abstractmethod
    def delete(self, url: str) -> None:
        """Remove the file; nothing happens where there is none."""

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Names of the folders in the folder, in any order."""

    @abstractmethod
    def delete_folder(self, url: str) -> None:
        """Remove all files below the folder; nothing happens where there is none."""

    @abstractmethod
    def local_copy(self, url: str) -> Path:
        """A path of this machine with the file's contents."""

    @abstractmethod
    def local_folder(self, url: str) -> Path:
        """A folder of this machine with the folder's files."""

    @abstractmethod
    def new_folder(self, url: str, last: str) -> AbstractContextManager[Path]:
        """A folder to fill, which becomes `url` at the end of the block; the file `last` appears last."""

    @abstractmethod
    def link(self, url: str, seconds: int) -> str | None:
        """A link by which anybody reads the file over HTTP for a while; None where the place has none."""

    @abstractmethod
    def exclusive(self, url: str, what: str) -> AbstractContextManager[None]:
        """Hold the lock file `url`; DataError where another process does `what`."""


def files_of(url: str | Path) -> Files:
    """The place that the URL's scheme names.

    Raises:
        ConfigurationError: for any scheme but s3://.
    """
    scheme = SCHEME.match(str(url))
    if scheme is None:
        return LOCAL
    if not str(url).startswith("s3://"):
        raise ConfigurationError(
            f"{url}: files cannot be kept at {scheme.group()}...; give a local path or s3://bucket/path"
        )
    from ft2ray.storage.s3 import S3  # boto3 takes a third of a second to import

    return S3


def local_path(url: str | Path) -> Path | None:
    """The path itself where it is one of this machine, None for a URL of a store."""
    return Path(url) if files_of(url) is LOCAL else None


def join(root: str | Path, *parts: str) -> str:
    """`root` and the parts below it as one path or URL."""
    if local_path(root) is not None:
        return str(Path(root, *parts))
    return "/".join([str(root).rstrip("/"), *(part.strip("/") for part in parts)])


def base_name(url: str | Path) -> str:
    """The last part of the path."""
    return str(url).rstrip("/").rsplit("/", 1)[-1]


def absolute(url: str | Path) -> str:
    """The same place for processes that sit in other folders."""
    path = local_path(url)
    return str(url) if path is None else str(path.absolute())


def exists(url: str | Path) -> bool:
    """Whether there is a file `url`; a folder is not one."""
    return files_of(url).exists(str(url))


def size(url: str | Path) -> int:
    """Bytes of the file `url`; FileNotFoundError where there is none."""
    return files_of(url).size(str(url))


def read_bytes(url: str | Path) -> bytes:
    """The contents of the file `url`; FileNotFoundError where there is none."""
    return files_of(url).read(str(url))


def write_atomically(url: str | Path, data: bytes, if_absent: bool = False) -> bool:
    """Write the file `url` whole, whatever kills the writer.

    With `if_absent` a file that is there already stays as it is, and the answer is False; of several writers
    at once exactly one gets True.
    """
    return files_of(url).write(str(url), data, if_absent)


def list_files(folder: str | Path, suffix: str = "", recursive: bool = False) -> list[str]:
    """Names of the files in `folder` (`recursive`: paths relative to it), sorted, hidden ones left out."""
    names = files_of(folder).names(str(folder), recursive)
    return sorted(n for n in names if n.endswith(suffix) and not n.startswith(".") and "/." not in n)


def versions(folder: str | Path) -> list[tuple[str, str]]:
    """(path relative to it, version) of all files below `folder`: differs whenever one of them does."""
    return sorted(files_of(folder).versions(str(folder)))


def upload(local: str | Path, url: str | Path) -> None:
    """Copy a local file to `url`, in parts where it is large; it appears whole or not at all."""
    files_of(url).upload(Path(local), str(url))


def download(url: str | Path, local: str | Path) -> None:
    """Copy the file `url` to a local path; it appears whole or not at all."""
    files_of(url).download(str(url), Path(local))


def delete(url: str | Path) -> None:
    """Remove the file `url`; nothing happens where there is none."""
    files_of(url).delete(str(url))


def list_folders(folder: str | Path) -> list[str]:
    """Names of the folders in `folder`, sorted, hidden ones left out."""
    return sorted(name for name in files_of(folder).folders(str(folder)) if not name.startswith("."))


def delete_folder(url: str | Path) -> None:
    """Remove the folder `url` and all files below it; nothing happens where there is none."""
    files_of(url).delete_folder(str(url))


def local_copy(url: str | Path) -> Path:
    """The path itself where it is local, else a copy in the cache, fetched again when the object changes."""
    return files_of(url).local_copy(str(url))


def local_folder(url: str | Path) -> Path:
    """The folder itself where it is local, else the cached copies of all its files under their names.

    Raises:
        UserError: where there are no files under an s3:// URL.
    """
    return files_of(url).local_folder(str(url))


def upload_folder(local: str | Path, url: str | Path, last: str = "") -> None:
    """Copy all files below a local folder; `last` goes last, so whoever sees it finds all the others."""
    for file in sorted(list_files(local, recursive=True), key=lambda file: (file == last, file)):
        upload(Path(local) / file, join(url, file))


@contextmanager
def new_file(url: str | Path) -> Iterator[Path]:
    """A local path to write to, which becomes `url` when the block ends; after an error nothing does."""
    path = local_path(url)
    with scratch_folder() if path is None else folder_beside(path) as folder:
        written = folder / base_name(url)  # under its own name: the ending may say what is to be written
        yield written
        if path is None:
            upload(written, url)
        else:
            with explained(url):
                _put_in_place(written, path)


def new_folder(url: str | Path, last: str = "") -> AbstractContextManager[Path]:
    """A local folder to fill, which becomes `url` when the block ends; after an error nothing does.

    Where a folder cannot appear at once (S3), the file `last` appears last: whoever sees it finds the others.
    """
    return files_of(url).new_folder(str(url), last)


def presigned(url: str | Path, seconds: int) -> str | None:
    """A link by which anybody reads this one file over HTTP during the next `seconds`; None for a local file.

    Raises:
        UserError: for more than a week.
    """
    if not 0 < seconds <= WEEK:
        raise UserError(f"no link to {url} for {seconds} s: links last for a week at most")
    return files_of(url).link(str(url), seconds)


@contextmanager
def exclusive(folder: str | Path, what: str) -> Iterator[None]:
    """Only one process does `what` in `folder`; the lock goes with the process, however that ends.

    In a store it goes a minute after the process, and whoever starts again at once waits for that. What
    killed processes left behind in the folder is removed.

    Raises:
        DataError: where another process does `what` there.
    """
    with files_of(folder).exclusive(join(folder, ".lock"), what):
        path = local_path(folder)
        if path is not None:
            _remove_leftovers(path)
        scratch.remove_leftovers()
        yield


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
        about = ((file, (Path(folder) / file).stat()) for file in list_files(folder, recursive=True))
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
