"""One training step: forward, loss and backward for a batch of pairs; gradients are left in `.grad`.

    metrics = expert_step(velocity, experts, "ls", batch, LossSettings())                         # stage 1
    metrics = gate_step(velocity, experts, gate, ("mn", "ls", "vq"), batch, LossSettings())       # stage 2
    update(optimizer)

`velocity(x_BCFHW, t_B, conditions)` is the generator: any callable that runs the transformer on which the
experts sit, `conditions` being a list with one entry per sample. Both functions run the backward themselves,
since it has to happen while the adapters are in the state of the forward (see experts.py).

With several workers the gradients are averaged over them here, before the safeguard looks at them. That
takes the place of DDP's wrapper, which would wait for the experts that a batch of dimension d leaves alone.

A batch that does not fit may go through in parts of `microbatch` pairs, whose gradients are added up; then
everything about the step (average, safeguard, clipping) is as for the whole.

Shapes: B pairs, C latent channels, F latent frames, H W latent grid, T samples of both sides (2 B).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ft2ray.preference.draws import PairDraw
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.losses import (
    Metrics,
    PairErrors,
    drift,
    implicit_error,
    preference_loss,
    safe_loser_scale,
    velocity_error,
)
from ft2ray.tlpo.settings import LossSettings
from ft2ray.training import average_over_workers

Velocity = Callable[[Tensor, Tensor, list[Any]], Tensor]
Backward = Callable[[Tensor], None]
Reference = Callable[[], AbstractContextManager[None]]
"""Makes a context in which the transformer is the reference."""


@dataclass(frozen=True)
class PairBatch:
    """B pairs, each of one prompt: winner and loser share the conditions, the noise and the time.

    `mask_w_BCFHW`, `mask_l_BCFHW`: where the error counts, None for the whole frame (see masks.py).
    `r_w_B`, `r_l_B`: share of good of either, for a loss on groups (preference/groups.py); None for pairs.
    `ref_w_BCFHW`, `ref_l_BCFHW`: velocities of the reference where they are known already, see reference.py.
    `weight_C`: of the channels in the error, the same for all pairs; None: all alike.
    """

    x_w_BCFHW: Tensor
    x_l_BCFHW: Tensor
    mask_w_BCFHW: Tensor | None
    mask_l_BCFHW: Tensor | None
    conditions: list[Any]
    eps_BCFHW: Tensor
    t_B: Tensor
    ref_w_BCFHW: Tensor | None = None
    ref_l_BCFHW: Tensor | None = None
    r_w_B: Tensor | None = None
    r_l_B: Tensor | None = None
    weight_C: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.x_w_BCFHW.shape
        if not shape == self.x_l_BCFHW.shape == self.eps_BCFHW.shape:
            raise ValueError(f"pair batch: winner {tuple(shape)}, loser and noise must have one shape")
        counts = (shape[0], len(self.conditions), len(self.t_B))
        if len(set(counts)) > 1:
            raise ValueError("pair batch: {} pairs, {} conditions, {} times".format(*counts))
        for mask in (self.mask_w_BCFHW, self.mask_l_BCFHW):
            if mask is not None and not (mask.flatten(1).sum(1) > 0).all():
                raise ValueError("pair batch: a mask is empty; drop that pair from the masked dimension")

    def parts(self, pairs: int | None) -> Iterator[PairBatch]:
        """The batch in order, at most so many pairs at a time; None: at once."""
        total = len(self.t_B)
        for start in range(0, total, pairs or total):
            here = slice(start, start + (pairs or total))
            values = {f.name: getattr(self, f.name) for f in fields(self)}
            weight_C = values.pop("weight_C")
            part: dict[str, Any] = {k: None if v is None else v[here] for k, v in values.items()}
            yield PairBatch(**part, weight_C=weight_C)


def pair_batch(
    draws: Sequence[PairDraw],
    latents: Callable[[str, int], Tensor],
    conditions: Callable[[PairDraw], Any],
    mask: Callable[[str, int], Tensor] | None = None,
    share: Callable[[str, int], float] | None = None,
    device: torch.device | str = "cpu",
) -> PairBatch:
    """Look the draws up and stack them.

    `latents(group_id, candidate)` and `mask(group_id, candidate)` return x_CFHW of one candidate, `share` its
    share of good, `conditions(draw)` what `velocity` takes for one sample. Noise is drawn on the CPU from
    each draw's own seed, so it is the same on every device and in every batch.
    """

    def stack(of: Callable[[str, int], Tensor], winner: bool) -> Tensor:
        samples = [of(d.group_id, d.pair.winner if winner else d.pair.loser) for d in draws]
        shapes = sorted({tuple(sample.shape) for sample in samples})
        if len(shapes) > 1:
            raise ValueError(f"pair batch: samples of one batch must have one shape, got {shapes}")
        return torch.stack(samples).to(device, torch.float32)

    def noise(draw: PairDraw) -> Tensor:
        return noise_of(draw, latents(draw.group_id, draw.pair.winner).shape)

    def good(winner: bool) -> Tensor | None:
        if share is None:
            return None
        chosen = [(d.group_id, d.pair.winner if winner else d.pair.loser) for d in draws]
        return torch.tensor([share(*one) for one in chosen], dtype=torch.float32, device=device)

    return PairBatch(
        x_w_BCFHW=stack(latents, True),
        x_l_BCFHW=stack(latents, False),
        mask_w_BCFHW=stack(mask, True) if mask else None,
        mask_l_BCFHW=stack(mask, False) if mask else None,
        conditions=[conditions(draw) for draw in draws],
        eps_BCFHW=torch.stack([noise(d) for d in draws]).to(device),
        t_B=torch.tensor([d.t for d in draws], device=device),
        r_w_B=good(True),
        r_l_B=good(False),
    )


def noise_of(draw: PairDraw, shape: Sequence[int]) -> Tensor:
    """The draw's noise eps_CFHW, on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(draw.noise_seed))


