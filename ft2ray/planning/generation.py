"""What the generator's work costs: sampling a clip, and a training step on preference pairs.

The real modules run under `trace`; only the loss, a handful of numbers per pair, is left out.

Shapes: B samples, C latent channels, F latent frames, H W latent grid, L tokens, D token width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ft2ray.generator.transformer import AudioWanTransformer, SpeechWanTransformer
from ft2ray.planning.shapes import GeneratorShape
from ft2ray.planning.trace import Cost, extrapolated, trace
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.settings import ExpertSettings, GateSettings, LossSettings
from ft2ray.tlpo.step import PairBatch, pair_errors, with_reference


def inputs(shape: GeneratorShape, batch: int, device: torch.device | str = "meta") -> dict[str, Any]:
    """Arguments of one call of the transformer for `batch` samples."""
    architecture, dtype = shape.architecture, shape.dtype
    channels = architecture["in_channels"]  # noise, and what is stacked behind it

    def zeros(*sizes: int) -> Tensor:
        return torch.zeros(batch, *sizes, dtype=dtype, device=device)

    return {
        "hidden_states": zeros(channels, *shape.latent_CFHW[1:]),
        "timestep": torch.full((batch,), 500.0, device=device),
        "encoder_hidden_states": zeros(shape.text, architecture["text_dim"]),
        "encoder_hidden_states_image": zeros(shape.image, architecture["image_dim"]) if shape.image else None,
        "audio": zeros(shape.audio, architecture["audio_features"]),
        "return_dict": False,
    }


def forward_cost(shape: GeneratorShape, batch: int) -> Cost:
    """One call of the transformer without gradients, as the sampler makes it for `batch` guidance passes."""

    def cost(layers: int) -> Cost:
        model, arguments = shape.transformer(layers), inputs(shape, batch)
        with torch.no_grad():
            return trace(lambda: model(**arguments))

    return _over_layers(shape, cost)


def decode_cost(shape: GeneratorShape) -> Cost:
    """The VAE's decoder on one clip; the portrait codec's work is done by the CPU and not counted."""
    if not shape.wan:
        return Cost(0.0, 0.0)
    channels, frames, height, width = shape.latent_CFHW
    vae = shape.vae()

    def cost(count: int) -> Cost:
        latent_BCFHW = torch.zeros(1, channels, count, height, width, device="meta")
        with torch.no_grad():
            return trace(lambda: vae.decode(latent_BCFHW))

    return extrapolated(cost, frames)


def expert_step_cost(shape: GeneratorShape, expert: ExpertSettings, pairs: int, checkpointing: bool) -> Cost:
    """A step of stage 1 on `pairs` pairs: reference and policy on winners and losers, and the backward."""

    def cost(layers: int) -> Cost:
        model = shape.transformer(layers)
        experts = experts_on(model, ("expert",), expert)
        return trace(training_step(shape, model, experts, None, pairs, checkpointing))

    return _over_layers(shape, cost)


def gate_step_cost(
    shape: GeneratorShape,
    expert: ExpertSettings,
    dimensions: tuple[str, ...],
    pairs: int,
    checkpointing: bool,
) -> Cost:
    """A step of stage 2: the same with all experts frozen and at work, and the backward to the gate."""

    def cost(layers: int) -> Cost:
        model = shape.transformer(layers)
        experts = experts_on(model, dimensions, expert)
        width = model.config["num_attention_heads"] * model.config["attention_head_dim"]
        with torch.device("meta"):
            gate = TimestepLayerGate(layers, len(dimensions), width, GateSettings(mode="full"))
        return trace(training_step(shape, model, experts, gate, pairs, checkpointing))

    return _over_layers(shape, cost)


def experts_on(model: SpeechWanTransformer, names: tuple[str, ...], expert: ExpertSettings) -> Experts:
    """Experts where the base is (without data, if that is the meta device); peft makes them on the CPU."""
    device = next(model.parameters()).device
    experts = Experts(model, names, expert)
    model.to(device)  # type: ignore[arg-type]  # a closed signature of theirs
    return experts


def expert_parameters(shape: GeneratorShape, expert: ExpertSettings) -> int:
    """Parameters of one expert."""
    experts = Experts(shape.transformer(1), ("expert",), expert)
    return shape.layers * sum(parameter.numel() for parameter in experts.parameters("expert"))


def training_step(
    shape: GeneratorShape,
    model: SpeechWanTransformer,
    experts: Experts,
    gate: TimestepLayerGate | None,
    pairs: int,
    checkpointing: bool,
) -> Callable[[], object]:
    """A step on zeros for `experts.names[0]`, or for the gate: to be traced, or to be timed on a card."""
    device = next(model.parameters()).device
    arguments = inputs(shape, 2 * pairs, device)
    channels = shape.latent_CFHW[0]
    stacked_BCFHW = arguments.pop("hidden_states")[:, channels:]
    if checkpointing:
        model.train()
        model.enable_gradient_checkpointing()
    else:
        model.disable_gradient_checkpointing()
    name = experts.names[0]

    def within() -> Any:
        return experts.train_expert(name) if gate is None else experts.fused(experts.names, gate)

    learning = experts.parameters(name) if gate is None else list(gate.parameters())

    def velocity(x_BCFHW: Tensor, t_B: Tensor, conditions: list[Any]) -> Tensor:
        x_BCFHW = torch.cat([x_BCFHW.to(shape.dtype), stacked_BCFHW], dim=1)
        return model(x_BCFHW, **(arguments | {"timestep": 1000 * t_B}))[0]

    winner, loser, noise = (torch.zeros(pairs, *shape.latent_CFHW, device=device) for _ in range(3))
    t_B = torch.zeros(pairs, device=device)
    batch = PairBatch(winner, loser, None, None, [None] * pairs, noise, t_B)

    # Masks, the anchor and the loss on groups change what is made of the velocities, not how often the
    # transformer runs; SimPO without an anchor needs no reference and costs less than this.
    loss = LossSettings()

    def step() -> object:
        known = with_reference(velocity, experts, batch, loss)
        with within():
            errors = pair_errors(velocity, known, loss)
            return torch.autograd.grad((errors.winner_B - errors.loser_B).sum(), learning)

    return step


def _over_layers(shape: GeneratorShape, cost: Any) -> Cost:
    # Blocks are alike in FantasyTalking's way only; where speech is added, the first half differs.
    same = shape.backbone is AudioWanTransformer
    return extrapolated(cost, shape.layers) if same else cost(shape.layers)
