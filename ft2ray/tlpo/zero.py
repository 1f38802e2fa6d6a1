"""DeepSpeed's ZeRO, for what does not fit on every worker as a whole; all that knows DeepSpeed is here.

    engine = shard_base(transformer)                     stage 3: each of N workers holds 1/N of the base
    optimizer = ShardedAdamW(parameters, ...)            stages 2 and 3: 1/N of gradients and moments
    expert_step(..., backward=optimizer.backward)
    norm = optimizer.update()

One engine per adapter, as without ZeRO there is one optimiser per adapter: a batch of dimension d must not
move the other experts, which Adam's moments would do even where the gradients are zero. The adapters
themselves stay whole everywhere: they are small beside the base, the stacked forward reads their weights
directly, and a policy can be published without gathering anything.

Losses are those without ZeRO up to the order of float32 sums. Every worker has to run the same number of
forwards in the same order, for with stage 3 each of them is a collective operation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ft2ray.errors import ConfigurationError
from ft2ray.extras import extra

COMMON = {"train_micro_batch_size_per_gpu": 1, "steps_per_print": 10**9}
BUCKET = 50_000_000  # elements of one message; DeepSpeed's default takes 2 GB for each adapter
WHOLE_BELOW = 100_000  # elements; smaller weights (norms, biases) are not worth a gathering, all keep them


@cache
def _deepspeed() -> Any:
    """DeepSpeed, joined to the process group that is there; takes a second to import, so only when wanted."""
    if not (dist.is_available() and dist.is_initialized()):
        raise ConfigurationError(
            "resources.compute.zero_stage: there is no process group; train with Ray, or set it to 0"
        )
    with extra("zero"):
        import deepspeed
        import deepspeed.ops

    # It would be compiled at first use, to make gloo a little faster.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False)
    return deepspeed


def _initialize(device: torch.device, config: dict[str, Any], **parts: Any) -> Any:
    deepspeed = _deepspeed()
    os.environ["LOCAL_RANK"] = str(device.index or 0)  # where DeepSpeed looks for its device
    engine, *_ = deepspeed.initialize(config=COMMON | config, **parts)
    return engine


def shard_base(transformer: nn.Module) -> Any:
    """Divide the weights of a frozen `transformer` among the workers; call it before adapters are added.

    Blocks are gathered when they run and let go afterwards. Every worker has loaded the whole before, so that
    has to fit once. Returns an engine; when it is garbage-collected the weights stay in pieces for good.
    """
    sharing = {
        "stage": 3,
        "overlap_comm": False,
        "stage3_prefetch_bucket_size": 0,
        "stage3_param_persistence_threshold": WHOLE_BELOW,
    }
    device = next(transformer.parameters()).device
    return _initialize(device, {"zero_optimization": sharing}, model=transformer)


class ShardedAdamW:
    """AdamW without weight decay on whole parameters, its gradients and moments divided among the workers.

    offload: moments lie, and the update is made, in the CPU's memory.
    `state_dict` and `load_state_dict` speak the format of torch's AdamW on the whole parameters, so a
    training may be resumed with another number of workers, or without ZeRO.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], learning_rate: float, max_norm: float, offload: bool
    ) -> None:
        self.parameters, self.device = list(parameters), parameters[0].device
        self.shapes = [parameter.shape for parameter in parameters]
        self._set_learning(True)
        optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0)
        self.groups = optimizer.state_dict()["param_groups"]
        sharing: dict[str, Any] = {
            "stage": 2,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        }
        if offload:
            sharing["offload_optimizer"] = {"device": "cpu"}
        config = {
            "zero_optimization": sharing,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # that would be compiled
            "gradient_clipping": max_norm,
            "managed_gradient_accumulation": False,  # `update` says when a batch is complete
        }
        self.engine = _initialize(self.device, config, model=_Loss(parameters), optimizer=optimizer)
        self._set_learning(False)
        (group,) = self.engine.optimizer.optimizer.param_groups
        (self.part,) = group["params"]  # this worker's piece of all parameters one after the other

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this worker's `loss`."""
        self.engine.backward(self.engine(loss))

    def update(self) -> float:
        """Average over the workers, clip, step, clear; returns the norm before clipping."""
        self._set_learning(True)
        self.engine.step()
        self._set_learning(False)
        return float(self.engine.get_global_grad_norm())

    def _set_learning(self, on: bool) -> None:
        """DeepSpeed leaves out, without a word, what does not require gradients when it prepares or steps."""
        for parameter in self.parameters:
            parameter.requires_grad_(on)

    def state_dict(self) -> dict[str, Any]:
        """What torch's AdamW would say. All workers have to call it; it is complete on rank 0 only."""
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in self.engine.optimizer.optimizer.state[self.part].items():
            parts = [value] * len(self.shapes) if value.ndim == 0 else self._gathered(value)
            for index, tensor in enumerate(parts):
                moments.setdefault(index, {})[key] = tensor.clone()
        return {"state": moments, "param_groups": self.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the moments from there, and the parameters as they lie in the model by now."""
        self.engine.optimizer.refresh_fp32_params()
        if not state["state"]:
            return
        moments = [state["state"][index] for index in range(len(self.shapes))]
        size, rank = self.part.numel(), dist.get_rank()
        mine = {"step": moments[0]["step"].clone()}
        for key in ("exp_avg", "exp_avg_sq"):
            whole = torch.cat([of[key].flatten() for of in moments])
            whole = nn.functional.pad(whole, (0, size * dist.get_world_size() - len(whole)))
            mine[key] = whole[rank * size : (rank + 1) * size].to(self.part, copy=True)
        self.engine.optimizer.optimizer.state[self.part] = mine

    def _gathered(self, part: Tensor) -> list[Tensor]:
        """One tensor per parameter from everybody's piece, on the CPU; nothing but on rank 0."""
        mine = part.to(self.device).contiguous()  # NCCL knows no memory of the CPU
        pieces = [torch.empty_like(mine) for _ in range(0 if dist.get_rank() else dist.get_world_size())]
        dist.gather(mine, pieces or None)
        if not pieces:
            return []
        sizes = [shape.numel() for shape in self.shapes]
        whole = torch.cat([piece.cpu() for piece in pieces])[: sum(sizes)]
        return [flat.view(shape) for flat, shape in zip(whole.split(sizes), self.shapes, strict=True)]


class _Loss(nn.Module):
    """The module that an engine wants: its parameters are one adapter's, its forward has happened already."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.parameters_ = nn.ParameterList(parameters)

    def forward(self, loss: Tensor) -> Tensor:
        return loss
