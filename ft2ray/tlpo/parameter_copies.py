"""Copies of weights that a training keeps beside the learning ones, and that take their place for a while.

The average is what is published where `tlpo.ema` is set, while training goes on with the last weights:

    a <- d a + (1 - d) w  after every update,  d = min(decay, (1 + n) / (10 + n)) at update n

so that the zeros of the beginning do not outweigh the first updates. A plain copy is the reference of the
losses where `tlpo.loss.reference` is last_round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ft2ray.errors import DataError


class ParameterCopies:
    """Copies of named lists of parameters as they are now; `setting` is the one that asks for them."""

    def __init__(self, parameters: Mapping[str, Sequence[nn.Parameter]], setting: str) -> None:
        self.parameters, self.setting = parameters, setting
        self.tensors = {name: [p.detach().clone() for p in of] for name, of in parameters.items()}

    def renew(self) -> None:
        """Copy the parameters of now."""
        for name, copies in self.tensors.items():
            for copy, parameter in zip(copies, self.parameters[name], strict=True):
                copy.copy_(parameter.detach())

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}/{index}": tensor.cpu()
            for name, of in self.tensors.items()
            for index, tensor in enumerate(of)
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """DataError where `state` holds copies of other weights."""
        shapes = {key: tensor.shape for key, tensor in self.state().items()}
        if shapes != {key: tensor.shape for key, tensor in state.items()}:
            raise DataError(
                f"training state: it was saved without the copies that {self.setting} asks for, or with "
                f"those of other weights; set {self.setting} as it was then"
            )
        for key, tensor in state.items():
            name, index = key.rsplit("/", 1)
            self.tensors[name][int(index)].copy_(tensor)

    @contextmanager
    def in_place(self, *names: str) -> Iterator[None]:
        """Within, the parameters of these names (none: of all) are the copies."""
        self._swap(names or tuple(self.tensors))
        try:
            yield
        finally:
            self._swap(names or tuple(self.tensors))

    def _swap(self, names: Sequence[str]) -> None:
        for name in names:
            copies = self.tensors[name]
            for index, parameter in enumerate(self.parameters[name]):
                parameter.data, copies[index] = copies[index], parameter.data


class Average(ParameterCopies):
    """Running averages of the parameters, beginning with what these are now."""

    def __init__(self, parameters: Mapping[str, Sequence[nn.Parameter]], decay: float) -> None:
        super().__init__(parameters, "tlpo.ema")
        self.decay = decay

    def update(self, name: str, n: int) -> None:
        """Take in the weights of `name` after its update number `n`, from 0."""
        decay = min(self.decay, (1 + n) / (10 + n))
        weights = [p.detach() for p in self.parameters[name]]
        torch._foreach_lerp_(self.tensors[name], weights, 1 - decay)
