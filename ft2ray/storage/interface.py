"""What a place for files has to do; `local.py` and `s3.py` are the two that there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path


class Files(ABC):
    """A place for files. All paths are whole URLs of that place."""

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
    def new_file(self, url: str) -> AbstractContextManager[Path]:
        """A local path to write to, which becomes `url` at the end of the block."""

    @abstractmethod
    def new_folder(self, url: str, last: str) -> AbstractContextManager[Path]:
        """A folder to fill, which becomes `url` at the end of the block; the file `last` appears last."""

    @abstractmethod
    def link(self, url: str, seconds: int) -> str | None:
        """A link by which anybody reads the file over HTTP for a while; None where the place has none."""

    @abstractmethod
    def exclusive(self, url: str, what: str) -> AbstractContextManager[None]:
        """Hold the lock file `url`; DataError where another process does `what`."""
