"""Running averages of weights: what is published may be the average, while training goes on with the last.

    a <- d a + (1 - d) w  after every update,  d = min(decay, (1 + n) / (10 + n)) at update n

so that the zeros of the beginning do not outweigh the first updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ft2ray.errors import DataError


class Average:
    """Averages of named lists of parameters, beginning with what these are now."""

    def __init__(self, parameters: Mapping[str, Sequence[nn.Parameter]], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.tensors = {name: [p.detach().clone() for p in of] for name, of in parameters.items()}

    def update(self, name: str, n: int) -> None:
        """Take in the weights of `name` after its update number `n`, from 0."""
        decay = min(self.decay, (1 + n) / (10 + n))
        weights = [p.detach() for p in self.parameters[name]]
        torch._foreach_lerp_(self.tensors[name], weights, 1 - decay)

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}/{index}": tensor.cpu()
            for name, of in self.tensors.items()
            for index, tensor in enumerate(of)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """ValueError where `state` averages other weights."""
        shapes = {key: tensor.shape for key, tensor in self.state().items()}
        if shapes != {key: tensor.shape for key, tensor in state.items()}:
            raise DataError(
                "training state: it was saved without averages, or with those of other weights; set tlpo.ema "
                "as it was then"
            )
        for key, tensor in state.items():
            name, index = key.rsplit("/", 1)
            self.tensors[name][int(index)].copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the parameters are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, averages in self.tensors.items():
            for index, parameter in enumerate(self.parameters[name]):
                parameter.data, averages[index] = averages[index], parameter.data
