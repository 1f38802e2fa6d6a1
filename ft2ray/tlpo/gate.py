"""The gate: how much of each expert is added at timestep t in layer l.

FantasyTalking2's method figure, part 2: timestep embedding -> projection -> softmax -> + bias -> one weight
per expert, per DiT layer; the same weights serve Q, K, V and FFN of that layer:

    w_l(t) = softmax(P_l tau(t)) + b_l,    h' = W x + sum_k w_lk(t) (alpha / r) B_k A_k x

The bias comes after the softmax, so weights need not sum to one and may pass zero. P = 0 at the start, and
b = 1 - 1/K (every expert in full) or 0 (the uniform average). An own P per layer makes N (K D + K)
parameters: 614,520 on Wan-14B.

Shapes: B batch, D width of the timestep embedding, N layers, K experts, S timesteps of a heat map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ft2ray.errors import UserError
from ft2ray.tlpo.settings import GateSettings


class TimestepLayerGate(nn.Module):
    """Callable (tau_BD, t_B) -> weights w_BNK in float32; N is 1 where all layers share their weights."""

    def __init__(self, layers: int, experts: int, width: int, config: GateSettings | None = None):
        super().__init__()
        self.config = config = config or GateSettings()
        self.layers, self.experts, self.width = layers, experts, width
        projections = {"full": 1 if config.shared else layers, "timestep": 1}.get(config.mode, 0)
        biases = {"full": layers, "timestep": 1, "layer": layers}.get(config.mode, 0)
        self.projection_NKD = nn.Parameter(torch.zeros(projections, experts, width)) if projections else None
        self.bias_NK = nn.Parameter(torch.zeros(biases, experts)) if biases else None
        if self.bias_NK is not None and config.start == "sum":
            nn.init.constant_(self.bias_NK, 1 - 1 / experts)
        if config.mode == "segments":
            bounds, order = config.segments(experts)
            self._segment_bounds, self._segment_order = torch.tensor(bounds), torch.tensor(order)

    def forward(self, tau_BD: Tensor, t_B: Tensor) -> Tensor:
        if self.config.mode == "segments":
            segment_B = torch.bucketize(t_B.float(), self._segment_bounds.to(t_B.device), right=True)
            chosen_B = self._segment_order.to(t_B.device)[segment_B]
            return nn.functional.one_hot(chosen_B, self.experts).float()[:, None, :]
        if self.projection_NKD is None:
            even = 1.0 if self.config.mode == "sum" else 1 / self.experts
            weights_BNK = torch.full((1, 1, self.experts), even, device=tau_BD.device)
        else:
            logits_BNK = torch.einsum("bd,nkd->bnk", tau_BD.float(), self.projection_NKD)
            weights_BNK = logits_BNK.softmax(-1)
        return weights_BNK if self.bias_NK is None else weights_BNK + self.bias_NK


class UserWeights:
    """A gate under the user's hand at inference: one number per expert, in the order of the experts.

    "multiply": w_lk(t) * user_k; 1 leaves the gate's weight, 0 takes the expert out, 2 doubles it.
    "replace": user_k at every timestep and layer, whatever the gate says.
    """

    def __init__(self, gate: TimestepLayerGate, user: Mapping[str, float], names: Sequence[str], how: str):
        unknown = [name for name in user if name not in names]
        if unknown:
            raise UserError(
                f"user weights: no expert named {', '.join(unknown)}; there are {', '.join(names)}"
            )
        if how not in ("multiply", "replace"):
            raise UserError(f"user weights: {how!r} is unknown; take multiply or replace")
        if how == "replace" and len(user) < len(names):
            missing = [name for name in names if name not in user]
            raise UserError(
                f"user weights: replace needs a weight for every expert; missing {', '.join(missing)}"
            )
        if strange := [name for name, weight in user.items() if not math.isfinite(weight)]:
            raise UserError(f"user weights: that of {', '.join(strange)} is not a finite number")
        self.gate, self.how = gate, how
        self.user_K = torch.tensor([float(user.get(name, 1.0)) for name in names])

    def __call__(self, tau_BD: Tensor, t_B: Tensor) -> Tensor:
        user_K = self.user_K.to(tau_BD.device)
        return user_K[None, None] if self.how == "replace" else self.gate(tau_BD, t_B) * user_K


@torch.no_grad()
def heat_map(gate: TimestepLayerGate, embedder: Any, steps: int = 11) -> tuple[Tensor, Tensor]:
    """Times t_S from noise to clean, and the weights w_SNK there.

    embedder: the transformer's `condition_embedder`, which any Wan transformer has.
    """
    sample = next(embedder.time_embedder.parameters())
    t_S = torch.linspace(1.0, 0.0, steps, device=sample.device)
    tau_SD = embedder.time_embedder(embedder.timesteps_proj(1000.0 * t_S).to(sample.dtype))
    return t_S.cpu(), weights_over_time(gate, tau_SD, t_S)


@torch.no_grad()
def weights_over_time(gate: TimestepLayerGate, tau_SD: Tensor, t_S: Tensor) -> Tensor:
    """Weights w_SNK over timesteps x layers, shared axes written out: the heat map of the report."""
    return gate(tau_SD, t_S).expand(len(t_S), gate.layers, gate.experts).cpu()
