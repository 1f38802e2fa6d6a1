"""Where files live: local paths and s3:// URLs, by the same functions; and folders of rows.

A `url` is a local path or s3://bucket/key. Readers see the old file or the new one, never a part of it. What
boto3 and pyarrow complain of comes out as ValueError (StoreUnavailable where trying later may help), a file
that is not there as FileNotFoundError.

A RowStore is a folder of small Parquet shards, each of which appears whole or not at all. A shard is named
after its contents, so writing the same rows twice leaves one file, and whatever is listed in the store is
never made again.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from ft2ray import object_cache, s3
from ft2ray.arrow_rows import python_rows
from ft2ray.errors import UserError
from ft2ray.records import content_id

READERS = 16  # shards read at a time; as many connections as the client of S3 keeps
WEEK = 7 * 24 * 3600


def is_s3(url: str | Path) -> bool:
    return isinstance(url, str) and url.startswith(s3.SCHEME)


def join(root: str | Path, *parts: str) -> str:
    if is_s3(root):
        return "/".join([str(root).rstrip("/"), *(part.strip("/") for part in parts)])
    return str(Path(root, *parts))


def base_name(url: str | Path) -> str:
    """The last part of the path."""
    return str(url).rstrip("/").rsplit("/", 1)[-1] if is_s3(url) else Path(url).name


def absolute(url: str | Path) -> str:
    """The same place for processes that sit in other folders."""
    return str(url) if is_s3(url) else str(Path(url).absolute())


def exists(url: str | Path) -> bool:
    """Whether there is a file `url`; a folder is not one."""
    return s3.head(str(url)) is not None if is_s3(url) else Path(url).is_file()


def size(url: str | Path) -> int:
    """Bytes of the file `url`; FileNotFoundError where there is none."""
    return _require(url)["ContentLength"] if is_s3(url) else Path(url).stat().st_size


def read_bytes(url: str | Path) -> bytes:
    return s3.read(str(url)).data if is_s3(url) else Path(url).read_bytes()


def write_atomically(url: str | Path, data: bytes, if_absent: bool = False) -> bool:
    """Readers see the old file or the new one, never a part of it, whatever kills the writer.

    With `if_absent` a file that is there already stays as it is, and the answer is False; of several writers
    at once exactly one gets True.
    """
    if is_s3(url):
        return s3.put(str(url), data, if_absent) is not None
    path = Path(url)
    with _temporary_beside(path) as temporary:
        temporary.write_bytes(data)
        return _put_in_place(temporary, path, if_absent)


def list_files(folder: str | Path, suffix: str = "", recursive: bool = False) -> list[str]:
    """Names of the files in `folder` (`recursive`: paths relative to it), sorted, hidden ones left out."""
    if is_s3(folder):
        found: Iterable[str] = (path for path, _ in s3.listing(str(folder), recursive))
    else:
        paths = Path(folder).rglob("*") if recursive else Path(folder).glob("*")
        found = (path.relative_to(folder).as_posix() for path in paths if path.is_file())
    return sorted(n for n in found if n.endswith(suffix) and not n.startswith(".") and "/." not in n)


def versions(folder: str | Path) -> list[tuple[str, str]]:
    """(path relative to it, version) of all files below `folder`: differs whenever one of them does."""
    if is_s3(folder):
        return sorted(s3.listing(str(folder), recursive=True))
    about = ((file, (Path(folder) / file).stat()) for file in list_files(folder, recursive=True))
    return [(file, f"{stat.st_size}-{stat.st_mtime_ns}") for file, stat in about]


def upload(local: str | Path, url: str | Path) -> None:
    """Copy a local file to `url`, in parts where it is large; it appears whole or not at all."""
    if not is_s3(url):
        with _temporary_beside(Path(url)) as temporary:
            shutil.copyfile(local, temporary)
            _put_in_place(temporary, Path(url))
        return
    bucket, key = s3.split(str(url))

    def send() -> None:
        with open(local, "rb") as stream:
            s3.client().upload_fileobj(stream, bucket, key, Config=s3.TRANSFER)

    s3.ask(str(url), send)


def download(url: str | Path, local: str | Path) -> None:
    """Copy the file `url` to a local path; it appears whole or not at all."""
    if not is_s3(url):
        upload(url, local)
        return
    _require(url)
    bucket, key = s3.split(str(url))
    with _temporary_beside(Path(local)) as temporary:

        def fetch() -> None:
            with open(temporary, "wb") as stream:
                s3.client().download_fileobj(bucket, key, stream, Config=s3.TRANSFER)

        s3.ask(str(url), fetch)
        _put_in_place(temporary, Path(local))


def local_copy(url: str | Path) -> Path:
    """The path itself where it is local, else a copy in the cache, fetched again when the object changes."""
    if not is_s3(url):
        return Path(url)
    return _cached(str(url), _require(url)["ETag"])


def local_folder(url: str | Path) -> Path:
    """The folder itself where it is local, else the cached copies of all its files under their names.

    Raises ValueError where there are no files under an s3:// URL.
    """
    if not is_s3(url):
        return Path(url)
    folder = object_cache.entry(content_id(s3.client().meta.endpoint_url, str(url))) / base_name(url)
    found = dict(s3.listing(str(url), recursive=True))
    if not found:
        raise UserError(f"{url}: there are no files in this folder; check the URL")
    for known in list_files(folder, recursive=True):
        if known not in found:
            (folder / known).unlink(missing_ok=True)
    for path, etag in found.items():
        copy, linked = _cached(join(url, path), etag), folder / path
        if not (linked.is_file() and linked.samefile(copy)):
            with _temporary_beside(linked) as temporary:
                os.link(copy, temporary)
                os.replace(temporary, linked)
    return folder


def upload_folder(local: str | Path, url: str | Path, last: str) -> None:
    """Copy all files below a local folder; `last` goes last, so whoever sees it finds all the others."""
    for file in sorted(list_files(local, recursive=True), key=lambda file: (file == last, file)):
        upload(Path(local) / file, join(url, file))


@contextmanager
def new_file(url: str | Path) -> Iterator[Path]:
    """A local path to write to, which becomes `url` when the block ends; after an error nothing does."""
    parent = None if is_s3(url) else Path(url).parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".") as folder:
        path = Path(folder) / base_name(
            url
        )  # under its own name, since the ending may say what is to be written
        yield path
        if parent is None:
            upload(path, url)
        else:
            _put_in_place(path, Path(url))


def delete(url: str | Path) -> None:
    """Remove the file `url`; nothing happens where there is none."""
    if is_s3(url):
        bucket, key = s3.split(str(url))
        s3.ask(str(url), lambda: s3.client().delete_object(Bucket=bucket, Key=key))
    else:
        Path(url).unlink(missing_ok=True)


def filesystem(url: str | Path) -> tuple[FileSystem, str]:
    """For Ray and Parquet: pyarrow's file system of `url` and the path of `url` within it."""
    if is_s3(url):
        with s3.explained(str(url)):
            return s3.filesystem(), str(url).removeprefix(s3.SCHEME).rstrip("/")
    return LocalFileSystem(), absolute(url)


