"""LoRA files of the Wan family, in and out: one adapter in the layouts that other programs write and read.

    diffusers   transformer.blocks.0.attn1.to_q.lora_A.weight         alpha in the file's metadata
    comfyui     diffusion_model.blocks.0.self_attn.q.lora_A.weight    Wan's original names; alpha beside them

Reading also takes peft's own folder (adapter_config.json with adapter_model.safetensors), names without a
prefix (`save_lora_adapter`, DiffSynth), names with the prefixes that training wrappers leave behind, and
those of kohya and musubi (`lora_unet_blocks_0_self_attn_q.lora_down.weight`). Only safetensors are read;
every key and shape is held against the transformer before anything is made of them.

Shapes: R rank, D inputs, O outputs of a linear.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ft2ray.errors import WeightsError
from ft2ray.tlpo.policy import PREFIX, save_adapter
from ft2ray.tlpo.stacked_lora import LAYER_OF
from ft2ray.weights import read_json

log = logging.getLogger(__name__)

LAYOUTS = ("diffusers", "comfyui")

Adapter = tuple[LoraConfig, dict[str, Tensor]]
"""LoRA configuration, and tensors in peft's layout: `blocks.0.attn1.to_q.lora_A.weight`, ..."""

Factors = dict[str, tuple[Tensor, Tensor, float]]
"""Per linear: A [R, D], B [O, R] and alpha; it adds alpha / R B A."""

# Wan's own names for the linears of a block (text, image and output of the cross-attention included).
_ORIGINAL = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_ROLE = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<new>A|down|B|up)(?:\.\w+)?\.weight"  # .default or another adapter's name
    r"|lora(?:_linear_layer)?\.(?P<old>down|up)\.weight|(?P<alpha>alpha))"
)
_PART = {"A": "A", "down": "A", "B": "B", "up": "B"}

# What wrappers put into names: anywhere (torch.compile, FSDP, checkpointing, Fabric, FairScale), and in front
# of the first block (peft, DDP, DiffSynth, and holders of the transformer).
_WRAPPERS = frozenset(
    {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_fpw_module"}
)
_HOLDERS = frozenset(
    {"base_model", "model", "module", "pipe", "dit", "transformer", "diffusion_model", "unet", "denoiser"}
    | {"net", "wan", "generator", "student", "backbone"}
)
_JOINED = ("lora_unet", "lora_transformer", "lycoris")  # in front of names whose dots became underscores
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def original_name(module: str) -> str:
    """Wan's own name of a linear that diffusers calls `module`; ValueError for one that it does not have."""
    found = _BLOCK.fullmatch(module)
    if found is None or found.group(2) not in _ORIGINAL:
        raise WeightsError(f"adapter: {module} has no name in Wan's original layout; export it to diffusers'")
    return f"blocks.{found.group(1)}.{_ORIGINAL[found.group(2)]}"


def write_adapter(path: str | Path, adapter: Adapter, layout: str) -> None:
    """Write one LoRA file; alpha is kept as it is, not multiplied into the weights."""
    if layout not in LAYOUTS:
        raise WeightsError(f"adapter: layout {layout!r} is unknown; take one of {', '.join(LAYOUTS)}")
    config, tensors = adapter
    if layout == "diffusers":
        save_adapter(Path(path), config, tensors)
        return
    out: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        module, factor = key.removesuffix(".weight").rsplit(".", 1)
        name = f"diffusion_model.{original_name(module)}"
        out[f"{name}.{factor}.weight"] = tensor
        out[f"{name}.alpha"] = torch.tensor(float(config.lora_alpha))
    save_file(out, path, metadata={"format": "pt"})


def read_adapter(path: str | Path, transformer: nn.Module) -> Adapter:
    """Read a LoRA of any layout above as an adapter for `transformer`, in float32.

    Where rank or alpha differ between layers, the narrow layers are filled up with zeros and alpha goes into
    B: the same product. A file that states no alpha is taken as alpha = rank, with a warning.

    Args:
        path: a .safetensors file, or a folder in peft's layout.
        transformer: the model that it has to fit.

    Raises:
        WeightsError: that names key and shape, for a file of another model, with parts that are not plain
            LoRA (DoRA, biases, full differences, quantised weights), or damaged.
    """
    file, settings, tensors = _read(Path(path))
    linears = _linears(transformer)
    known = {name: module for module in linears for name in _spellings(module)}
    grouped: dict[str, dict[str, Tensor]] = defaultdict(dict)
    problems = []
    for key, tensor in tensors.items():
        role = _ROLE.fullmatch(key)
        module = known.get(_unwrapped(role["module"])) if role else None
        part = "alpha" if role is None or role["alpha"] else _PART[role["new"] or role["old"]]
        if module is None or part in grouped[module]:
            problems.append(f"{key} is not a LoRA weight of a block of this model, or is given twice")
        else:
            grouped[module][part] = tensor
    for module, parts in grouped.items():
        problems += _misfits(module, parts, linears[module])
    if problems or not grouped:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise WeightsError(f"adapter: {file} does not fit this transformer: {shown or 'it holds no tensors'}")
    silent = [module for module, parts in grouped.items() if settings is None and "alpha" not in parts]
    if silent:
        log.warning(
            "adapter: %s states no alpha for %d of %d layers; it is taken as their rank, at full strength",
            file,
            len(silent),
            len(grouped),
        )
    return adapter_of(
        {
            module: (parts["A"], parts["B"], _alpha(module, parts, settings, file))
            for module, parts in grouped.items()
        }
    )


def adapter_of(factors: Factors) -> Adapter:
    """One adapter of one rank and one alpha that does the same; to the bit where they agree already."""
    settings = {(len(a_RD), alpha) for a_RD, _, alpha in factors.values()}
    rank = max(rank for rank, _ in settings)
    agreed = next(iter(settings))[1] if len(settings) == 1 else None
    tensors = {}
    for module, (a_RD, b_OR, alpha) in factors.items():
        missing = rank - len(a_RD)
        b_OR = b_OR if agreed is not None else b_OR * (alpha / len(a_RD))
        tensors[f"{module}.lora_A.weight"] = nn.functional.pad(a_RD, (0, 0, 0, missing)).contiguous()
        tensors[f"{module}.lora_B.weight"] = nn.functional.pad(b_OR, (0, missing)).contiguous()
    alpha = float(rank) if agreed is None else agreed
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(factors), lora_dropout=0.0), tensors  # type: ignore[arg-type]


