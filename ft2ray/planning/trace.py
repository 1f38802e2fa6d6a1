"""What a computation costs, found by running it on tensors without data (torch's meta device).

The forecast and the program cannot drift apart: the same modules run, only no numbers are computed. FLOPs
are those of matrix products, convolutions and attention; bytes are the most that live at one time. A kernel's
own workspace and the allocator's gaps are in neither.

Attention is taken to be a fused kernel, which keeps queries, keys, values and its output but never the
matrix of scores.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Cost:
    """FLOPs of a computation, and the most bytes that it holds beside what was there before."""

    flops: float
    peak_bytes: float

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(self.flops + other.flops, max(self.peak_bytes, other.peak_bytes))


def trace(run: Callable[[], object]) -> Cost:
    """Cost of `run`, a computation on meta tensors (or on real ones, where it is really done)."""
    meter = Meter()
    with fused_attention(), meter:
        result = run()
    del result
    return Cost(meter.flops, meter.peak)


def extrapolated(cost_of: Callable[[int], Cost], count: int) -> Cost:
    """Cost for `count` equal parts (layers, frames), from the costs for 2 and 3 of them.

    Every part after the second adds the same, so a model of 40 layers is known from one of three.
    """
    if count <= 3:
        return cost_of(count)
    two, three = cost_of(2), cost_of(3)
    more = count - 2
    return Cost(
        two.flops + more * (three.flops - two.flops),
        two.peak_bytes + more * (three.peak_bytes - two.peak_bytes),
    )


class Meter(TorchDispatchMode):
    """FLOPs done inside this context, and bytes of the tensors made there: now (`live`), at most (`peak`).

    A storage counts from the operation that made it until the last tensor on it is gone. FLOPs are those of
    PyTorch's FlopCounterMode, whose module hooks cannot be used: they keep what checkpointing lets go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **kwargs)
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _key(tensor) not in before:
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            self.live -= size
            self._known.pop(key, None)

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@contextmanager
def fused_attention() -> Iterator[None]:
    """Attention on meta tensors by CUDA's fused operator; the meta device's own would keep all scores.

    The function is replaced as a whole: a torch function mode would not reach what checkpointing repeats
    inside the backward.
    """
    original = F.scaled_dot_product_attention

    def attention(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return (_fused if query.is_meta else original)(query, *args, **kwargs)

    F.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    bias = (
        None
        if attn_mask is None
        else attn_mask.new_empty(1, dtype=query.dtype).expand(*query.shape[:3], key.shape[2])
    )
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )[0]
