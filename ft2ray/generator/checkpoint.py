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
from safetensors.torch import save_file

from ft2ray.errors import WeightsError
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.weights import first_line, load_strictly, read_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

_TO_OURS = (
    (re.compile(r"^proj_model\.(proj|norm)\.(weight|bias)$"), r"audio_proj.\1.\2"),
    (
        re.compile(r"^audio_processor\.blocks\.(\d+)\.cross_attn\.processor\.(k_proj|v_proj)\.weight$"),
        r"blocks.\1.attn2.processor.\2.weight",
    ),
)


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
    folder: Path,
    transformer: AudioWanTransformer,
    codec: str,
    latent_scale: list[float],
    channel_weights: list[float] | None = None,
) -> None:
    """Write config.json and model.safetensors; see PortraitGenerator and Generator for scale and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    architecture = {key: value for key, value in transformer.config.items() if not key.startswith("_")}
    config = {"codec": codec, "latent_scale": latent_scale, "transformer": architecture}
    if channel_weights is not None:
        config["channel_weights"] = channel_weights
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
            f"weights: {path} is not a pickle of plain tensors; nothing in it was run; give FantasyTalking's "
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


def _renamed(key: str, rules: tuple[tuple[re.Pattern[str], str], ...], what: str) -> str:
    for pattern, replacement in rules:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    raise WeightsError(f"{what}: unknown key {key}")