def factors_of(adapter: Adapter) -> Factors:
    """The inverse of `adapter_of`."""
    config, tensors = adapter
    modules = sorted({key.rsplit(".lora_", 1)[0] for key in tensors})
    return {
        module: (
            tensors[f"{module}.lora_A.weight"],
            tensors[f"{module}.lora_B.weight"],
            float(config.lora_alpha),
        )
        for module in modules
    }


def _read(path: Path) -> tuple[Path, dict[str, Any] | None, dict[str, Tensor]]:
    """The file, the LoRA settings in it or beside it (None: there are none), its tensors in float32."""
    folder = path if path.is_dir() else path.parent
    file = path / PEFT_WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"adapter: no file {file}; give a .safetensors file or a folder in peft's layout")
    if file.suffix != ".safetensors":
        raise WeightsError(f"adapter: {file.name} is not a .safetensors file; pickled weights are not read")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: _widened(opened.get_tensor(key)) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"adapter: {file} is damaged or no safetensors file ({error})") from error
    if file.name == PEFT_WEIGHTS and (folder / PEFT_CONFIG).is_file():
        return file, _stated(read_json(folder / PEFT_CONFIG, "an adapter in peft's layout"), file), tensors
    if LORA_ADAPTER_METADATA_KEY in metadata:
        try:
            header = json.loads(metadata[LORA_ADAPTER_METADATA_KEY])
            settings = {key.removeprefix(PREFIX): value for key, value in header.items()}
        except (ValueError, AttributeError) as error:
            raise WeightsError(
                f"adapter: the LoRA settings in the header of {file} cannot be read"
            ) from error
        return file, _stated(settings, file), tensors
    return file, None, tensors


def _widened(tensor: Tensor) -> Tensor:
    """In float32 where these are real numbers, of 8 or 16 bits too; quantised integers stay what they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def _stated(settings: dict[str, Any], file: Path) -> dict[str, Any]:
    """The settings of a plain LoRA in peft's words."""
    for name, plain in (("use_dora", False), ("bias", "none"), ("modules_to_save", None)):
        if settings.get(name, plain) not in (plain, None):
            raise WeightsError(
                f"adapter: {file} has {name}={settings[name]}; only plain LoRA can be added to other experts"
            )
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise WeightsError(f"adapter: the LoRA settings of {file} state no lora_alpha that is a number")
    return settings


def _unwrapped(name: str) -> str:
    """A module's name without what wrappers and holders put into it."""
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts and parts[0] in _HOLDERS:
        parts.pop(0)
    return ".".join(parts)


def _linears(transformer: nn.Module) -> dict[str, nn.Linear]:
    """The linears of the blocks by name, whether or not adapters already hang on them."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear) and LAYER_OF.search(name) and ".lora_" not in name
    }


def _spellings(module: str) -> list[str]:
    """The names of a linear in all layouts, without their prefixes."""
    names = [module]
    found = _BLOCK.fullmatch(module)
    if found is not None and found.group(2) in _ORIGINAL:
        names.append(original_name(module))
    return names + [f"{prefix}_{name.replace('.', '_')}" for prefix in _JOINED for name in names]


def _misfits(module: str, parts: Mapping[str, Tensor], linear: nn.Linear) -> list[str]:
    missing = [f"{module} has no LoRA {name}" for name in "AB" if name not in parts]
    if missing:
        return missing
    a, b = parts["A"], parts["B"]
    wanted = (linear.in_features, linear.out_features)
    if a.ndim != 2 or b.ndim != 2 or not 0 < len(a) == b.shape[1] or (a.shape[1], b.shape[0]) != wanted:
        return [
            f"{module} has A {list(a.shape)} and B {list(b.shape)}, the model wants A [rank, {wanted[0]}] "
            f"and B [{wanted[1]}, rank]"
        ]
    if parts.get("alpha", a[0, 0]).numel() != 1:
        return [f"{module} has an alpha of {parts['alpha'].numel()} numbers"]
    if not (a.is_floating_point() and b.is_floating_point()):
        return [f"{module} holds quantised integers; save the LoRA in float16 or wider"]
    if not all(part.isfinite().all() for part in parts.values()):
        return [f"{module} holds numbers that are not finite"]
    return []


def _alpha(module: str, parts: Mapping[str, Tensor], settings: Mapping[str, Any] | None, file: Path) -> float:
    """alpha of one linear; none stated means alpha = rank, as other readers take it."""
    rank = len(parts["A"])
    if "alpha" in parts:
        return float(parts["alpha"].item())
    if settings is None:
        return float(rank)
    try:
        pattern = settings.get("alpha_pattern") or {}
        alpha = float(pattern.get(get_pattern_key(list(pattern), module), settings["lora_alpha"]))
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise WeightsError(f"adapter: the alpha_pattern of {file} cannot be read") from error
    return alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha
