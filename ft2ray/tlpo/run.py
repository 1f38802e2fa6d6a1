"""The whole of TLPO as one resumable loop in plain PyTorch: stage 1 (experts), then stage 2 (gate).

    run = TlpoRun(generator, dimensions, settings)
    run.add(group, pairs)           # as often as there are groups, before or during the training
    run.train(until, save, add_groups)  # add_groups(run) before every step, save(run) at every checkpoint
    run.policy()                    # the experts and the gate as they are now

One step of stage 1 updates every expert once, each on a batch of its own dimension, and the baseline `sum`
(plain DPO on the summed score), where there is one, as often as all experts together. A dimension that has
no pair (yet) is left alone, which `untrained` names.

No global random numbers are used: what is drawn has seeds of its own and depends on the cursors alone.

Shapes: C latent channels, F latent frames, H W latent grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ft2ray.errors import ConfigurationError, NonFiniteError
from ft2ray.generator.base import Generator
from ft2ray.generator.sampler import Conditions, guidance_weights
from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.transformer import cast_weights
from ft2ray.preference.draws import DrawRule, PairDraw, PairPool, draws, held_out, pass_of
from ft2ray.preference.groups import advantages, couple, shares
from ft2ray.preference.rules import FULL, Pair
from ft2ray.records import PromptGroup
from ft2ray.systems import SUM
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate, heat_map
from ft2ray.tlpo.losses import Metrics
from ft2ray.tlpo.masks import region_mask
from ft2ray.tlpo.parameter_copies import Average, ParameterCopies
from ft2ray.tlpo.policy import Policy, policy_of
from ft2ray.tlpo.reference import reference_velocities
from ft2ray.tlpo.settings import ComputeSettings, TlpoSettings, check_compute
from ft2ray.tlpo.step import PairBatch, expert_step, gate_step, noise_of, pair_batch
from ft2ray.tlpo.training_state import load_training_state, save_training_state
from ft2ray.tlpo.zero import ShardedAdamW, shard_base
from ft2ray.training import update

GATE = "gate"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
NO_PAIRS = "no dimension has a single preference pair"
HOW_TO_GET_PAIRS = "lower pairs.margin, set pairs.answers_differ=false, or curate more candidates"


class TlpoRun:
    """State: `step` (of steps + gate_steps), experts, gate, optimisers and one draw cursor per pool.

    Args:
        generator: whose transformer is aligned.
        dimensions: names of the experts, in the order of the gate's weights.
        settings: what is learnt.
        compute: how it is computed.
        seed: of the experts' first weights and of the draws.
        sampling: how clips will be sampled: the shift of the timesteps and the passes of the guidance are
            trained as they are used. None: no shift and no guidance.
        rank: of this worker.
        workers: in all.
        rounds: that share the steps of the experts; the gate learns at the end of each.
        masks: region whose error counts, by dimension (see masks.py); one that is not named: the whole frame.
    """

    def __init__(
        self,
        generator: Generator,
        dimensions: Sequence[str],
        settings: TlpoSettings,
        compute: ComputeSettings | None = None,
        seed: int = 0,
        sampling: SamplerSettings | None = None,
        rounds: int = 1,
        rank: int = 0,
        workers: int = 1,
        masks: Mapping[str, str] | None = None,
    ):
        self.compute = compute = compute or ComputeSettings()
        check_compute(settings, compute, workers)
        self.generator, self.settings, self.dimensions = generator, settings, tuple(dimensions)
        self.rounds, self.rank, self.workers, self.masks = rounds, rank, workers, masks or {}
        self.sampling = sampling or SamplerSettings(audio_scale=1.0)
        self.draws = DrawRule(seed, self.sampling.shift, settings.draws)
        self.device = next(generator.transformer.parameters()).device
        if settings.precision is not None:
            cast_weights(generator.transformer, PRECISIONS[settings.precision])
        if compute.checkpointing:
            generator.transformer.enable_gradient_checkpointing()
        self._base = shard_base(generator.transformer) if compute.zero_stage == 3 else None
        self.adapters = (*self.dimensions, SUM) if settings.baseline else self.dimensions
        self.groups: dict[str, PromptGroup] = {}
        self.pools = {name: PairPool() for name in (*self.adapters, FULL)}
        self.experts = Experts(generator.transformer, self.adapters, settings.experts, seed)
        config = generator.transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        self.gate = TimestepLayerGate(config.num_layers, len(self.dimensions), width, settings.gate)
        self.gate.to(self.device)
        self.optimizers: dict[str, torch.optim.AdamW | ShardedAdamW] = {
            name: self._optimizer(self.experts.parameters(name)) for name in self.adapters
        }
        if settings.gate_updates:
            self.optimizers[GATE] = torch.optim.AdamW(
                self.gate.parameters(), settings.optimizer.gate_learning_rate, weight_decay=0.0
            )
        learning = {name: self.experts.parameters(name) for name in self.adapters}
        self.average = self.last_round = None
        if settings.ema is not None:
            self.average = Average(learning | {GATE: list(self.gate.parameters())}, settings.ema)
        if settings.loss.reference == "last_round":
            self.last_round = ParameterCopies(
                learning, "tlpo.loss.reference"
            )  # no effect yet, as the base has none
        copies = {"average": self.average, "reference": self.last_round}
        self.copies = {what: copied for what, copied in copies.items() if copied is not None}
        # Candidates that are in a pair, by group; velocities of the reference for them (with a loss on groups
        # for all that have a score), by group and draw.
        self._paired: dict[str, list[int]] = {}
        self._references: dict[tuple[str, int], dict[int, torch.Tensor]] = {}
        self.cursors = dict.fromkeys(self.pools, 0)
        self.step = 0
        self.curves: list[dict[str, float | int | str]] = []

    @property
    def untrained(self) -> list[str]:
        """Adapters (and the full dimension) without a single pair."""
        return [name for name, pool in self.pools.items() if len(pool) == 0]

    @property
    def last_step(self) -> int:
        return self.settings.last_step(self.rounds - 1, self.rounds)

    def add(self, group: PromptGroup, pairs: Mapping[str, list[Pair]]) -> None:
        """Draw from this group's `pairs` (by pool) from now on; those of the sum only with the baseline.

        A group is for the experts or, with `gate_groups`, held out for the gate.
        """
        self.groups[group.group_id] = group
        for_gate = held_out(group.group_id, self.settings.gate_groups)
        if self.settings.gate_groups:
            pairs = {name: found for name, found in pairs.items() if (name == FULL) == for_gate}
        pairs = {name: found for name, found in pairs.items() if name in self.pools}
        for name, found in pairs.items():
            self.pools[name].add(group.group_id, found)
        paired = {n for found in pairs.values() for pair in found for n in (pair.winner, pair.loser)}
        self._paired[group.group_id] = sorted(paired)

    def train(
        self, until: int, save: Callable[[TlpoRun], None], add_groups: Callable[[TlpoRun], None] | None = None
    ) -> None:
        """Go on to step `until` (or the last one); `add_groups` may add groups and may wait for them."""
        settings, until = self.settings, min(until, self.last_step)
        while self.step < until:
            if add_groups is not None:
                add_groups(self)
            if set(self.dimensions) <= set(self.untrained):
                raise ConfigurationError(f"{NO_PAIRS}; {HOW_TO_GET_PAIRS}")
            turn = settings.gate_learns(self.step, self.rounds)
            if not turn:
                for name in self.dimensions:
                    self._update_expert(name)
                for _ in self.dimensions if settings.baseline else ():
                    self._update_expert(SUM)
            else:
                self._update_gate()
            self.step += 1
            ends = [settings.last_step(round, self.rounds) for round in range(self.rounds)]
            if self.last_round is not None and self.step in ends:
                self.last_round.renew()
            ended = self.step == until or settings.gate_learns(self.step, self.rounds) != turn
            if ended or self.step % self.compute.checkpoint_every == 0:
                save(self)

    def policy(self) -> Policy:
        """What is published: the running averages where they are kept, else the weights of now."""
        with self.average.in_place() if self.average else nullcontext():
            return policy_of(self.experts, self.dimensions, self.generator.fingerprint, self.gate)

    def gate_weights(self) -> torch.Tensor:
        """Weights w_SNK of the published gate (see `heat_map`). With ZeRO all workers have to call it."""
        with self.average.in_place() if self.average else nullcontext():
            return heat_map(self.gate, self.generator.transformer.condition_embedder)[1]

    def save(self, folder: str | Path) -> None:
        """Adapters, gate, moments, averages and cursors, never the base; written by rank 0.

        With ZeRO all workers have to call it.
        """
        counters = {"step": self.step, **self.cursors}
        moments = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        if self.rank == 0:
            save_training_state(folder, self.experts, self.gate, moments, counters, self.copies)

    def restore(self, folder: str | Path) -> None:
        counters = load_training_state(folder, self.experts, self.gate, self.optimizers, self.copies)
        self.step = counters.pop("step")
        self.cursors = counters

    def _optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.AdamW | ShardedAdamW:
        settings = self.settings.optimizer
        if self.compute.zero_stage:
            return ShardedAdamW(parameters, settings.learning_rate, settings.max_norm, self.compute.offload)
        return torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=0.0)

    def _update_expert(self, name: str) -> None:
        if name not in self.untrained:
            optimizer = self.optimizers[name]
            metrics = expert_step(
                self.generator.velocity,
                self.experts,
                name,
                self._batch(name),
                self.settings.loss,
                self.compute.microbatch,
                optimizer.backward if isinstance(optimizer, ShardedAdamW) else None,
                None if self.last_round is None else lambda: self._as_last_round(name),
            )
            self._apply(name, name, metrics)

    @contextmanager
    def _as_last_round(self, name: str) -> Iterator[None]:
        """The base with this expert as it was at the end of the last round."""
        assert self.last_round is not None
        with self.last_round.in_place(name), self.experts.fused((name,), None):
            yield

    def _update_gate(self) -> None:
        if FULL not in self.untrained:
            metrics = gate_step(
                self.generator.velocity,
                self.experts,
                self.gate,
                self.dimensions,
                self._batch(FULL),
                self.settings.loss,
                self.compute.microbatch,
            )
            self._apply(GATE, FULL, metrics)

    def _apply(self, name: str, pool: str, metrics: Metrics) -> None:
        optimizer = self.optimizers[name]
        if isinstance(optimizer, ShardedAdamW):
            metrics["grad_norm"] = optimizer.update()
        else:
            metrics["grad_norm"] = update(optimizer, self.settings.optimizer.max_norm)
        odd = [key for key, value in metrics.items() if not math.isfinite(value)]
        if odd:
            raise NonFiniteError(
                f"training: {', '.join(odd)} of the adapter {name} at step {self.step} is NaN or infinite; "
                "nothing of this round is published. Lower tlpo.optimizer.learning_rate, or train in fp32."
            )
        if self.average is not None:
            self.average.update(name, self.cursors[pool] // self.settings.batch - 1)
        self.curves.append({"step": self.step, "name": name, **metrics})

    def _batch(self, name: str) -> PairBatch:
        """This worker's share of the next batch of a pool; all workers move the same cursor."""
        size, cursor = self.settings.batch, self.cursors[name]
        self.cursors[name] = cursor + size
        chosen = draws(self.draws, name, cursor, size, self.pools[name])[self.rank :: self.workers]
        share = None
        if self.settings.loss.kind == "nft":
            chosen = [
                couple(self.draws, name, at, draw, self._advantages(name, draw.group_id))
                for at, draw in zip(
                    range(cursor + size)[cursor + self.rank :: self.workers], chosen, strict=True
                )
            ]
            share = self._share(name)
        mask = self._mask(self.masks.get(name, "all"))
        batch = pair_batch(chosen, self._latents, self._conditions, mask, share, self.device)
        if self.settings.loss.weighted and self.generator.channel_weights is not None:
            batch = replace(batch, weight_C=self.generator.channel_weights.to(self.device))
        if self.settings.draws.per_group is None:
            return batch
        known = [self._reference(draw) for draw in chosen]
        winners = [of[draw.pair.winner] for of, draw in zip(known, chosen, strict=True)]
        losers = [of[draw.pair.loser] for of, draw in zip(known, chosen, strict=True)]
        return replace(
            batch,
            ref_w_BCFHW=torch.stack(winners).to(self.device),
            ref_l_BCFHW=torch.stack(losers).to(self.device),
        )

    def _advantages(self, name: str, group_id: str) -> np.ndarray:
        group = self.groups[group_id]
        return advantages(group.scores_NK(), group.dimensions, name)

    def _share(self, name: str) -> Callable[[str, int], float]:
        """The share of good by group and candidate, in the pool of this name."""

        def share(group_id: str, candidate: int) -> float:
            return shares(self._advantages(name, group_id), self.settings.loss.advantage_clip)[candidate]

        return share

    def _mask(self, region: str) -> Callable[[str, int], torch.Tensor] | None:
        """The masks of a region by group and candidate; None for the whole frame."""
        if region == "all" or (region == "shape" and region not in self.generator.regions):
            return None

        def mask(group_id: str, candidate: int) -> torch.Tensor:
            found = region_mask(region, self._lip_mask(group_id, candidate), self.generator.regions)
            assert found is not None
            return found

        return mask

    def _reference(self, draw: PairDraw) -> dict[int, torch.Tensor]:
        """Velocities of the reference under this draw, by candidate of its group; computed once."""
        key, group_id = (draw.group_id, draw.noise_seed), draw.group_id
        if key not in self._references:
            candidates, pairs = self._paired[group_id], self.compute.microbatch
            if self.settings.loss.kind == "nft":
                candidates = np.flatnonzero(~np.isnan(self.groups[group_id].scores_NK()).all(1)).tolist()
            latents = torch.stack([self._latents(group_id, n) for n in candidates])
            v_KCFHW = reference_velocities(
                self.generator.velocity,
                self.experts,
                latents.to(self.device, torch.float32),
                self._conditions(draw),
                noise_of(draw, latents.shape[1:]).to(self.device),
                torch.tensor(draw.t, device=self.device),
                pairs and 2 * pairs,
            )
            self._references[key] = dict(zip(candidates, v_KCFHW.cpu(), strict=True))
        return self._references[key]

    def _latents(self, group_id: str, candidate: int) -> torch.Tensor:
        return torch.from_numpy(self.groups[group_id].candidates[candidate].latents_CFHW)

    def _lip_mask(self, group_id: str, candidate: int) -> torch.Tensor:
        return torch.from_numpy(self.groups[group_id].candidates[candidate].lip_mask)

    def _conditions(self, draw: PairDraw) -> Conditions:
        """Those of the draw's group, for the pass of the guidance that this draw trains."""
        found = conditions_of(self.groups[draw.group_id])
        passes = guidance_weights(self.sampling, has_text=found.text_LD is not None)
        others = [name for name in passes if name != "all"]
        return replace(found, part=pass_of(draw, self.settings.draws.drop_conditions, others))


def conditions_of(group: PromptGroup) -> Conditions:
    """Conditions of the prompt of `group`, as its generator encoded them, on the CPU."""
    encoded = (group.text_LD, group.audio_LD, group.image_LD, group.stacked_CFHW)
    text, audio, image, stacked = (None if array is None else torch.from_numpy(array) for array in encoded)
    assert audio is not None
    return Conditions(text, audio, group.frames, image_LD=image, latent_CFHW=stacked)
