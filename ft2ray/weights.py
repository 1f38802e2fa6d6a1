"""Published weights as files: found by path or hub name, read from their headers, told apart by content.

Only safetensors: nothing here opens a pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from ft2ray.errors import WeightsError

_HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_ERRORS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)


def find(name: str, base: Path, what: str, patterns: Iterable[str] | None = None) -> Path:
    """Where `name` lies on this machine: a path (from `base` on), or owner/name[/file] on the hub.

    what: the setting, for the message; patterns: the files of a hub repository that are wanted. Raises
    ValueError where there is neither.
    """
    if (base / name).exists():
        return base / name
    hub = _HUB_NAME.fullmatch(name)
    if hub is None:
        raise WeightsError(f"weights: {what} {name} is no folder or file of {base} and no name on the hub")
    try:
        if hub[2]:
            return Path(hf_hub_download(hub[1], hub[2]))
        return Path(snapshot_download(name, allow_patterns=None if patterns is None else list(patterns)))
    except _HUB_ERRORS as error:
        raise WeightsError(
            f"weights: {what} {name} is not below {base}, and the hub does not give it "
            f"({type(error).__name__}); download it and give its path"
        ) from error


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors files of one part: a single one, or the shards of its index."""
    index = folder / f"{stem}.safetensors.index.json"
    names = [f"{stem}.safetensors"]
    if index.is_file():
        names = sorted(set(read_json(index, "an index of shards").get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in _PICKLED)
    if missing and pickled:
        raise WeightsError(
            f"weights: {folder} lacks {missing[0]} but has {', '.join(pickled)}: pickled weights can run "
            "code and are not read; save the model as safetensors"
        )
    if missing or not names:
        raise WeightsError(
            f"weights: {folder} lacks {', '.join(missing) or 'its shards'}; the download is incomplete"
        )
    return [folder / name for name in names]


def tensor_shapes(file: Path) -> dict[str, torch.Tensor]:
    """Names and shapes of a safetensors file (as tensors without data), from its header alone."""
    try:
        with safe_open(file, "pt") as tensors:
            keys = list(tensors.keys())
            return {key: torch.empty(tensors.get_slice(key).get_shape(), device="meta") for key in keys}
    except SafetensorError as error:
        raise WeightsError(f"weights: {file} is damaged or no safetensors file ({error})") from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object; ValueError that says what was expected where there is none."""
    if not path.is_file():
        raise WeightsError(f"weights: no {path}; {path.parent} is not {what}")
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"weights: {path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise WeightsError(f"weights: {path} holds no JSON object")
    return value


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's files."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path)} {content_digest(file)}\n".encode())
        return digest.hexdigest()
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", target.name):
        return target.name  # the hub's cache names large files by this very digest
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
