"""A gate for programs without gates: its experts merged into one static LoRA per bucket of timesteps.

The gate's weights depend on the timestep, a LoRA file does not. Within a bucket of neighbouring sampler
steps the weights are replaced by their mean, and the sum of the experts becomes one LoRA of the sum of their
ranks: exact for constant weights, an approximation for a gate, whose error `bucketing_errors` measures on
given inputs. The program that runs the files has to change them at the bucket's bounds.

Shapes: B samples, C latent channels, F latent frames, H W latent grid, S sampler steps, N layers, K experts,
R rank, D inputs, O outputs of a linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ft2ray.errors import UserError
from ft2ray.systems import TLPO
from ft2ray.tlpo.formats.adapters import Adapter, Factors, adapter_of, factors_of
from ft2ray.tlpo.gate import TimestepLayerGate, weights_over_time
from ft2ray.tlpo.policy import AttachedPolicy, Policy
from ft2ray.tlpo.stacked_lora import LAYER_OF
from ft2ray.tlpo.step import Velocity


@dataclass(frozen=True)
class Bucket:
    """Sampler steps `times_S` (falling), the range of t that they stand for, and the gate's mean weights."""

    high: float
    low: float
    times_S: Tensor
    weights_NK: Tensor


@dataclass(frozen=True)
class BucketError:
    """Root mean square of (bucket - gate), as a share of the velocity and of what alignment adds to it."""

    of_velocity: float
    of_effect: float


def timestep_buckets(
    gate: TimestepLayerGate, tau: Callable[[Tensor], Tensor], times_S: Tensor, count: int
) -> list[Bucket]:
    """Share the sampler's steps out to `count` buckets of neighbours.

    `tau(timestep_B)`: the transformer's timestep embedding at 1000 t; `times_S`: where the sampler calls the
    transformer, falling from 1. Bounds lie half-way between steps.
    """
    if not 1 <= count <= len(times_S):
        raise UserError(
            f"buckets: {count} buckets for {len(times_S)} sampler steps; take 1 to {len(times_S)}"
        )
    with torch.no_grad():
        weights_SNK = weights_over_time(gate, tau(1000.0 * times_S), times_S)
    times, weights = times_S.tensor_split(count), weights_SNK.tensor_split(count)
    inner = [((a[-1] + b[0]) / 2).item() for a, b in zip(times[:-1], times[1:], strict=True)]
    bounds = [1.0, *inner, 0.0]
    return [
        Bucket(bounds[i], bounds[i + 1], t_S, w_SNK.mean(0))
        for i, (t_S, w_SNK) in enumerate(zip(times, weights, strict=True))
    ]


def merged_adapter(policy: Policy, weights_NK: Tensor) -> Adapter:
    """The weighted sum of the policy's experts as one LoRA: A stacked, B stacked and weighted, alpha = rank.

    `weights_NK`: per layer (or N = 1) and expert, in the order of `policy.dimensions`.
    """
    experts = [factors_of(policy.adapters[name]) for name in policy.dimensions]
    merged: Factors = {}
    for module in sorted({module for factors in experts for module in factors}):
        found = LAYER_OF.search(module)
        assert found is not None, "experts live in blocks"
        weights_K = weights_NK[int(found.group(1)) if len(weights_NK) > 1 else 0]
        down, up = [], []
        for weight, factors in zip(weights_K.tolist(), experts, strict=True):
            if module in factors:
                a_RD, b_OR, alpha = factors[module]
                down.append(a_RD.float())
                up.append(b_OR.float() * (weight * alpha / len(a_RD)))
        merged[module] = (torch.cat(down), torch.cat(up, dim=1), float(sum(map(len, down))))
    return adapter_of(merged)


@torch.no_grad()
def bucketing_errors(
    velocity: Velocity,
    attached: AttachedPolicy,
    buckets: Sequence[Bucket],
    samples: Sequence[tuple[Tensor, list[Any]]],
    seed: int = 0,
) -> list[BucketError]:
    """Error of each bucket against the exact gate, at its own sampler steps, over all `samples`.

    `samples`: batches of clean latents x_BCFHW with their conditions; noise is drawn from `seed`. Leaves the
    policy running as tlpo.
    """
    attached.use(TLPO)
    assert attached.gate is not None
    names, experts = attached.policy.dimensions, attached.experts
    errors = []
    for bucket in buckets:
        generator = torch.Generator().manual_seed(seed)
        square = torch.zeros(3, dtype=torch.float64)  # of the difference, the velocity, the effect
        for x_BCFHW, conditions in samples:
            eps_BCFHW = torch.randn(x_BCFHW.shape, generator=generator).to(x_BCFHW)
            for t in bucket.times_S.tolist():
                at = ((1 - t) * x_BCFHW + t * eps_BCFHW, x_BCFHW.new_full((len(x_BCFHW),), t), conditions)
                exact = velocity(*at)
                with experts.fused(names, bucket.weights_NK.to(x_BCFHW.device)):
                    static = velocity(*at)
                with experts.reference():
                    base = velocity(*at)
                parts = (static - exact, exact, exact - base)
                square += torch.stack([part.double().square().sum().cpu() for part in parts])
        difference, whole, effect = square.sqrt().tolist()
        errors.append(BucketError(difference / whole, difference / effect if effect else 0.0))
    return errors