def noisy(batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
    """What the transformer is given for both sides, [2 B, ...]: x_t and t; and the velocity to be found."""
    x0_TCFHW = torch.cat([batch.x_w_BCFHW, batch.x_l_BCFHW])
    eps_TCFHW, t_T = torch.cat([batch.eps_BCFHW, batch.eps_BCFHW]), torch.cat([batch.t_B, batch.t_B])
    t = t_T.view(-1, *[1] * (x0_TCFHW.dim() - 1))
    return (1 - t) * x0_TCFHW + t * eps_TCFHW, t_T, eps_TCFHW - x0_TCFHW


def pair_errors(velocity: Velocity, batch: PairBatch, config: LossSettings) -> PairErrors:
    """Errors of the policy, and of the reference where the batch holds its velocities.

    One forward of 2 B samples with shared noise and time, with whatever adapters are at work.
    """
    x_TCFHW, t_T, target_TCFHW = noisy(batch)
    v_TCFHW = velocity(x_TCFHW, t_T, batch.conditions * 2)
    weight_C = batch.weight_C
    mask_TCFHW = _both(batch.mask_w_BCFHW, batch.mask_l_BCFHW)
    ref_TCFHW = _both(batch.ref_w_BCFHW, batch.ref_l_BCFHW)
    winner_B, loser_B = velocity_error(v_TCFHW, target_TCFHW, mask_TCFHW, weight_C).chunk(2)
    ref_winner_B = ref_loser_B = drift_B = implicit_B = displacement_B = None
    if ref_TCFHW is not None:
        moved_T = velocity_error(v_TCFHW.detach(), ref_TCFHW) / ref_TCFHW.float().square().flatten(1).mean(1)
        displacement_B = moved_T.view(2, -1).mean(0)
    if ref_TCFHW is not None and config.kind != "simpo":
        ref_winner_B, ref_loser_B = velocity_error(ref_TCFHW, target_TCFHW, mask_TCFHW, weight_C).chunk(2)
    if ref_TCFHW is not None and mask_TCFHW is not None and config.anchor:
        drift_B = drift(v_TCFHW, ref_TCFHW, mask_TCFHW, weight_C).view(2, -1).mean(0)
    if config.kind == "nft":
        r_T = _both(batch.r_w_B, batch.r_l_B)
        assert r_T is not None and ref_TCFHW is not None, "a loss on groups needs shares and a reference"
        implicit_T = implicit_error(
            v_TCFHW, ref_TCFHW, target_TCFHW, r_T, config.mixing, mask_TCFHW, weight_C
        )
        implicit_B = implicit_T.view(2, -1).sum(0)
    return PairErrors(winner_B, loser_B, ref_winner_B, ref_loser_B, drift_B, implicit_B, displacement_B)


def _both(winner: Tensor | None, loser: Tensor | None) -> Tensor | None:
    return None if winner is None or loser is None else torch.cat([winner, loser])


def expert_step(
    velocity: Velocity,
    experts: Experts,
    dimension: str,
    batch: PairBatch,
    config: LossSettings,
    microbatch: int | None = None,
    backward: Backward | None = None,
    reference: Reference | None = None,
) -> Metrics:
    """Stage 1: gradients of the loss of `dimension`'s pairs for the expert of that name, and no other.

    `microbatch`: pairs that go through the transformer at a time, None for all. `backward` takes the
    gradients in place of `.grad`, see `Gradients`. `reference`: what the loss compares with, None: the base.
    """
    gradients = Gradients(experts.parameters(dimension), config, backward)
    for part in batch.parts(microbatch):
        known = with_reference(velocity, experts, part, config, reference)
        with experts.train_expert(dimension):
            gradients.add(pair_errors(velocity, known, config), len(part.t_B) / len(batch.t_B))
    return gradients.leave()


def gate_step(
    velocity: Velocity,
    experts: Experts,
    gate: TimestepLayerGate,
    names: Sequence[str],
    batch: PairBatch,
    config: LossSettings,
    microbatch: int | None = None,
) -> Metrics:
    """Stage 2: gradients for the gate alone, from full-dimension pairs, whole frame; all else frozen."""
    parameters = list(gate.parameters())
    if not parameters:
        raise ValueError(f"a {gate.config.mode} gate has nothing to train")
    gradients = Gradients(parameters, config)
    for part in batch.parts(microbatch):
        known = with_reference(velocity, experts, part, config)
        with experts.fused(names, gate):
            gradients.add(pair_errors(velocity, known, config), len(part.t_B) / len(batch.t_B))
    return gradients.leave()


def pair_metrics(velocity: Velocity, experts: Experts, batch: PairBatch, config: LossSettings) -> Metrics:
    """Loss and metrics of the experts as they are set right now (`experts.use`); no gradients."""
    known = with_reference(velocity, experts, batch, config)
    with torch.no_grad():
        loss, metrics = preference_loss(pair_errors(velocity, known, config), config)
    return {"loss": loss.item(), **metrics}


def with_reference(
    velocity: Velocity,
    experts: Experts,
    batch: PairBatch,
    config: LossSettings,
    reference: Reference | None = None,
) -> PairBatch:
    """The batch with the reference's velocities, where the loss or the anchor asks for them."""
    anchored = config.anchor > 0 and batch.mask_w_BCFHW is not None
    if batch.ref_w_BCFHW is not None or (config.kind == "simpo" and not anchored):
        return batch
    x_TCFHW, t_T, _ = noisy(batch)
    with torch.no_grad(), (reference or experts.reference)():
        winner_BCFHW, loser_BCFHW = velocity(x_TCFHW, t_T, batch.conditions * 2).chunk(2)
    return replace(batch, ref_w_BCFHW=winner_BCFHW, ref_l_BCFHW=loser_BCFHW)


class Gradients:
    """Gradients and metrics of one batch: `add` its parts one by one, then `leave` the sum in `.grad`.

    `backward(loss)`, where given, takes the gradients of each part instead (see zero.py); it has to average
    them over the workers itself and cannot be combined with the safeguard, which compares raw gradients.
    """

    def __init__(
        self, parameters: list[nn.Parameter], config: LossSettings, backward: Backward | None = None
    ) -> None:
        assert backward is None or config.safeguard_mu is None
        self.parameters, self.config, self.backward = parameters, config, backward
        # Gradient of the loss; with the safeguard those of the winners' and the losers' weighted errors.
        self._sides: list[list[Tensor]] = []
        self._metrics: Metrics = {}

    def add(self, errors: PairErrors, share: float) -> None:
        """Take in a part that holds `share` of the batch's pairs; wants the adapters as in the forward."""
        loss, metrics = preference_loss(errors, self.config)
        for key, value in ({"loss": loss.item()} | metrics).items():
            self._metrics[key] = self._metrics.get(key, 0.0) + share * value
        if self.backward is not None:
            self.backward(share * loss)
            return
        new = self._of(share * loss, errors)
        for total, part in zip(self._sides or new, new, strict=True):
            if total is not part:
                torch._foreach_add_(total, part)
        self._sides = self._sides or new

    def _of(self, loss: Tensor, errors: PairErrors) -> list[list[Tensor]]:
        if self.config.safeguard_mu is None:
            return [list(torch.autograd.grad(loss, self.parameters))]
        # What every pair weighs in the loss: d loss / d error, positive for winners, negative for losers.
        sides = (errors.winner_B, errors.loser_B)
        weight_w_B, weight_l_B = torch.autograd.grad(loss, sides, retain_graph=True)
        winner = torch.autograd.grad(errors.winner_B, self.parameters, weight_w_B, retain_graph=True)
        return [list(winner), list(torch.autograd.grad(errors.loser_B, self.parameters, -weight_l_B))]

    def leave(self) -> Metrics:
        """Average over the workers, apply the safeguard, put into `.grad`; metrics of this worker's share."""
        sides = [average_over_workers(side) for side in self._sides]
        if len(sides) == 2:
            winner, loser = sides
            assert self.config.safeguard_mu is not None
            scale = safe_loser_scale(winner, loser, self.config.safeguard_mu)
            self._metrics["loser_scale"] = scale.item()
            sides = [[w - scale * lo for w, lo in zip(winner, loser, strict=True)]]
        for side in sides:
            for parameter, grad in zip(self.parameters, side, strict=True):
                parameter.grad = grad
        return self._metrics
