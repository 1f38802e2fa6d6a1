"""Weights on disk: every key and shape checked before anything is copied, and FantasyTalking's audio layout.

FantasyTalking publishes the audio part alone: `proj_model` (features to audio width) and `audio_processor`
(keys and values of every block), as a nested pickle or, flattened with those two prefixes, as safetensors.
The video part is Wan's own checkpoint in diffusers' layout, whose keys `AudioWanTransformer` shares.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ft2ray.errors import WeightsError
from ft2ray.generator.transformer import AudioWanTransformer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_TO_OURS = (
    (re.compile(r"^proj_model\.(proj|norm)\.(weight|bias)$"), r"audio_proj.\1.\2"),
    (
        re.compile(r"^audio_processor\.blocks\.(\d+)\.cross_attn\.processor\.(k_proj|v_proj)\.weight$"),
        r"blocks.\1.attn2.processor.\2.weight",
    ),
)
_FROM_OURS = (
    (re.compile(r"^audio_proj\.(proj|norm)\.(weight|bias)$"), r"proj_model.\1.\2"),
    (
        re.compile(r"^blocks\.(\d+)\.attn2\.processor\.(k_proj|v_proj)\.weight$"),
        r"audio_processor.blocks.\1.cross_attn.processor.\2.weight",
    ),
)


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


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a generator folder; what must be in it beside "codec" is the codec's business."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise WeightsError(f"generator: no {path}; give a folder with {CONFIG_FILE} and its weights")
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"generator: {path} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or "codec" not in config:
        raise WeightsError(f"generator: {path} lacks codec")
    return config


def read_portrait_config(folder: Path) -> dict[str, Any]:
    """config.json of a generator that `save_generator` wrote."""
    config = read_config(folder)
    missing = {"transformer", "latent_scale"} - set(config)
    if missing:
        raise WeightsError(f"generator: {folder / CONFIG_FILE} lacks {', '.join(sorted(missing))}")
    return config


def save_generator(
    folder: Path, transformer: AudioWanTransformer, codec: str, latent_scale: list[float]
) -> None:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    config = {"codec": codec, "latent_scale": latent_scale, "transformer": architecture}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: value.contiguous() for name, value in transformer.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def load_transformer(folder: Path) -> AudioWanTransformer:
    """The transformer of a generator folder, in evaluation mode."""
    architecture = read_portrait_config(folder)["transformer"]
    try:
        transformer = AudioWanTransformer(**architecture)
    except TypeError as error:
        raise WeightsError(f"generator: {folder / CONFIG_FILE}: {error}") from error
    load_strictly(transformer, read_tensors(folder / WEIGHTS_FILE), str(folder / WEIGHTS_FILE))
    return transformer.eval()


def read_audio_weights(path: Path) -> dict[str, Any]:
    """The tensors of an audio checkpoint, nested or flat: .safetensors, else a pickle of nothing but tensors.

    The pickle is the layout in which FantasyTalking was published. It is read by torch's loader for weights,
    which knows tensors and plain containers and calls nothing; anything else in it is a ValueError.
    """
    if path.suffix == ".safetensors" or not path.is_file():
        return dict(read_tensors(path))
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights: {path} is no pickle of plain tensors, nothing in it was run; give FantasyTalking's "
            f"own checkpoint or safetensors ({first_line(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"weights: {path} is damaged ({first_line(error)})") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"weights: {path} holds a {type(loaded).__name__}, not a dict of tensors")
    return loaded


def from_fantasytalking(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """FantasyTalking's audio weights, nested or flattened, under the names of `AudioWanTransformer`.

    Raises ValueError for keys of any other kind.
    """
    flat: dict[str, Any] = {}
    for key, value in tensors.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": tensor for name, tensor in value.items()})
        else:
            flat[str(key)] = value
    renamed = {_renamed(key, _TO_OURS, "FantasyTalking's audio weights"): v for key, v in flat.items()}
    for key, value in renamed.items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"FantasyTalking's audio weights: {key} is a {type(value).__name__}, not a tensor"
            )
    return renamed


def to_fantasytalking(transformer: AudioWanTransformer) -> dict[str, torch.Tensor]:
    """The audio weights of a transformer in FantasyTalking's flattened safetensors layout."""
    return {
        _renamed(key, _FROM_OURS, "the audio weights"): value
        for key, value in audio_tensors(transformer).items()
    }


def audio_tensors(transformer: AudioWanTransformer) -> dict[str, torch.Tensor]:
    """The parameters that FantasyTalking adds to Wan, under the names of `AudioWanTransformer`."""
    keys = transformer.audio_keys()
    return {key: value for key, value in transformer.state_dict().items() if key in keys}


def load_fantasytalking(transformer: AudioWanTransformer, tensors: Mapping[str, Any]) -> None:
    """Put FantasyTalking's audio weights on a transformer; ValueError where keys or shapes differ."""
    audio = from_fantasytalking(tensors)
    check_fit(audio_tensors(transformer), audio, "FantasyTalking's audio checkpoint")
    transformer.load_state_dict(audio, strict=False)


def first_line(error: Exception) -> str:
    """What a library's error says, without the advice below it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _renamed(key: str, rules: tuple[tuple[re.Pattern[str], str], ...], what: str) -> str:
    for pattern, replacement in rules:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    raise WeightsError(f"{what}: unknown key {key}")
