"""Experts: one LoRA adapter per preference dimension, all on one frozen transformer.

    experts = Experts(transformer, ("mn", "ls", "vq"), ExpertSettings(rank=16))
    with experts.reference(): ...             # adapters off: exactly the base
    with experts.train_expert("ls"): ...      # base + LS, and only LS learns
    with experts.fused(("mn", "ls", "vq"), gate): ...   # the weighted sum, all adapters frozen

Adapters are plain peft adapters named after their dimension (FantasyTalking2, method figure, part 1).
Run the backward pass inside the same context as the forward: leaving it changes what requires gradients, and
gradient checkpointing recomputes the forward during the backward.

Shapes: B batch, D timestep embedding, N layers, K experts.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from ft2ray.tlpo.settings import AUDIO_TARGETS, ExpertSettings
from ft2ray.tlpo.stacked_lora import StackedLora, install_stacked_forward

TIMESTEPS = 1000.0  # the transformer is given 1000 t

# (tau_BD, t_B) -> w_BNK; a TimestepLayerGate is one. A plain tensor [N or 1, K] stands for constant weights.
WeightSource = Callable[[Tensor, Tensor], Tensor]


def lora_config(settings: ExpertSettings) -> LoraConfig:
    """The settings as peft takes them."""
    wanted = f"({settings.targets})|({AUDIO_TARGETS})" if settings.audio else settings.targets
    alpha, targets = cast(Any, (settings.alpha, wanted))  # peft's annotations are too narrow
    return LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0)


class Experts:
    """The adapters of one transformer and which of them are at work: none, until it is told otherwise.

    The transformer is frozen and gets one zero-effect adapter per name (B = 0), in float32 on a bf16 base
    too: 8 bits of mantissa would swallow an update below 1/256 of the weight.

    Args:
        transformer: the base.
        names: of the experts.
        settings: of every adapter.
        seed: draws every A, each expert on its own: it starts the same whichever others there are.
    """

    def __init__(
        self,
        transformer: nn.Module,
        names: Sequence[str],
        settings: ExpertSettings | None = None,
        seed: int = 0,
    ):
        settings = settings or ExpertSettings()
        existing = set(getattr(transformer, "peft_config", {}))
        if existing:
            raise ValueError(f"the transformer already carries {sorted(existing)}; call detach_experts first")
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"experts need distinct names, got {list(names)}")
        transformer.requires_grad_(False)
        _add_adapters(transformer, {name: lora_config(settings) for name in names})
        self._adopt(transformer, names)
        for name in names:
            for parameter in self.parameters(name):
                parameter.data = parameter.data.float()
            self._initialise(name, seed)

    @classmethod
    def from_states(
        cls, transformer: nn.Module, states: dict[str, tuple[LoraConfig, dict[str, Tensor]]]
    ) -> Experts:
        """Adapters with the given configuration and peft state dict, under their names."""
        experts = cls.__new__(cls)
        detach_experts(transformer)
        transformer.requires_grad_(False)
        _add_adapters(transformer, {name: config for name, (config, _) in states.items()})
        experts._adopt(transformer, list(states))
        for name, (_, tensors) in states.items():
            experts.load_state(name, tensors)
        return experts

    def _adopt(self, transformer: nn.Module, names: Sequence[str]) -> None:
        self.transformer, self.names = transformer, tuple(names)
        self.routing, self.layers = install_stacked_forward(transformer)
        self._source: WeightSource | None = None
        embedder = transformer.condition_embedder
        assert isinstance(embedder, nn.Module)
        self.routing.hook = embedder.register_forward_hook(self._route)
        self._parameters = {name: self._find_parameters(name) for name in names}  # asked for at every step
        self._state: tuple[tuple[str, ...], WeightSource | Tensor | None, bool] | None = None
        self._use((), None, learn=False)

    def _route(self, _module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Runs inside every forward of the transformer, as soon as its timestep embedding is known."""
        if self._source is not None:
            self.routing.weights_BNK = self._source(output[0], args[0] / TIMESTEPS)

    def _initialise(self, name: str, seed: int) -> None:
        for layer_name, layer in self.transformer.named_modules():
            if isinstance(layer, StackedLora):
                a, b = layer.factors(name)
                digest = hashlib.sha256(f"{seed}/{name}/{layer_name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
                bound = a.shape[1] ** -0.5  # peft's own: Kaiming uniform with a = sqrt(5)
                with torch.no_grad():
                    a.copy_((torch.rand(a.shape, generator=generator) * 2 - 1) * bound)
                    b.zero_()

    # -- which adapters are at work ----------------------------------------------------------------------

    def _use(self, names: tuple[str, ...], weights: WeightSource | Tensor | None, learn: bool) -> None:
        if self._state is not None and self._state[::2] == (names, learn) and self._state[1] is weights:
            return  # a switch goes through all layers: a tenth of a step of a small model
        for layer in self.layers:
            if names:
                layer.enable_adapters(True)
                layer.set_adapter(list(names), inference_mode=not learn)
            else:
                layer.enable_adapters(False)
        self.routing.weights_BNK = weights[None] if isinstance(weights, Tensor) else None
        self._source = None if isinstance(weights, Tensor) else weights
        self._state = (names, weights, learn)

    def use(
        self,
        names: Sequence[str] = (),
        weights: WeightSource | Tensor | None = None,
        learn: bool = False,
    ) -> None:
        """From now on, the base plus the (weighted) sum of `names`; no names: the base.

        `weights`: a gate, or a constant tensor [K] or [N, K] in the order of `names`; None adds in full.
        `learn`: whether the parameters of `names` require gradients.
        """
        names = tuple(names)
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ValueError(f"no expert named {', '.join(unknown)}; there are {', '.join(self.names)}")
        if isinstance(weights, Tensor):
            weights = weights.reshape(-1, weights.shape[-1])
            if weights.shape[-1] != len(names):
                raise ValueError(f"{weights.shape[-1]} weights for {len(names)} experts {names}")
        self._use(names, weights, learn)

    @contextmanager
    def _within(self, names: tuple[str, ...], weights: Any, learn: bool) -> Iterator[None]:
        before = self._state
        assert before is not None
        self.use(names, weights, learn)
        try:
            yield
        finally:
            self._use(*before)

    def reference(self) -> Any:
        """Context: adapters off, bitwise the base. The reference of DPO; wants torch.no_grad() beside it."""
        return self._within((), None, learn=False)

    def train_expert(self, name: str) -> Any:
        """Context: base + expert `name` in full; its parameters, and no others, require gradients."""
        return self._within((name,), None, learn=True)

    def fused(self, names: Sequence[str], weights: WeightSource | Tensor | None) -> Any:
        """Context: base + weighted sum of `names`, all of them frozen; a gate in `weights` may learn."""
        return self._within(tuple(names), weights, learn=False)

    # -- parameters and state ----------------------------------------------------------------------------

    def named_parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The parameters of expert `name` by full module name, in a fixed order."""
        return dict(self._parameters[name])

    def _find_parameters(self, name: str) -> dict[str, nn.Parameter]:
        marks = (f".lora_A.{name}.", f".lora_B.{name}.")
        return {n: p for n, p in self.transformer.named_parameters() if any(mark in n for mark in marks)}

    def parameters(self, name: str) -> list[nn.Parameter]:
        return list(self._parameters[name].values())

    def config(self, name: str) -> LoraConfig:
        return self.transformer.peft_config[name]  # type: ignore[index,return-value]

    def state(self, name: str) -> dict[str, Tensor]:
        """Copy of the adapter's tensors in peft's layout (`blocks.0.attn1.to_q.lora_A.weight`, ...)."""
        state = get_peft_model_state_dict(self.transformer, adapter_name=name)
        return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}

    def load_state(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Set the adapter's tensors; ValueError where they are not exactly those of this transformer."""
        wanted = {key: tuple(tensor.shape) for key, tensor in self.state(name).items()}
        given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        if wanted != given:
            odd = sorted(set(wanted.items()) ^ set(given.items()))[0]
            raise ValueError(
                f"adapter {name!r} does not fit this transformer (for one: {odd[0]}, shape {odd[1]})"
            )
        set_peft_model_state_dict(self.transformer, tensors, adapter_name=name)


def _add_adapters(transformer: nn.Module, configs: dict[str, LoraConfig]) -> None:
    with warnings.catch_warnings():
        # peft asks whether a second adapter on one model is meant; it is.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for name, config in configs.items():
            transformer.add_adapter(config, adapter_name=name)  # type: ignore[operator]


def detach_experts(transformer: nn.Module) -> None:
    """Take every adapter off, leaving the plain base; harmless where there is none."""
    for module in transformer.modules():
        if isinstance(module, StackedLora) and module.routing.hook is not None:
            module.routing.hook.remove()
            module.routing.hook = None
    if getattr(transformer, "peft_config", None):
        transformer.unload_lora()  # type: ignore[operator]
