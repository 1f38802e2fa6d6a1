"""The whole of TLPO as one resumable loop in plain PyTorch: stage 1 (experts), then stage 2 (gate).

    run = TlpoRun(generator, settings, rank, workers)
    run.add(group, pairs)           # as often as there are groups, before or during the training
    run.train(until, save, intake)  # intake(run) before every step, save(run) every `checkpoint_every` steps
    run.policy()                    # the experts and the gate as they are now

One step of stage 1 updates every expert once, each on a batch of its own dimension, and the baseline `sum`
(plain DPO on the summed score) as often as all experts together. A dimension that has no pair (yet) is left
alone, which `untrained` names.

Shapes: C latent channels, F latent frames, H W latent grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ft2ray.generator.sampler import Conditions
from ft2ray.preference.draws import DrawConfig, PairPool, draws
from ft2ray.preference.rules import FULL, Pair
from ft2ray.records import PromptGroup
from ft2ray.tlpo.experts import ExpertConfig, Experts
from ft2ray.tlpo.gate import GateConfig, TimestepLayerGate
from ft2ray.tlpo.losses import LossConfig, Metrics
from ft2ray.tlpo.policy import SUM, Policy, policy_of
from ft2ray.tlpo.step import PairBatch, expert_step, gate_step, pair_batch, update
from ft2ray.tlpo.training_state import load_training_state, save_training_state

GATE = "gate"
NO_PAIRS = "no dimension has a single preference pair"
HOW_TO_GET_PAIRS = "lower preference.margin, set preference.answers_differ=false, or curate more candidates"


class TrainableGenerator(Protocol):
    """All that TLPO asks of a generator."""

    @property
    def transformer(self) -> Any:
        """The WanTransformer3DModel (or a subclass) that `velocity` runs; its weights will be frozen."""

    @property
    def fingerprint(self) -> str:
        """Identity of the frozen base."""

    def velocity(
        self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conditions: list[Conditions]
    ) -> torch.Tensor:
        """Velocity [B, C, F, H, W] of the transformer at times t in [0, 1], no guidance."""


@dataclass(frozen=True)
class TlpoSettings:
    """`batch` pairs a step over all workers; learning rates of AdamW without weight decay."""

    dimensions: tuple[str, ...]
    expert: ExpertConfig
    loss: LossConfig
    gate: GateConfig
    draw: DrawConfig
    batch: int
    steps: int
    learning_rate: float
    gate_steps: int
    gate_learning_rate: float
    checkpoint_every: int
    max_norm: float = 1.0


class TlpoRun:
    """State: `step` (of steps + gate_steps), experts, gate, optimisers and one draw cursor per pool."""

    def __init__(
        self,
        generator: TrainableGenerator,
        settings: TlpoSettings,
        rank: int = 0,
        workers: int = 1,
    ):
        self.generator, self.settings = generator, settings
        self.rank, self.workers = rank, workers
        self.device = next(generator.transformer.parameters()).device
        self.adapters = (*settings.dimensions, SUM)
        self.groups: dict[str, PromptGroup] = {}
        self.pools = {name: PairPool() for name in (*self.adapters, FULL)}
        self.experts = Experts(generator.transformer, self.adapters, settings.expert)
        config = generator.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        self.gate = TimestepLayerGate(config.num_layers, len(settings.dimensions), width, settings.gate)
        self.gate.to(self.device)
        self.optimizers = {
            name: torch.optim.AdamW(self.experts.parameters(name), settings.learning_rate, weight_decay=0.0)
            for name in self.adapters
        }
        self.gate_learns = any(True for _ in self.gate.parameters())
        if self.gate_learns:
            self.optimizers[GATE] = torch.optim.AdamW(
                self.gate.parameters(), settings.gate_learning_rate, weight_decay=0.0
            )
        self.cursors = dict.fromkeys(self.pools, 0)
        self.step = 0
        self.curves: list[dict[str, float | int | str]] = []

    @property
    def untrained(self) -> list[str]:
        """Adapters (and the full dimension) without a single pair."""
        return [name for name, pool in self.pools.items() if len(pool) == 0]

    @property
    def last_step(self) -> int:
        return self.settings.steps + (self.settings.gate_steps if self.gate_learns else 0)

    def add(self, group: PromptGroup, pairs: Mapping[str, list[Pair]]) -> None:
        """Draw from this group's `pairs` (by pool) from now on."""
        self.groups[group.group_id] = group
        for name, found in pairs.items():
            self.pools[name].add(group.group_id, found)

    def train(
        self, until: int, save: Callable[[TlpoRun], None], intake: Callable[[TlpoRun], None] | None = None
    ) -> None:
        """Go on to step `until` (or the last one); `intake` may add groups and may wait for them."""
        settings, until = self.settings, min(until, self.last_step)
        while self.step < until:
            if intake is not None:
                intake(self)
            if set(settings.dimensions) <= set(self.untrained):
                raise ValueError(f"{NO_PAIRS}; {HOW_TO_GET_PAIRS}")
            if self.step < settings.steps:
                for name in settings.dimensions:
                    self._update_expert(name)
                for _ in settings.dimensions:
                    self._update_expert(SUM)
            else:
                self._update_gate()
            self.step += 1
            if self.step % settings.checkpoint_every == 0 or self.step in (settings.steps, until):
                save(self)

    def policy(self) -> Policy:
        return policy_of(self.experts, self.settings.dimensions, self.generator.fingerprint, self.gate)

    def save(self, folder: str | Path) -> None:
        save_training_state(
            folder, self.experts, self.gate, self.optimizers, {"step": self.step, **self.cursors}
        )

    def restore(self, folder: str | Path) -> None:
        counters = load_training_state(folder, self.experts, self.gate, self.optimizers)
        self.step = counters.pop("step")
        self.cursors = counters

    def _update_expert(self, name: str) -> None:
        if name not in self.untrained:
            metrics = expert_step(
                self.generator.velocity, self.experts, name, self._batch(name), self.settings.loss
            )
            self._apply(name, metrics)

    def _update_gate(self) -> None:
        if FULL not in self.untrained:
            metrics = gate_step(
                self.generator.velocity,
                self.experts,
                self.gate,
                self.settings.dimensions,
                self._batch(FULL),
                self.settings.loss,
            )
            self._apply(GATE, metrics)

    def _apply(self, name: str, metrics: Metrics) -> None:
        metrics["grad_norm"] = update(self.optimizers[name], self.settings.max_norm)
        self.curves.append({"step": self.step, "name": name, **metrics})

    def _batch(self, name: str) -> PairBatch:
        """This worker's share of the next batch of a pool; all workers move the same cursor."""
        size, cursor = self.settings.batch, self.cursors[name]
        self.cursors[name] = cursor + size
        chosen = draws(self.settings.draw, name, cursor, size, self.pools[name])[self.rank :: self.workers]
        return pair_batch(chosen, self._latents, self._conditions, self._lip_mask, self.device)

    def _latents(self, group_id: str, candidate: int) -> torch.Tensor:
        return torch.from_numpy(self.groups[group_id].candidates[candidate].latents_CFHW)

    def _lip_mask(self, group_id: str, candidate: int) -> torch.Tensor:
        return torch.from_numpy(self.groups[group_id].candidates[candidate].lip_mask)

    def _conditions(self, group_id: str) -> Conditions:
        return conditions_of(self.groups[group_id])


def conditions_of(group: PromptGroup) -> Conditions:
    """Conditions of the prompt of `group`, as its generator encoded them, on the CPU."""
    encoded = (group.text_LD, group.audio_LD, group.image_LD, group.stacked_CFHW)
    text, audio, image, stacked = (None if array is None else torch.from_numpy(array) for array in encoded)
    assert audio is not None
    return Conditions(text, audio, group.frames, image_LD=image, latent_CFHW=stacked)
