"""Settings of timestep-layer adaptive preference optimisation: what is learnt, and how it is computed."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from ft2ray.errors import ConfigurationError
from ft2ray.preference.draws import DrawSettings
from ft2ray.settings import Settings

# Q, K, V of the self-attention and both linears of the FFN: 351 M per expert on Wan-14B at rank 128.
TARGETS = r"blocks\.\d+\.(attn1\.to_[qkv]|ffn\.net\.(0\.proj|2))"
# Where the picture listens: queries of the cross-attention, and the values of the speech. Not its keys: the
# queries move the attention as well, and the packaged generator's keys also project places, of no sample.
AUDIO_TARGETS = r"blocks\.\d+\.attn2\.(to_q|processor\.v_proj)"


class ExpertSettings(Settings):
    """The LoRA of each expert; its update is alpha / rank * B A."""

    rank: int = Field(16, ge=1, le=4096)
    alpha: float = Field(16.0, gt=0)
    targets: str = TARGETS  # a regular expression over module names
    # Also adapt how the cross-attention listens to the speech. The paper does not; on the packaged generator
    # the lip-sync expert gains several times as much with it (docs/lab-log.md). Wan's original layout has no
    # names for these layers: such experts are exported to diffusers' only.
    audio: bool = False

    @field_validator("targets")
    @classmethod
    def _pattern(cls, targets: str) -> str:
        try:
            re.compile(targets)
        except re.error as error:
            raise ValueError(f"{targets!r} is not a regular expression: {error}") from error
        return targets


class LossSettings(Settings):
    """The preference loss, and what holds an expert to its own work (see losses.py)."""

    # dpo, ipo and simpo learn from pairs, nft (DiffusionNFT) from all candidates of a group that has a pair.
    kind: Literal["dpo", "ipo", "simpo", "nft"] = "dpo"
    # What the policy is compared with and the anchor holds to: the base in all rounds, or each expert as it
    # was at the end of the last round, which lets several rounds go further from the base than one may. The
    # gate always compares with the base.
    reference: Literal["base", "last_round"] = "base"
    beta: float = Field(100.0, gt=0)  # with the mean over elements as reduction
    gamma: float = 0.0  # SimPO's target margin
    mixing: float = Field(0.3, gt=0)  # nft's b: the smaller, the further from the reference it may go
    advantage_clip: float = Field(1.0, gt=0)  # standard deviations of a group at which nft's r is 0 or 1
    # None is off. Diffusion-SDPO: the share of the winner's descent that the loser may not take; 0.9 there.
    safeguard_mu: float | None = Field(None, ge=0, le=1)
    # Weight of the winners' flow-matching loss; 1 is DPO's own weight on them. DPO alone raises the error of
    # winners too. None: 0.5 for dpo, 0 for the others, which are published without it.
    winner_weight: float | None = Field(None, ge=0)
    winner_fades: bool = True  # with sigmoid(-margin), as DPO's own weight; False: it stays as at the start
    # Count the errors of channels as the base's own training did (Generator.channel_weights): the packaged
    # base's lids six times, its mouth one and a half times. Motion gains less with it (docs/lab-log.md).
    weighted: bool = False
    # Outside of its dimension's mask an expert is held to the reference's velocity: weight of their mean
    # squared difference. It costs no further forward, since the reference is run for the loss anyway.
    anchor: float = Field(200.0, ge=0)

    @property
    def weight_of_winners(self) -> float:
        """`winner_weight`, or what the kind of loss is published with."""
        if self.winner_weight is not None:
            return self.winner_weight
        return 0.5 if self.kind == "dpo" else 0.0

    @model_validator(mode="after")
    def _reference(self) -> LossSettings:
        if self.kind == "simpo" and self.winner_fades and self.winner_weight:
            raise ValueError("simpo has no margin against a reference by which winner_weight could fade")
        if self.kind == "nft" and (self.winner_weight or self.safeguard_mu is not None):
            raise ValueError("nft knows no winners and losers: leave winner_weight and safeguard_mu out")
        if self.gamma and self.kind != "simpo":
            raise ValueError(f"gamma is the target margin of simpo; {self.kind} has none")
        return self


class GateSettings(Settings):
    """How the experts are weighted.

    "full"      w = softmax(P_l tau) + b_l                (`shared`: one P for all layers, own b_l)
    "timestep"  w = softmax(P tau) + b, the same in every layer
    "layer"     w = 1/K + b_l, the same at every timestep
    "uniform"   w = 1/K, nothing to train
    "sum"       w = 1, nothing to train
    "segments"  one expert at a time, hard-switched by t (AlignHuman): expert `order[i]` works on
                [boundaries[i-1], boundaries[i]), from t = 0 (clean) up to t = 1 (noise); nothing to train
    """

    mode: Literal["full", "timestep", "layer", "uniform", "sum", "segments"] = "full"
    # Weights before the gate learns: every expert in full, which experts with masks and anchors bear, or
    # their average.
    start: Literal["sum", "average"] = "sum"
    shared: bool = False  # one projection for all layers instead of one per layer
    boundaries: tuple[float, ...] = ()  # of "segments", rising within (0, 1); empty: even
    order: tuple[NonNegativeInt, ...] = ()  # of "segments", places in the list of dimensions; empty: theirs

    @model_validator(mode="after")
    def _segments(self) -> GateSettings:
        if any(not 0 < b < 1 for b in self.boundaries) or list(self.boundaries) != sorted(
            set(self.boundaries)
        ):
            raise ValueError(f"boundaries must rise strictly within (0, 1), got {list(self.boundaries)}")
        if self.boundaries and self.order and len(self.order) != len(self.boundaries) + 1:
            raise ValueError(f"{len(self.boundaries)} boundaries need {len(self.boundaries) + 1} in order")
        if (self.boundaries or self.order) and self.mode != "segments":
            raise ValueError(f"boundaries and order are of the mode segments; {self.mode} has none")
        if self.shared and self.mode != "full":
            raise ValueError(f"shared is of the mode full; {self.mode} has no projection of each layer")
        return self

    def segments(self, experts: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Tell the boundaries and the order of the mode "segments".

        Args:
            experts: how many there are.

        Returns:
            `boundaries` and `order`, or what stands for them where they are empty.

        Raises:
            ConfigurationError: they are of another number of experts.
        """
        order = self.order or tuple(range(experts))
        bounds = self.boundaries or tuple((i + 1) / len(order) for i in range(len(order) - 1))
        if len(order) != len(bounds) + 1 or any(not 0 <= k < experts for k in order):
            raise ConfigurationError(
                f"tlpo.gate: {len(bounds)} boundaries need {len(bounds) + 1} of the {experts} experts, got "
                f"{list(order)}"
            )
        return bounds, order


