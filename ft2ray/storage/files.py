"""Files at local paths and s3:// URLs, by the same functions.

A `url` is a local path or s3://bucket/key; any other scheme is refused. Readers see the old file or the new
one, never a part of it. A file that is not there is a FileNotFoundError; whatever else a disk or a store
answers is an FT2RayError that names the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ft2ray import scratch
from ft2ray.errors import ConfigurationError, UserError
from ft2ray.extras import extra
from ft2ray.storage.interface import Files
from ft2ray.storage.local import LOCAL

WEEK = 7 * 24 * 3600
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_BUCKET = re.compile(r"s3://[^/]")


def files_of(url: str | Path) -> Files:
    """The place that the URL's scheme names.

    Raises:
        ConfigurationError: for any scheme but s3://, and for one without a bucket.
    """
    scheme = SCHEME.match(str(url))
    if scheme is None:
        return LOCAL
    if _BUCKET.match(str(url)) is None:
        raise ConfigurationError(
            f"{url}: files cannot be kept at {scheme.group()}...; give a local path or s3://bucket/path"
        )
    with extra("s3"):
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
    """Copy all files below a local folder; `last` goes last and shows that all are there."""
    for file in sorted(list_files(local, recursive=True), key=lambda file: (file == last, file)):
        upload(Path(local) / file, join(url, file))


def new_file(url: str | Path) -> AbstractContextManager[Path]:
    """A local path to write to, which becomes `url` when the block ends; after an error nothing does.

    It has the name of `url`: the ending may say what is to be written.
    """
    return files_of(url).new_file(str(url))


def new_folder(url: str | Path, last: str = "") -> AbstractContextManager[Path]:
    """A local folder to fill, which becomes `url` when the block ends; after an error nothing does.

    Where a folder cannot appear at once (S3), the file `last` appears last, and shows that all are there.
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
        scratch.remove_leftovers()
        yield
