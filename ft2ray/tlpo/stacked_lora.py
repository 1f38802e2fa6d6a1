"""A peft LoRA linear that adds K weighted adapters with one low-rank product instead of K.

    y = W x + [B_1 .. B_K] ((w . s) * [A_1; ..; A_K] x)

with s_k = alpha_k / rank_k and w_k the gate's weight of expert k for this sample and layer (paper.md 3.2).
Computed in the dtype of x: adapters kept in float32 on a bf16 base are rounded, not x widened, of which the
backward would keep a float32 copy per linear.

Shapes: B batch, L tokens, D inputs, O outputs, R sum of the ranks, K adapters, N layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

LAYER_OF = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


class Routing:
    """How much of each active adapter is added, shared by all layers of one transformer.

    `weights_BNK` has a first axis of 1 where all samples share the weights and a second axis of 1 where all
    layers do; its K follows the order of the active adapters. None adds every active adapter in full.
    """

    def __init__(self) -> None:
        self.weights_BNK: Tensor | None = None
        self.hook: RemovableHandle | None = None

    def of_layer(self, layer: int) -> Tensor | None:
        """Weights [B or 1, K] of one layer."""
        if self.weights_BNK is None:
            return None
        return self.weights_BNK[:, layer if self.weights_BNK.shape[1] > 1 else 0]


class StackedLora(LoraLinear):
    """peft's own LoRA layer (same parameters, names, saving) with the stacked forward.

    Which adapters are active, and whether any is, stays peft's business; `routing` says how much of each.
    """

    routing: Routing
    layer: int

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x [B, L, D] -> [B, L, O]."""
        y_BLO = self.base_layer(x, *args, **kwargs)
        active = self.active_adapters
        places = [k for k, name in enumerate(active) if name in self.lora_A]
        if self.disable_adapters or not places:
            return y_BLO
        names = [active[k] for k in places]
        a_RD, b_OR, scale_R, owner_R = self._stack(names, x.dtype)
        low_BLR = F.linear(x, a_RD)
        weights_BK = self.routing.of_layer(self.layer)
        if weights_BK is None:
            low_BLR = low_BLR * scale_R.to(x.dtype)
        else:
            assert weights_BK.shape[-1] == len(active), "one weight per active adapter"
            if len(places) < weights_BK.shape[-1]:  # an adapter from elsewhere may skip this layer
                weights_BK = weights_BK[:, places]
            low_BLR = low_BLR * (weights_BK[:, owner_R] * scale_R).to(x.dtype)[:, None, :]
        return y_BLO + F.linear(low_BLR, b_OR).to(y_BLO.dtype)

    def factors(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A [rank, D] and B [O, rank] of one adapter."""
        a_RD, b_OR = self.lora_A[name].weight, self.lora_B[name].weight
        assert isinstance(a_RD, nn.Parameter) and isinstance(b_OR, nn.Parameter)
        return a_RD, b_OR

    def _stack(self, names: list[str], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A [R, D] and B [O, R] in `dtype`, the adapters' alpha / rank per row [R], each row's adapter [R].

        Frozen adapters are stacked once and kept until one of them changes, which costs their memory a second
        time; adapters in training are stacked anew each time, so that gradients reach them.
        """
        a = [self.factors(name)[0] for name in names]
        b = [self.factors(name)[1] for name in names]
        learning = torch.is_grad_enabled() and any(p.requires_grad for p in (*a, *b))
        cache = self.__dict__.setdefault("_stacks", {})
        state = [dtype, *((p.data_ptr(), p._version) for p in (*a, *b))]
        cached = cache.get(tuple(names))
        if not learning and cached is not None and cached[0] == state:
            return cached[1]
        # Stacks made under inference_mode could not be used by a later training step.
        with torch.inference_mode(False):
            ranks = torch.tensor([p.shape[0] for p in a])
            scaling = torch.tensor([self.scaling[name] for name in names], dtype=torch.float32)
            owner_R = torch.arange(len(names)).repeat_interleave(ranks).to(a[0].device)
            scale_R = scaling.to(a[0].device)[owner_R]
            if learning:
                return _join(a, 0).to(dtype), _join(b, 1).to(dtype), scale_R, owner_R
            with torch.no_grad():
                stack = (_join(a, 0).to(dtype), _join(b, 1).to(dtype), scale_R, owner_R)
        cache[tuple(names)] = (state, stack)
        return stack


def _join(weights: Sequence[Tensor], dim: int) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(list(weights), dim)


def install_stacked_forward(transformer: nn.Module) -> tuple[Routing, list[StackedLora]]:
    """Give every LoRA linear of `transformer` the stacked forward; they share the Routing that is returned.

    The layers keep their identity and parameters, only their class changes, so whatever peft or diffusers
    does with them later (save, load, disable, delete) goes on working. May be called again after more
    adapters were added.
    """
    layers: list[StackedLora] = []
    routing: Routing | None = None
    for name, module in transformer.named_modules():
        if not isinstance(module, LoraLinear):
            continue
        found = LAYER_OF.search(name + ".")
        if found is None:
            raise ValueError(f"LoRA layer {name} is in no transformer block; experts live in blocks.N")
        if isinstance(module, StackedLora):
            routing = routing or module.routing
        else:
            module.__class__ = StackedLora
        assert isinstance(module, StackedLora)
        module.layer = int(found.group(1))
        layers.append(module)
    if not layers:
        raise ValueError("no LoRA layer in this transformer; add an adapter first")
    routing = routing or Routing()
    for layer in layers:
        layer.routing = routing
    return routing, layers