class OptimizerSettings(Settings):
    """AdamW without weight decay."""

    learning_rate: float = Field(
        1e-3, gt=0
    )  # at 2e-4 and 20 updates the clips move by 1 % and no metric moves
    gate_learning_rate: float = Field(2e-2, gt=0)
    max_norm: float = Field(1.0, gt=0)  # gradients are clipped to this norm


class TlpoSettings(Settings):
    """Stage 1 (experts) and stage 2 (gate): all that decides what is learnt."""

    experts: ExpertSettings = ExpertSettings()
    loss: LossSettings = LossSettings()
    gate: GateSettings = GateSettings()
    draws: DrawSettings = DrawSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batch: int = Field(8, ge=1)  # pairs a step, over all workers
    steps: int = Field(40, ge=1)  # updates of each expert, shared by the rounds
    gate_steps: int = Field(20, ge=0)  # updates of the gate at the end of every round
    # Share of the prompt groups that only the gate learns from: on groups that the experts know by heart it
    # would reward memory. 0: both learn from all groups, as in the paper.
    gate_groups: float = Field(0.25, ge=0, lt=1)
    # dpo_sum, one more adapter: plain DPO on the summed score, updated as often as all experts together.
    baseline: bool = True
    precision: Literal["fp32", "bf16"] | None = (
        None  # of the frozen base, None as it was loaded; adapters: fp32
    )
    ema: float | None = Field(
        None, gt=0, lt=1
    )  # decay of running averages, published in place of the weights

    def last_step(self, round: int, rounds: int) -> int:
        """The step at which `round` of so many is done: its share of the experts' steps, then the gate's."""
        return self.steps * (round + 1) // rounds + self.gate_updates * (round + 1)

    def gate_learns(self, step: int, rounds: int) -> bool:
        """Whether step number `step`, from 0, is one of the gate's."""
        round = next(r for r in range(rounds) if step < self.last_step(r, rounds))
        return step >= self.last_step(round, rounds) - self.gate_updates

    @property
    def gate_updates(self) -> int:
        """`gate_steps`, or 0 for a gate that has nothing to learn."""
        return self.gate_steps if self.gate.mode in ("full", "timestep", "layer") else 0

    @model_validator(mode="after")
    def _reference(self) -> TlpoSettings:
        if self.draws.per_group is not None and self.loss.kind == "simpo":
            raise ValueError("draws.per_group: simpo has no reference whose errors could be kept")
        if self.draws.per_group is not None and self.loss.reference == "last_round":
            raise ValueError("draws.per_group keeps the base as the reference; leave loss.reference at base")
        return self


class ComputeSettings(Settings):
    """How a training is computed; nothing here changes what is learnt, up to float32 rounding."""

    checkpoint_every: int = Field(10, ge=1)  # steps
    checkpointing: bool = False  # keep the blocks' inputs only, and run the blocks again in the backward
    microbatch: int | None = Field(None, ge=1)  # pairs that a worker holds at once; None its whole share
    # DeepSpeed's ZeRO: 0 averages gradients as DDP does, 2 divides gradients and moments, 3 the base too. The
    # gate is tiny and never divided.
    zero_stage: Literal[0, 2, 3] = 0
    offload: bool = False  # moments are kept, and the experts updated, in the CPU's memory

    @model_validator(mode="after")
    def _offload(self) -> ComputeSettings:
        if self.offload and self.zero_stage == 0:
            raise ValueError("offload needs zero_stage 2 or 3: DeepSpeed keeps the moments then")
        return self


def check_compute(tlpo: TlpoSettings, compute: ComputeSettings, workers: int) -> None:
    """Refuse what cannot be computed in this way.

    Raises:
        ConfigurationError: for a combination that does not work.
    """
    if tlpo.batch % workers:
        raise ConfigurationError(
            f"tlpo.batch {tlpo.batch} must be a multiple of resources.pools.training.count {workers}"
        )
    if compute.zero_stage and tlpo.loss.safeguard_mu is not None:
        raise ConfigurationError(
            "tlpo.loss.safeguard_mu compares raw gradients, which no worker holds with ZeRO; set "
            "resources.compute.zero_stage=0 or tlpo.loss.safeguard_mu=null"
        )
    if compute.zero_stage == 3 and tlpo.draws.per_group is not None:
        raise ConfigurationError(
            "tlpo.draws.per_group: with resources.compute.zero_stage=3 all workers must run the transformer "
            "together, but each meets a new draw at another step; take stage 0 or 2, or set it to null"
        )
