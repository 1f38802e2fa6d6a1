"""`ft2ray plan`: what a configuration takes on a named card, and whether it can run there at all.

    plan = make_plan(config, "H100", cards=8)
    print(plan.table())
    plan.check()                # ValueError with the sum where a worker does not fit on its card

FLOPs and bytes come from running the configured modules without data (trace.py); seconds are FLOPs over the
card's bf16 rate times `achieved`, an assumption that only a run on the card can replace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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
from ft2ray.planning.gpus import USABLE, Gpu, gpu_named
from ft2ray.planning.shapes import GeneratorShape, generator_shape

GB, TERA = 1e9, 1e12
TF32_RATE = 0.5  # of the bf16 rate: the VAE's convolutions run in float32
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
    """Something done again and again: FLOPs of one, seconds of one on one card."""

    name: str
    flops: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Everything that the table says; see `make_plan`."""

    gpu: Gpu
    cards: int
    achieved: float
    facts: dict[str, str]
    workers: tuple[Worker, ...]
    other_memory: dict[str, float] = field(default_factory=dict)
    works: tuple[Work, ...] = ()
    totals: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """The plan in plain text."""
        card = f"{self.gpu.memory_gb:g} GB, {self.gpu.tflops:g} TFLOP/s in bf16"
        lines = [f"{self.cards} x {self.gpu.name} ({card}), of whose rate {self.achieved:.0%} is assumed", ""]
        width = max(map(len, self.facts))
        lines += [f"{name:<{width}}  {value}" for name, value in self.facts.items()]
        lines += ["", f"memory of one worker (a card offers {self.gpu.usable_gb:.1f} GB to tensors)"]
        for worker in self.workers:
            fits = "fits" if self.fits(worker) else "DOES NOT FIT"
            lines.append(f"  {worker.name}: {worker.sum_text()}, {fits}")
        lines += [f"  ({name}: {amount / GB:.3g} GB)" for name, amount in self.other_memory.items()]
        lines += ["", f"{'work, on one card':<28}{'TFLOP':>10}{'time':>14}"]
        lines += [f"  {w.name:<26}{w.flops / TERA:>10.4g}{_duration(w.seconds):>14}" for w in self.works]
        lines += ["", f"the whole run, on {self.cards} cards"]
        lines += [f"  {name:<44}{_duration(seconds):>12}" for name, seconds in self.totals.items()]
        return "\n".join(lines)

    def fits(self, worker: Worker) -> bool:
        return worker.total <= self.gpu.usable_gb * GB

    def check(self) -> None:
        """Raise ValueError, with the sum, unless every worker fits on a card."""
        refused = [
            f"{worker.name} needs {worker.sum_text()}" for worker in self.workers if not self.fits(worker)
        ]
        if refused:
            raise UserError(
                f"plan: {'; '.join(refused)}; of the {self.gpu.memory_gb:g} GB of one {self.gpu.name} "
                f"{self.gpu.usable_gb:.1f} GB ({USABLE:.0%}) are for tensors. Take a larger --gpu, "
                "resources.compute.checkpointing=true, resources.compute.zero_stage=3, "
                "resources.compute.microbatch=1, or smaller clips"
            )


def make_plan(config: AlignConfig, gpu_name: str = "H100", cards: int = 8, achieved: float = 0.4) -> Plan:
    """Cost of `config` on named cards.

    Args:
        config: of a run.
        gpu_name: a card of gpus.py.
        cards: in all, each a training worker.
        achieved: share of the card's bf16 rate that is reached: an assumption.

    Raises:
        UserError: for what cannot be planned.
    """
    if cards < 1 or not 0 < achieved <= 1:
        raise UserError(f"plan: needs cards of at least 1 and a rate in (0, 1], got {cards} and {achieved}")
    t, compute = config.tlpo, config.resources.compute
    gpu, shape = gpu_named(gpu_name), generator_shape(config)
    critic = critic_shape(
        config.critic.weights, shape.seconds, config.critic.fps, config.critic.pixels, len(config.dimensions)
    )
    pairs = pairs_at_once(config, cards)
    experts = expert_parameters(shape, t.experts)

    def seconds(flops: float, rate: float = 1.0) -> float:
        return flops / (gpu.tflops * TERA * achieved * rate)

    passes = guidance_passes(config, shape)
    window, windows = shape.one_window()
    forward, decode = forward_cost(window, max(passes)), decode_cost(shape)
    calls = config.generator.sampling.steps * windows * sum(passes) / len(passes) / max(passes)
    scoring = scoring_cost(critic)
    step = {on: expert_step_cost(shape, t.experts, pairs, on) for on in (True, False)}
    gate = gate_step_cost(shape, t.experts, config.dimension_names, pairs, compute.checkpointing)

    clip = Work(
        "generate one clip",
        forward.flops * calls + decode.flops,
        seconds(forward.flops * calls) + seconds(decode.flops, TF32_RATE),
    )
    score = Work("score one clip", scoring.flops, seconds(scoring.flops))
    update, gate_update = (
        Work(name, cost.flops * t.batch / pairs, seconds(cost.flops * t.batch / pairs))
        for name, cost in (
            ("step of one expert", step[compute.checkpointing]),
            ("step of the gate", gate),
        )
    )
    # Every round generates each prompt once more; the baseline trains as often as all experts together.
    clips = config.prompts.curation_prompts * config.curation.candidates * config.schedule.rounds
    updates = (2 if t.baseline else 1) * len(config.dimensions) * t.steps
    gate_updates = t.gate_updates * config.schedule.rounds
    training = updates * update.seconds + gate_updates * gate_update.seconds
    on_one = {
        f"curation: {clips} clips generated": clips * clip.seconds,
        f"curation: {clips} clips scored": clips * score.seconds,
        f"training: {updates} expert and {gate_updates} gate steps": training,
    }
    totals = {name: value / cards for name, value in on_one.items()}

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
        training_worker(
            config, cards, shape, base, experts, step[compute.checkpointing].peak_bytes, gate.peak_bytes
        ),
    )
    other = "without" if compute.checkpointing else "with"
    return Plan(
        gpu=gpu,
        cards=cards,
        achieved=achieved,
        facts=_facts(config, shape, critic, base, thinker, experts),
        workers=workers,
        other_memory={
            f"training activations {other} checkpointing": step[not compute.checkpointing].peak_bytes
        },
        works=(clip, score, update, gate_update),
        totals=totals | {"together": sum(totals.values())},
    )


def pairs_at_once(config: AlignConfig, workers: int) -> int:
    """Pairs that a training worker puts through the transformer together: of its share of a step."""
    share = config.tlpo.batch // workers or 1
    return min(config.resources.compute.microbatch or share, share)


def training_worker(
    config: AlignConfig,
    workers: int,
    shape: GeneratorShape,
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


def _duration(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds * 1e3:.3g} ms"


def _bytes(module: nn.Module) -> float:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _count(parameters: Iterable[nn.Parameter]) -> str:
    total = sum(parameter.numel() for parameter in parameters)
    return f"{total / 1e9:.2f} B" if total >= 1e8 else f"{total / 1e6:.2f} M"
