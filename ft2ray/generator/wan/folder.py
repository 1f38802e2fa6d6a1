"""Reading Wan's parts from folders in diffusers' layout.

Everything is checked before anything is loaded: the kind of pipeline, then every key and shape of the
transformer from the headers of its shards. A transformer of 14 B parameters is streamed to its device one
tensor at a time, so it never lies in memory twice. Only safetensors are read here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors import SafetensorError

from ft2ray.errors import WeightsError
from ft2ray.generator.transformer import SpeechWanTransformer
from ft2ray.weights import check_fit, first_line, read_json, stream_into, weight_files

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "image_encoder", "image_processor")
"""Sub-folders of a Wan pipeline that a generator is made of; the last two only where it is image-to-video."""

STEM = "diffusion_pytorch_model"  # of the files of a diffusers model
PIPELINES = ("WanImageToVideoPipeline", "WanPipeline")

_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError, SafetensorError)


def check_pipeline(folder: Path) -> None:
    """ValueError unless `folder` is a Wan 2.1 pipeline in diffusers' layout."""
    index = read_json(folder / "model_index.json", "a Wan2.1 pipeline in diffusers' layout")
    kind = index.get("_class_name")
    if kind not in PIPELINES:
        raise WeightsError(f"wan: {folder} is a {kind}; give one of {', '.join(PIPELINES)} (Wan2.1)")
    if (index.get("transformer_2") or [None])[0] is not None:
        raise WeightsError(f"wan: {folder} has two transformers (Wan2.2); give a Wan2.1 pipeline")
    for part in PARTS[:4]:
        if not (folder / part).is_dir():
            raise WeightsError(f"wan: {folder} lacks {part}; the download is incomplete")


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
    files = weight_files(folder, STEM)
    ignored = WanTransformer3DModel._keys_to_ignore_on_load_unexpected or []  # of early conversions
    check_fit({key: own[key] for key in own if key in audio_keys}, audio, "the audio checkpoint")

    def dtype_of(key: str) -> torch.dtype:
        keep = any(part in key.split(".") for part in model._keep_in_fp32_modules or [])
        return torch.float32 if keep else dtype

    stream_into(
        model,
        files,
        {key: own[key] for key in own if key not in audio_keys},
        lambda key: None if any(part in key for part in ignored) else key,
        dtype_of,
        device,
    )
    for key, tensor in audio.items():
        set_module_tensor_to_device(model, key, device, value=tensor, dtype=dtype_of(key))
    return model.to(device).eval().requires_grad_(False)  # to: the tables of the rotary embedding


def read_architecture(folder: Path) -> dict[str, Any]:
    """The arguments of WanTransformer3DModel in a transformer's config.json."""
    config = read_json(folder / "config.json", "a Wan transformer")
    if config.get("_class_name") != "WanTransformer3DModel":
        raise WeightsError(f"wan: {folder} holds a {config.get('_class_name')}, not a WanTransformer3DModel")
    architecture = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = set(architecture) - set(inspect.signature(WanTransformer3DModel.__init__).parameters)
    if unknown:
        raise WeightsError(f"wan: {folder / 'config.json'} has unknown keys {', '.join(sorted(unknown))}")
    return architecture


def load_part(kind: Any, folder: Path, may_lack: tuple[str, ...] = (), **arguments: Any) -> Any:
    """kind.from_pretrained(folder) of a diffusers or transformers model, frozen, and as strict as above.

    may_lack: parts of names that published checkpoints leave out because nothing here uses them.
    """
    try:
        model, report = kind.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **arguments
        )
    except _UNREADABLE as error:
        raise WeightsError(f"wan: {folder} cannot be read as {kind.__name__}: {first_line(error)}") from error
    missing = [key for key in report["missing_keys"] if not any(part in key for part in may_lack)]
    mismatched = [str(entry) for entry in report["mismatched_keys"]]
    if missing or mismatched:
        raise WeightsError(
            f"wan: {folder} does not fit {kind.__name__}: "
            + "; ".join([f"missing {key}" for key in sorted(missing)] + mismatched)
        )
    return model.eval().requires_grad_(False)
