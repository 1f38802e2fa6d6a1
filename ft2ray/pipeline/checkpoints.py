"""Where Ray Train keeps the checkpoints of a run, and its list of them.

Ray writes and reads both through pyarrow, which neither replaces a local file as a whole nor waits for a
store that answers with errors. Here files appear whole and a store is waited for (as everywhere: storage.py).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from pyarrow.fs import FileInfo, FileSystem, FileType, LocalFileSystem, S3FileSystem
from ray.train import Checkpoint, CheckpointUploadMode

from ft2ray import s3
from ft2ray.storage import (
    delete,
    exists,
    filesystem,
    is_s3,
    join,
    local_folder,
    upload_folder,
    write_atomically,
)


class LocalFiles(LocalFileSystem):
    """The local file system, but what Python writes to a stream appears whole or not at all.

    Ray writes its list over the last one. Were it cut off there, by a full disk or a kill, Ray would refuse
    to read what it left behind, and the training could not ever go on.
    """

    @contextmanager
    def open_output_stream(self, path: str, *_: Any, **__: Any) -> Iterator[io.BytesIO]:
        written = io.BytesIO()
        yield written
        write_atomically(path, written.getvalue())

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return LocalFiles, ()


class S3Files(s3.Store):
    """What Ray asks of a store, by boto3: for pyarrow a single error in the answer to HEAD is the end."""

    @contextmanager
    def open_output_stream(self, path: str, *_: Any, **__: Any) -> Iterator[io.BytesIO]:
        written = io.BytesIO()
        yield written
        write_atomically(s3.SCHEME + path, written.getvalue())

    def open_input_stream(self, path: str, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(s3.read(s3.SCHEME + path).data)

    def create_dir(self, path: str, **_: Any) -> None:
        """A store has no folders."""

    def delete_dir(self, path: str) -> None:
        for name, _ in s3.listing(s3.SCHEME + path, recursive=True):
            delete(join(s3.SCHEME + path, name))

    def get_file_info(self, wanted: Any) -> Any:
        if not isinstance(wanted, str):
            return s3.ask(str(wanted), lambda: super(S3Files, self).get_file_info(wanted))
        if exists(s3.SCHEME + wanted):
            return FileInfo(wanted, FileType.File)
        folder = s3.listing(s3.SCHEME + wanted, recursive=True)
        return FileInfo(wanted, FileType.Directory if folder else FileType.NotFound)


def checkpoint_files(run_dir: str) -> tuple[FileSystem, str]:
    """The file system that Ray Train is given, and the path in it."""
    if is_s3(run_dir):
        return s3.filesystem(S3Files), join(run_dir, "train").removeprefix(s3.SCHEME)
    return LocalFiles(), filesystem(join(run_dir, "train"))[1]


class Checkpoints:
    """Hands the checkpoints of a worker to Ray, which keeps the list of them and deletes old ones."""

    def __init__(self, run_dir: str, key: str):
        self.run_dir, self.key = run_dir, key
        self.last: Path | None = None

    def report(self, folder: Path, step: int) -> None:
        """Upload while the training goes on; where the last one is still on its way, wait for both.

        A store slower than `resources.compute.checkpoint_every` would fill the disk otherwise.
        """
        behind = self.last is not None and self.last.exists()
        ray.train.report(
            {"step": step},
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if behind else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
            checkpoint_upload_fn=self.upload,
        )
        self.last = folder

    def upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        """What Ray calls with the folder on this worker's disk and the name that it is to have."""
        upload_folder(checkpoint.path, join(self.run_dir, "train", self.key, name), last="")
        files, path = checkpoint_files(self.run_dir)
        return Checkpoint(f"{path}/{self.key}/{name}", files)


def checkpoint_folder(checkpoint: Checkpoint) -> Path:
    """The files of a checkpoint, on this machine."""
    in_store = isinstance(checkpoint.filesystem, S3FileSystem)
    return local_folder((s3.SCHEME if in_store else "") + checkpoint.path)
