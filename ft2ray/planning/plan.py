"""`ft2ray plan`: the memory that a configuration takes on a named card, and how much there is to compute.

    plan = make_plan(config, "H100", cards=8)
    print(plan.table())
    plan.check()                # UserError with the sum where a worker does not fit on its card

FLOPs and bytes come from running the configured modules without data (trace.py). How long a card takes is not
forecast: `bench/gpu_scale.py` measures it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ft2ray.config import AlignConfig
from ft2ray.errors import UserError
from ft2ray.generator.sampler import guidance_weights
from ft2ray.planning.critic_cost import CriticShape, critic_shape, scoring_cost
from ft2ray.planning.generation import (
    decode_cost,
    expert_parameters,
    expert_step_cost,
    forward_cost,
    gate_step_cost,
)
from ft2ray.planning.gpus import USABLE, memory_gb
from ft2ray.planning.shapes import GeneratorShape, generator_shape

GB, TERA = 1e9, 1e12
TRAINED_BYTES = 4  # of an adapter's parameter, which is float32 whatever the base is, and of its gradient
OPTIMIZER_BYTES = 8  # per trained parameter: AdamW's two moments


@dataclass(frozen=True)
class Worker:
    """Bytes of one worker by what they are for, in the order of the table."""

    name: str
    bytes: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.bytes.values())

    def sum_text(self) -> str:
        parts = " + ".join(f"{amount / GB:.3g} {what}" for what, amount in self.bytes.items())
        return f"{parts} = {self.total / GB:.3g} GB"


@dataclass(frozen=True)
class Work:
    """Something that a run does again and again: FLOPs of one, and how many."""

    name: str
    flops: float
    times: int


@dataclass(frozen=True)
class CostPlan:
    """Everything that the table says; see `make_plan`."""

    gpu: str
    cards: int
    facts: dict[str, str]
    workers: tuple[Worker, ...]
    works: tuple[Work, ...] = ()

    @property
    def usable_gb(self) -> float:
        return memory_gb(self.gpu) * USABLE

    def table(self) -> str:
        """The plan in plain text."""
        lines = [f"{self.cards} x {self.gpu} ({memory_gb(self.gpu):g} GB)", ""]
        width = max(map(len, self.facts))
        lines += [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        lines += ["", f"memory of one worker (a card offers {self.usable_gb:.1f} GB to tensors)"]
        for worker in self.workers:
            fits = "fits" if self.fits(worker) else "DOES NOT FIT"
            lines.append(f"  {worker.name}: {worker.sum_text()}, {fits}")
        lines += ["", f"{'work':<26}{'TFLOP':>12}{'times':>12}{'PFLOP':>12}"]
        lines += [
            f"  {work.name:<24}{work.flops / TERA:>12.4g}{work.times:>12}"
            f"{work.flops * work.times / TERA / 1e3:>12.4g}"
            for work in self.works
        ]
        return "\n".join(lines)

    def fits(self, worker: Worker) -> bool:
        return worker.total <= self.usable_gb * GB

    def check(self) -> None:
        """Raise UserError, with the sum, unless every worker fits on a card."""
        refused = [
            f"{worker.name} needs {worker.sum_text()}" for worker in self.workers if not self.fits(worker)
        ]
        if refused:
            raise UserError(
                f"plan: {'; '.join(refused)}; of the {memory_gb(self.gpu):g} GB of one {self.gpu} "
                f"{self.usable_gb:.1f} GB ({USABLE:.0%}) are for tensors. Take a larger --gpu, "
                "resources.compute.checkpointing=true, resources.compute.zero_stage=3, "
                "resources.compute.microbatch=1, or smaller clips"
            )


def make_plan(config: AlignConfig, gpu: str = "H100", cards: int = 8) -> CostPlan:
    """Cost of `config` on named cards.

    Args:
        config: of a run.
        gpu: a card of gpus.py.
        cards: in all, each a training worker.

    Raises:
        UserError: for what cannot be planned.
    """
    if cards < 1:
        raise UserError(f"plan: needs at least 1 card, got {cards}")
    memory_gb(gpu)  # refuses an unknown card before anything is traced
    t, compute = config.tlpo, config.resources.compute
    shape = generator_shape(config)
    critic = critic_shape(
        config.critic.weights, shape.seconds, config.critic.fps, config.critic.pixels, len(config.dimensions)
    )
    pairs = pairs_at_once(config, cards)
    experts = expert_parameters(shape, t.experts)
    passes = guidance_passes(config, shape)
    window, windows = shape.one_window()
    forward, decode = forward_cost(window, max(passes)), decode_cost(shape)
    calls = config.generator.sampling.steps * windows * sum(passes) / len(passes) / max(passes)
    scoring = scoring_cost(critic)
    step = expert_step_cost(shape, t.experts, pairs, compute.checkpointing)
    gate = gate_step_cost(shape, t.experts, config.dimension_names, pairs, compute.checkpointing)

    # Every round generates each prompt once more; the baseline trains as often as all experts together.
    clips = config.prompts.curation_prompts * config.curation.candidates * config.schedule.rounds
    updates = (2 if t.baseline else 1) * len(config.dimensions) * t.steps
    works = (
        Work("clip generated", forward.flops * calls + decode.flops, clips),
        Work("clip scored", scoring.flops, clips),
        Work("step of one expert", step.flops * t.batch / pairs, updates),
        Work("step of the gate", gate.flops * t.batch / pairs, t.gate_updates * config.schedule.rounds),
    )

    base, thinker = shape.transformer(), critic.thinker()
    encoders, text_encoder, vae = shape.encoders(), shape.text_encoder(), shape.vae() if shape.wan else None
    sampling = {
        "transformer": _bytes(base),
        "VAE and encoders": sum(_bytes(m) for m in (vae, *encoders.values()) if m is not None),
        "activations": max(forward.peak_bytes, decode.peak_bytes),
    }
    loading = {"transformer": _bytes(base), "text encoder": _bytes(text_encoder) if text_encoder else 0.0}
    workers = (
        Worker("generator", max(sampling, loading, key=lambda parts: sum(parts.values()))),
        Worker("critic", {"weights": _bytes(thinker), "cache and activations": scoring.peak_bytes}),
        training_worker(config, cards, base, experts, step.peak_bytes, gate.peak_bytes),
    )
    return CostPlan(gpu, cards, _facts(config, shape, critic, base, thinker, experts), workers, works)


def pairs_at_once(config: AlignConfig, workers: int) -> int:
    """Pairs that a training worker puts through the transformer together: of its share of a step."""
    share = config.tlpo.batch // workers or 1
    return min(config.resources.compute.microbatch or share, share)


def training_worker(
    config: AlignConfig,
    workers: int,
    base: nn.Module,
    experts: int,
    expert_peak: float,
    gate_peak: float,
) -> Worker:
    """Memory of one training worker. All experts and the baseline lie there, one of them learns at a time.

    ZeRO divides among the workers: at stage 2 gradients and moments, at 3 the base too, adapters never.
    """
    compute = config.resources.compute
    adapters = len(config.dimensions) + config.tlpo.baseline
    copies = (config.tlpo.ema is not None) + (config.tlpo.loss.reference == "last_round")
    shared = 1 / workers
    divided = shared if compute.zero_stage else 1.0
    master = TRAINED_BYTES if compute.zero_stage else 0  # DeepSpeed updates a copy of its own
    gradients = experts * TRAINED_BYTES
    weights = _bytes(base)
    if compute.zero_stage == 3:  # the block at work and the one being fetched are whole
        block = max(_bytes(module) for module in base.blocks)  # type: ignore[union-attr]
        weights = weights * shared + 2 * block
    training = {
        "base": weights,
        "adapters": adapters * experts * TRAINED_BYTES * (1 + copies),
        "gradients": gradients * divided,
        "optimiser": 0.0 if compute.offload else adapters * experts * (OPTIMIZER_BYTES + master) * divided,
        # The peak of a step has the gradients of its adapter in it.
        "activations": max(expert_peak - gradients, gate_peak),
    }
    loading = {"base before it is divided": _bytes(base)}
    return Worker("training", max(training, loading, key=lambda parts: sum(parts.values())))


def _facts(
    config: AlignConfig,
    shape: GeneratorShape,
    critic: CriticShape,
    base: nn.Module,
    thinker: nn.Module,
    experts: int,
) -> dict[str, str]:
    t, compute = config.tlpo, config.resources.compute
    f, h, w = shape.latent_CFHW[1:]
    frames, rows, columns = critic.grid
    return {
        "generator": f"{shape.name}, {_count(base.parameters())} parameters in {shape.dtype}".replace(
            "torch.", ""
        ),
        "clip": f"{shape.seconds:.2f} s, latent {f} x {h} x {w}, {shape.tokens:,} tokens",
        "sampling": f"{config.generator.sampling.steps} steps, guidance passes per step: "
        + ", ".join(map(str, sorted(set(guidance_passes(config, shape))))),
        "critic": f"{critic.name}, {_count(thinker.parameters())} parameters",
        "scored clip": f"{critic.prefix_tokens:,} tokens (sound, and {frames} x {rows} x {columns} patches), "
        f"{critic.questions} questions",
        "experts": f"{len(config.dimensions)}{' and the baseline' if t.baseline else ''}, "
        f"rank {t.experts.rank}: {experts / 1e6:,.1f} M each",
        "training": f"{t.batch} pairs a step, ZeRO {compute.zero_stage}, "
        f"{'with' if compute.checkpointing else 'without'} checkpointing",
    }


def guidance_passes(config: AlignConfig, shape: GeneratorShape) -> list[int]:
    """Passes of the guidance for each of the ways in which the candidates are sampled."""
    ways = config.curation.vary.ways(config.generator.sampling)
    return [len(guidance_weights(way, shape.wan)) for way in ways]


def _bytes(module: nn.Module) -> float:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _count(parameters: Iterable[nn.Parameter]) -> str:
    total = sum(parameter.numel() for parameter in parameters)
    return f"{total / 1e9:.2f} B" if total >= 1e8 else f"{total / 1e6:.2f} M"
