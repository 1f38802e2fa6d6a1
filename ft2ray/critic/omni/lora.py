"""The LoRA of a tuned critic: on every linear layer of the thinker's language model, in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from peft import (
    LoraConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import save_file

from ft2ray.critic.omni.card import ADAPTER, OmniCard, write_card
from ft2ray.critic.talking.model import Thinker
from ft2ray.weights import check_fit, read_tensors

TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def add_adapter(model: Thinker, rank: int, alpha: float) -> None:
    """Hang a LoRA that changes nothing yet on every linear layer of the language model, in float32."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS, bias="none")  # type: ignore[arg-type]
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()


def adapter_tensors(model: Thinker) -> dict[str, torch.Tensor]:
    """The LoRA's tensors under peft's names."""
    return get_peft_model_state_dict(model)


def attach_adapter(model: Thinker, card: OmniCard) -> None:
    """The LoRA of `card` on its base; ValueError where it is damaged or another model's."""
    assert card.adapter is not None
    tensors = read_tensors(card.adapter)
    add_adapter(model, card.rank, card.alpha)
    check_fit(adapter_tensors(model), tensors, str(card.adapter))
    set_peft_model_state_dict(model, tensors)
    model.eval().requires_grad_(False)


def save_tuned(folder: Path, model: Thinker, card: OmniCard, base: str) -> OmniCard:
    """Write the LoRA on `model` and the card; `base` is what others find the base by. Returns the card.

    critic.json goes last: a folder without it is not a critic.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    return write_card(folder, replace(card, adapter=folder / ADAPTER), base)
