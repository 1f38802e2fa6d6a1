"""Where files and rows live: local paths and s3:// URLs, by the same functions."""

from __future__ import annotations

from pathlib import Path

from ft2ray.storage.checkpoints import Checkpoints
from ft2ray.storage.files import (
    WEEK,
    absolute,
    base_name,
    delete,
    delete_folder,
    download,
    exclusive,
    exists,
    join,
    list_files,
    list_folders,
    local_copy,
    local_folder,
    local_path,
    new_file,
    new_folder,
    presigned,
    read_bytes,
    size,
    upload,
    upload_folder,
    versions,
    write_atomically,
)
from ft2ray.storage.rows import RowStore
from ft2ray.storage.seals import (
    DIGESTS,
    check_files,
    check_folder,
    file_digests,
    plain_json,
    read_json,
    seal_folder,
    write_json,
)

__all__ = [
    "DIGESTS",
    "WEEK",
    "Checkpoints",
    "RowStore",
    "absolute",
    "check_files",
    "check_folder",
    "file_digests",
    "seal_folder",
    "base_name",
    "delete",
    "delete_folder",
    "download",
    "exclusive",
    "exists",
    "is_s3",
    "join",
    "list_files",
    "list_folders",
    "local_copy",
    "local_folder",
    "local_path",
    "new_file",
    "new_folder",
    "plain_json",
    "presigned",
    "read_bytes",
    "read_json",
    "size",
    "upload",
    "upload_folder",
    "versions",
    "write_atomically",
    "write_json",
]


def is_s3(url: str | Path) -> bool:
    return local_path(url) is None
