"""Where Ray Train keeps the checkpoints of a run, and its list of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyarrow.fs import FileSystem, LocalFileSystem

from ft2ray.storage import filesystem, is_s3, join, new_file


class WholeFiles(LocalFileSystem):
    """The local file system, but what Python writes to a stream appears whole or not at all.

    Ray Train writes its list over the last one. Were it cut off there, by a full disk or a kill, it would
    refuse to read what it left behind, and the training could not ever go on. (S3 knows whole objects only.)
    """

    @contextmanager
    def open_output_stream(self, path: str, *_: Any, **__: Any) -> Iterator[Any]:
        with new_file(path) as file, open(file, "wb") as stream:
            yield stream

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return WholeFiles, ()


def checkpoint_files(run_dir: str) -> tuple[FileSystem, str]:
    """The file system and the path in it that Ray Train is given."""
    files, path = filesystem(join(run_dir, "train"))
    return files if is_s3(run_dir) else WholeFiles(), path
