"""Weights on disk: safetensors only, every key and shape checked, and FantasyTalking's own audio layout.

FantasyTalking publishes the audio part alone: `proj_model` (features to audio width) and `audio_processor`
(keys and values of every block), as a nested pickle or, flattened with those two prefixes, as safetensors.
The video part is Wan's own checkpoint in diffusers' layout, whose keys `AudioWanTransformer` shares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

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


def load_strictly(module: nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Copy `tensors` into `module`; raises ValueError that names every missing, unknown or misshapen key.

    source: what to call the tensors in the message. Nothing is copied unless everything fits.
    """
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in tensors]
    problems += [f"unknown {key}" for key in tensors if key not in own]
    problems += [
        f"{key} has shape {list(tensors[key].shape)}, the model wants {list(own[key].shape)}"
        for key in own
        if key in tensors and tensors[key].shape != own[key].shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ValueError(f"{source} does not fit the model: {shown}")
    module.load_state_dict(dict(tensors))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; raises ValueError if it is missing, damaged or of another format."""
    if not path.is_file():
        raise ValueError(f"weights: no file {path}")
    if path.suffix != ".safetensors":
        raise ValueError(f"weights: {path.name} is not a .safetensors file; pickled weights are not read")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights: {path} is damaged or no safetensors file ({error})") from error


def read_config(folder: Path) -> dict:
    """config.json of a generator folder."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"generator: no {path}; give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"generator: {path} is not valid JSON: {error}") from error
    missing = {"codec", "transformer", "latent_scale"} - set(config)
    if missing:
        raise ValueError(f"generator: {path} lacks {', '.join(sorted(missing))}")
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
    architecture = read_config(folder)["transformer"]
    try:
        transformer = AudioWanTransformer(**architecture)
    except TypeError as error:
        raise ValueError(f"generator: {folder / CONFIG_FILE}: {error}") from error
    load_strictly(transformer, read_tensors(folder / WEIGHTS_FILE), str(folder / WEIGHTS_FILE))
    return transformer.eval()


def from_fantasytalking(tensors: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """FantasyTalking's audio weights, nested or flattened, under the names of `AudioWanTransformer`.

    Raises ValueError for keys of any other kind.
    """
    flat: dict[str, torch.Tensor] = {}
    for key, value in tensors.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": tensor for name, tensor in value.items()})
        else:
            assert isinstance(value, torch.Tensor)
            flat[key] = value
    return {_renamed(key, _TO_OURS, "FantasyTalking's audio weights"): value for key, value in flat.items()}


def to_fantasytalking(transformer: AudioWanTransformer) -> dict[str, torch.Tensor]:
    """The audio weights of a transformer in FantasyTalking's flattened safetensors layout."""
    return {
        _renamed(key, _FROM_OURS, "the audio weights"): value
        for key, value in audio_tensors(transformer).items()
    }


def audio_tensors(transformer: AudioWanTransformer) -> dict[str, torch.Tensor]:
    """The parameters that FantasyTalking adds to Wan, under the names of `AudioWanTransformer`."""
    return {
        key: value
        for key, value in transformer.state_dict().items()
        if key.startswith("audio_proj.") or ".attn2.processor." in key
    }


def load_fantasytalking(transformer: AudioWanTransformer, tensors: Mapping[str, object]) -> None:
    """Put FantasyTalking's audio weights on a transformer; ValueError where keys or shapes differ."""
    audio = from_fantasytalking(tensors)
    own = transformer.state_dict()
    expected = audio_tensors(transformer)
    untouched = {key: value for key, value in own.items() if key not in expected}
    load_strictly(transformer, {**untouched, **audio}, "FantasyTalking's audio checkpoint")


def _renamed(key: str, rules: tuple[tuple[re.Pattern[str], str], ...], what: str) -> str:
    for pattern, replacement in rules:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    raise ValueError(f"{what}: unknown key {key}")
