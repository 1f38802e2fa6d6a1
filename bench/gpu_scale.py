"""One run at the shapes of Wan-14B and the 7 B critic on a card, beside what `ft2ray plan` forecasts.

    python bench/gpu_scale.py recipes/wan-14b.yaml [a.b=c ...] [--repetitions 5] [--json FILE]

Weights are random and inputs are zeros: neither changes time or memory. A call of the transformer for all
guidance passes, the critic on one clip and a DPO step of one expert with and without checkpointing are timed;
the achieved rate is given as a share of what a large bf16 matrix product reaches on the same card in the same
run. Peaks are those of CUDA's allocator above the weights. `--device cpu` runs the embedded sizes on a
processor, where no memory is measured: it shows that the script works.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ft2ray.config import AlignConfig, load_config
from ft2ray.planning.critic_cost import critic_shape, read_and_answer, scoring_cost, tower_inputs
from ft2ray.planning.generation import expert_step_cost, experts_on, forward_cost, inputs, training_step
from ft2ray.planning.plan import guidance_passes, pairs_at_once
from ft2ray.planning.shapes import generator_shape
from ft2ray.planning.trace import Cost

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Line:
    """Seconds of every repetition; FLOPs and bytes as forecast; bytes as measured, None on a processor."""

    name: str
    seconds: list[float]
    flops: float
    forecast_bytes: float
    peak_bytes: float | None

    def text(self, rate: float) -> str:
        median = statistics.median(self.seconds)
        achieved = self.flops / median
        peak = "not measured" if self.peak_bytes is None else f"{self.peak_bytes / GB:.2f} GB"
        return (
            f"| {self.name} | {median:.3g} ({min(self.seconds):.3g} to {max(self.seconds):.3g}) s "
            f"| {achieved / TERA:.3g} | {achieved / rate:.0%} | {peak} | {self.forecast_bytes / GB:.2f} GB |"
        )


def measured(
    name: str, call: Callable[[], object], cost: Cost, device: torch.device, repetitions: int
) -> Line:
    """Time `call` after one run that is not counted; memory is what it takes above what was there."""
    cuda, seconds, peak = device.type == "cuda", [], None
    for repetition in range(repetitions + 1):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        result = call()
        if cuda:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
        if repetition:
            seconds.append(time.perf_counter() - start)
        del result
    return Line(name, seconds, cost.flops, cost.peak_bytes, peak)


def matrix_rate(device: torch.device, dtype: torch.dtype, repetitions: int) -> float:
    """FLOP/s of one large square matrix product: the most of several runs."""
    side = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    line = measured("matrix product", lambda: a @ b, Cost(2.0 * side**3, 0.0), device, 4 * repetitions)
    return line.flops / min(line.seconds)


@contextmanager
def on_device(model: nn.Module, donor: nn.Module, device: torch.device) -> Iterator[Any]:
    """`model`, built without data, with random weights; buffers, which are computed, are those of `donor`."""
    model.to_empty(device=device)
    buffers = dict(donor.named_buffers())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 0.02)
        else:
            parameter.data.fill_(float(name.endswith("weight")))
    yield model
    model.to("meta")
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def generator_lines(config: AlignConfig, device: torch.device, repetitions: int) -> Iterator[Line]:
    shape = generator_shape(config)
    window, _ = shape.one_window()
    passes, pairs = (
        max(guidance_passes(config, shape)),
        pairs_at_once(config, config.resources.pools.training.count),
    )
    expert = config.tlpo.experts
    donor = shape.backbone(**{**shape.architecture, "num_layers": 1})
    with on_device(shape.transformer(), donor, device) as model:
        arguments = inputs(window, passes, device)
        with torch.no_grad():
            forward, cost = lambda: model(**arguments), forward_cost(window, passes)
            yield measured(f"sampling step, {passes} passes", forward, cost, device, repetitions)
        experts = experts_on(model, ("expert",), expert)
        for checkpointing, how in ((True, "with"), (False, "without")):
            cost = expert_step_cost(shape, expert, pairs, checkpointing)
            name = f"DPO step, {pairs} pair(s), {how} checkpointing"
            try:
                step = training_step(shape, model, experts, None, pairs, checkpointing)
                yield measured(name, step, cost, device, repetitions)
            except torch.cuda.OutOfMemoryError:
                print(
                    f"{name}: out of memory; {cost.peak_bytes / GB:.1f} GB were forecast beside the weights"
                )


def critic_line(config: AlignConfig, device: torch.device, repetitions: int) -> Line:
    seconds = generator_shape(config).seconds
    shape = critic_shape(
        config.critic.weights, seconds, config.critic.fps, config.critic.pixels, len(config.dimensions)
    )
    with on_device(shape.thinker(), shape.thinker(1, "cpu"), device) as thinker, torch.no_grad():
        pictures, sound = tower_inputs(shape, device)

        def score() -> object:
            return (
                thinker.model.visual(**pictures),
                thinker.model.audio_tower(**sound),
                read_and_answer(shape, thinker),
            )

        return measured("critic, one clip", score, scoring_cost(shape), device, repetitions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: this bench was not run (--device cpu tries it on the embedded sizes)")
    config = load_config(arguments.config, arguments.overrides)
    dtype = generator_shape(config).dtype
    rate = matrix_rate(device, dtype, arguments.repetitions)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "processor"
    print(
        f"{card}: {rate / TERA:.3g} TFLOP/s in a large {str(dtype).removeprefix('torch.')} matrix product\n"
    )
    print("| work | seconds (range) | TFLOP/s | of the matrix rate | peak | forecast |")
    print("|---|---|---|---|---|---|")
    lines = []
    for line in generator_lines(config, device, arguments.repetitions):
        lines.append(line)
        print(line.text(rate), flush=True)
    lines.append(critic_line(config, device, arguments.repetitions))
    print(lines[-1].text(rate))
    if arguments.json:
        found = {"card": card, "matrix_rate": rate, "lines": [asdict(line) for line in lines]}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