def presigned(url: str | Path, seconds: int) -> str:
    """A link by which anybody reads this one file over HTTP during the next `seconds`."""
    if not is_s3(url) or not 0 < seconds <= WEEK:
        raise UserError(f"no link to {url} for {seconds} s: only s3:// URLs have links, for a week at most")
    bucket, key = s3.split(str(url))
    with s3.explained(str(url)):
        return s3.client().generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
        )


def _require(url: str | Path) -> dict[str, Any]:
    about = s3.head(str(url))
    if about is None:
        raise FileNotFoundError(f"{url}: no such file")
    return about


def _cached(url: str, etag: str) -> Path:
    copy = object_cache.entry(content_id(s3.client().meta.endpoint_url, url, etag)) / base_name(url)
    if not copy.is_file():
        download(url, copy)
        object_cache.added(copy)
    return copy


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        yield temporary
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a failed write names no file
    finally:
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, path: Path, if_absent: bool = False) -> bool:
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    if not if_absent:
        os.replace(temporary, path)
        return True
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    return True


class RowStore:
    """Rows of one Arrow schema under `root`, keyed by the string column `key`."""

    def __init__(self, root: str | Path, schema: pa.Schema, key: str):
        self.root, self.schema, self.key = str(root), schema, key

    def commit(self, rows: list[dict[str, Any]]) -> str:
        """Write `rows` as one shard, atomically; returns its name."""
        shard = self._shard_name(rows)
        write_atomically(join(self.root, shard), self._parquet(rows))
        return shard

    def commit_once(self, rows: list[dict[str, Any]]) -> bool:
        """Write `rows` unless a shard of the same keys is there; of several writers exactly one gets True."""
        return write_atomically(join(self.root, self._shard_name(rows)), self._parquet(rows), if_absent=True)

    def shards(self) -> list[str]:
        """Names of the committed shards, sorted (the same order on every machine)."""
        return list_files(self.root, ".parquet")

    def read(self, shard: str) -> list[dict[str, Any]]:
        """The rows of one shard."""
        file = pa.BufferReader(read_bytes(join(self.root, shard)))
        return python_rows(pq.read_table(file, schema=self.schema))

    def keys(self) -> set[str]:
        """Keys of everything committed; reads that one column only."""
        dataset = self._dataset()
        return s3.ask(self.root, lambda: set(dataset.to_table(columns=[self.key])[self.key].to_pylist()))

    def rows(self) -> Iterator[dict[str, Any]]:
        """All committed rows, each key once (two writers may both have committed a row)."""
        seen: set[str] = set()
        batches = self._dataset().to_batches()
        while True:
            with s3.explained(self.root):
                batch = next(batches, None)
            if batch is None:
                return
            for row in python_rows(pa.Table.from_batches([batch])):
                if row[self.key] not in seen:
                    seen.add(row[self.key])
                    yield row

    def table(self, columns: Sequence[str]) -> pa.Table:
        """These columns of all committed rows, shard by shard in their order; nothing else is read.

        Args:
            columns: paths in Parquet: "round", or "candidates.list.element.scores" inside a list of structs.
        """
        shards = self.shards()
        files, root = filesystem(self.root) if shards else (None, self.root)

        def read(source: Any, filesystem: FileSystem | None) -> pa.Table:
            with pq.ParquetFile(source, filesystem=filesystem, pre_buffer=True) as file:
                return file.read(columns=list(columns), use_threads=False)

        nothing = read(pa.BufferReader(self._parquet([])), None)  # so that a store without rows has columns
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(lambda shard: s3.ask(self.root, lambda: read(f"{root}/{shard}", files)), shards)
            return pa.concat_tables([nothing, *found])

    def has(self, key: str) -> bool:
        """Whether the row of `key` is committed, in a shard of its own."""
        return exists(join(self.root, _shard_name([key])))

    def get(self, key: str) -> dict[str, Any]:
        """The row of `key`, committed in a shard of its own; FileNotFoundError where it is not."""
        return self.read(_shard_name([key]))[0]

    def committed(self, keys: set[str]) -> set[str]:
        """Those of `keys` that are committed in shards of their own: one listing, nothing is read."""
        shards = set(self.shards())
        return {key for key in keys if _shard_name([key]) in shards}

    def _shard_name(self, rows: list[dict[str, Any]]) -> str:
        return _shard_name([row[self.key] for row in rows])

    def _parquet(self, rows: list[dict[str, Any]]) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=self.schema), sink, compression="zstd")
        return sink.getvalue().to_pybytes()

    def _dataset(self) -> ds.Dataset:
        """All shards as one dataset: pyarrow reads a few of them ahead, in their order."""
        shards = self.shards()
        files, root = filesystem(self.root) if shards else (LocalFileSystem(), self.root)
        paths = [f"{root}/{shard}" for shard in shards]
        return ds.dataset(paths, schema=self.schema, format="parquet", filesystem=files)


def _shard_name(keys: list[str]) -> str:
    assert keys, "a shard has at least one row"
    return content_id(sorted(keys)) + ".parquet"
