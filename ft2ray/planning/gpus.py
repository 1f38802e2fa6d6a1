"""Cards by name, from their data sheets: memory and dense bf16 rate. What is reached of them is assumed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from ft2ray.errors import UserError

USABLE = 0.94
"""Share of the memory for tensors; the rest is for CUDA's context, kernels' workspaces and gaps (assumed)."""


@dataclass(frozen=True)
class Gpu:
    """Memory in GB of 1e9 bytes; FLOP/s of bf16 matrix products without sparsity, in 1e12."""

    name: str
    memory_gb: float
    tflops: float

    @property
    def usable_gb(self) -> float:
        return self.memory_gb * USABLE


# NVIDIA's data sheets; where these state a rate with sparsity, half of it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 40, 312),
        Gpu("A100", 80, 312),
        Gpu("H100", 80, 989),
        Gpu("H200", 141, 989),
        Gpu("B200", 180, 2250),
        Gpu("L40S", 48, 362),
        Gpu("RTX4090", 24, 165),
    )
}


def gpu_named(name: str) -> Gpu:
    if name not in GPUS:
        near = difflib.get_close_matches(name, GPUS, n=1)
        raise UserError(
            f"plan: --gpu {name!r} is unknown{f'; did you mean {near[0]}?' if near else ''} "
            f"(known: {', '.join(GPUS)})"
        )
    return GPUS[name]
