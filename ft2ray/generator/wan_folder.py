"""Reading Wan's parts from folders in diffusers' layout, or from the Hugging Face hub by name.

Everything is checked before anything is loaded: the kind of pipeline, then every key and shape of the
transformer from the headers of its shards. A transformer of 14 B parameters is streamed to its device one
tensor at a time, so it never lies in memory twice. Only safetensors are read here.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from ft2ray.generator.checkpoint import check_fit, first_line
from ft2ray.generator.transformer import SpeechWanTransformer

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")
"""Sub-folders of a Wan pipeline that a generator is made of; the last two only where it is image-to-video."""

PIPELINES = ("WanImageToVideoPipeline", "WanPipeline")

_HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?")
_HUB_ERRORS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError)
_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError)


def find(name: str, base: Path, what: str, patterns: Iterable[str] | None = None) -> Path:
    """Where `name` lies on this machine: a path (from `base` on), or owner/name[/file] on the hub.

    what: the setting, for the message; patterns: the files of a hub repository that are wanted. Raises
    ValueError where there is neither.
    """
    if (base / name).exists():
        return base / name
    hub = _HUB_NAME.fullmatch(name)
    if hub is None:
        raise ValueError(f"wan: {what} {name} is no folder or file of {base} and no name on the hub")
    try:
        if hub[2]:
            return Path(hf_hub_download(hub[1], hub[2]))
        return Path(snapshot_download(name, allow_patterns=None if patterns is None else list(patterns)))
    except _HUB_ERRORS as error:
        raise ValueError(
            f"wan: {what} {name} is not below {base}, and the hub does not give it "
            f"({type(error).__name__}); download it and give its path"
        ) from error


def check_pipeline(folder: Path) -> None:
    """ValueError unless `folder` is a Wan 2.1 pipeline in diffusers' layout."""
    index = read_json(folder / "model_index.json", "a Wan2.1 pipeline in diffusers' layout")
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise ValueError(f"wan: {folder} is a {kind}, wanted is one of {', '.join(PIPELINES)} (Wan2.1)")
    if (index.get("transformer_2") or [None])[0] is not None:
        raise ValueError(f"wan: {folder} has two transformers (Wan2.2); give a Wan2.1 pipeline")
    for part in PARTS[:4]:
        if not (folder / part).is_dir():
            raise ValueError(f"wan: {folder} lacks {part}; the download is incomplete")


def load_backbone(
    kind: type[SpeechWanTransformer],
    folder: Path,
    settings: Mapping[str, Any],
    audio: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
) -> SpeechWanTransformer:
    """Wan's transformer from `folder` with speech from `audio` (names of `kind`), in evaluation mode.

    settings: the arguments of `kind` beside diffusers' own. Parts that diffusers keeps in float32 stay so.
    Raises ValueError that names what is missing, unknown or misshapen; then no tensor has been read.
    """
    with init_empty_weights():
        model = kind(**read_architecture(folder), **settings)
    own, audio_keys = model.state_dict(), model.audio_keys()
    files = weight_files(folder)
    shapes = {key: shape for file in files for key, shape in tensor_shapes(file).items()}
    ignored = WanTransformer3DModel._keys_to_ignore_on_load_unexpected or []  # of early conversions
    shapes = {key: shape for key, shape in shapes.items() if not any(part in key for part in ignored)}
    check_fit({key: own[key] for key in own if key not in audio_keys}, shapes, str(folder))
    check_fit({key: own[key] for key in own if key in audio_keys}, audio, "the audio checkpoint")

    def put(key: str, tensor: torch.Tensor) -> None:
        keep = any(part in key.split(".") for part in model._keep_in_fp32_modules or [])
        target = torch.float32 if keep else dtype
        set_module_tensor_to_device(model, key, device, value=tensor, dtype=target)

    for file in files:
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  # not a dict
                if key in shapes:
                    put(key, tensors.get_tensor(key))
    for key, tensor in audio.items():
        put(key, tensor)
    return model.to(device).eval().requires_grad_(False)  # to: the tables of the rotary embedding


def read_architecture(folder: Path) -> dict[str, Any]:
    """The arguments of WanTransformer3DModel in a transformer's config.json."""
    config = read_json(folder / "config.json", "a Wan transformer")
    if config.get("_class_name") != "WanTransformer3DModel":
        raise ValueError(f"wan: {folder} holds a {config.get('_class_name')}, not a WanTransformer3DModel")
    architecture = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = set(architecture) - set(inspect.signature(WanTransformer3DModel.__init__).parameters)
    if unknown:
        raise ValueError(f"wan: {folder / 'config.json'} has unknown keys {', '.join(sorted(unknown))}")
    return architecture


def weight_files(folder: Path, stem: str = "diffusion_pytorch_model") -> list[Path]:
    """The safetensors files of one part: a single one, or the shards of its index."""
    index = folder / f"{stem}.safetensors.index.json"
    names = [f"{stem}.safetensors"]
    if index.is_file():
        names = sorted(set(read_json(index, "an index of shards").get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise ValueError(
            f"wan: {folder} lacks {', '.join(missing) or 'its shards'}; the download is incomplete"
        )
    return [folder / name for name in names]


def tensor_shapes(file: Path) -> dict[str, torch.Tensor]:
    """Names and shapes of a safetensors file (as tensors without data), from its header alone."""
    try:
        with safe_open(file, "pt") as tensors:
            keys = list(tensors.keys())
            return {key: torch.empty(tensors.get_slice(key).get_shape(), device="meta") for key in keys}
    except SafetensorError as error:
        raise ValueError(f"weights: {file} is damaged or no safetensors file ({error})") from error


def load_part(kind: Any, folder: Path, may_lack: tuple[str, ...] = (), **arguments: Any) -> Any:
    """kind.from_pretrained(folder) of a diffusers or transformers model, frozen, and as strict as above.

    may_lack: parts of names that published checkpoints leave out because nothing here uses them.
    """
    try:
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **arguments
        )
    except _UNREADABLE as error:
        raise ValueError(f"wan: {folder} can not be read as {kind.__name__}: {first_line(error)}") from error
    missing = [key for key in report["missing_keys"] if not any(part in key for part in may_lack)]
    mismatched = [str(entry) for entry in report["mismatched_keys"]]
    if missing or mismatched:
        raise ValueError(
            f"wan: {folder} does not fit {kind.__name__}: "
            + "; ".join([f"missing {key}" for key in sorted(missing)] + mismatched)
        )
    return model.eval().requires_grad_(False)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object; ValueError that says what was expected where there is none."""
    if not path.is_file():
        raise ValueError(f"wan: no {path}; {path.parent} is not {what}")
    try:
        value = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"wan: {path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"wan: {path} holds no JSON object")
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
