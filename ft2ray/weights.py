"""Published weights as files: found by path or hub name, read from their headers, told apart by content.

Only safetensors: nothing here opens a pickle.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

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
        raise WeightsError(
            f"weights: {what} {name} is neither a folder or file of {base} nor a name on the hub"
        )
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


def check_fit(wanted: Mapping[str, Any], given: Mapping[str, Any], source: str) -> None:
    """Raise ValueError that names every missing, unknown or misshapen key of `given`.

    Both map names to tensors or anything else with a `shape`; source: what to call `given` in the message.
    """
    problems = [f"missing {key}" for key in wanted if key not in given]
    problems += [f"unknown {key}" for key in given if key not in wanted]
    problems += [
        f"{key} has shape {list(given[key].shape)}, the model wants {list(wanted[key].shape)}"
        for key in wanted
        if key in given and tuple(given[key].shape) != tuple(wanted[key].shape)
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise WeightsError(f"{source} does not fit the model: {shown}")


def load_strictly(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy `tensors` into `module`; ValueError as in `check_fit`, and then nothing is copied."""
    check_fit(module.state_dict(), tensors, source)
    module.load_state_dict(dict(tensors))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; raises ValueError if it is missing, damaged or of another format."""
    if not path.is_file():
        raise WeightsError(f"weights: no file {path}")
    if path.suffix != ".safetensors":
        raise WeightsError(f"weights: {path.name} is not a .safetensors file; pickled weights are not read")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"weights: {path} is damaged or no safetensors file ({error})") from error


def stream_into(
    model: nn.Module,
    files: Sequence[Path],
    wanted: Mapping[str, Any],
    name_of: Callable[[str], str | None],
    dtype_of: Callable[[str], torch.dtype],
    device: torch.device | str,
) -> None:
    """Fill a model of empty tensors from its shards, one tensor at a time: no second copy of it in memory.

    Args:
        model: to be filled.
        files: its shards.
        wanted: names and shapes that the files must give, no more and no less. This is checked first.
        name_of: the model's name of a stored tensor, None where that is not read.
        dtype_of: type of the tensor of a name.
        device: where the tensors go.

    Raises:
        WeightsError: that names what is missing, unknown, misshapen or damaged.
    """
    from accelerate.utils import set_module_tensor_to_device  # takes seconds to import, and others only look

    shapes = {key: shape for file in files for key, shape in tensor_shapes(file).items()}
    stored = {name: shape for key, shape in shapes.items() if (name := name_of(key)) is not None}
    check_fit(wanted, stored, str(files[0].parent))
    for file in files:
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  # not a dict
                if (name := name_of(key)) is not None:
                    value = tensors.get_tensor(key)
                    set_module_tensor_to_device(model, name, device, value=value, dtype=dtype_of(name))


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


def first_line(error: Exception) -> str:
    """What a library's error says, without the advice below it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
