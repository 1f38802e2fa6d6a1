"""Curation and training at the same time against one after the other: how much of what could overlap does.

    python bench/overlap.py

Sampling and the training's forwards are sleeps here (bench/fakes.py): on two cores real work of both
could not overlap, whatever the program did. All else is the program's own: Ray Data, Serve, Train, the store.

    share = (one after the other - together) / (one after the other - the longer of the two stages)
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable

import torch
from curation_speed import FAKES, begun, planned
from figures import Figure, main, seconds

from ft2ray.pipeline.align import run_together, take_turns
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.run import Run

SETTINGS = [
    *FAKES,
    "prompts.seconds=1.0",
    "prompts.curation_prompts=16",
    "curation.candidates=2",
    "pairs.answers_differ=false",
    "pairs.margin=0.0",
    "tlpo.experts.rank=2",
    "tlpo.batch=2",
    "resources.pools.training.count=1",
    "tlpo.steps=30",
    "tlpo.gate.mode=uniform",
    "tlpo.gate_steps=0",
]


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    shares, gains, why = [], [], ""
    with ray_cluster():
        for _ in range(repetitions):
            apart, stages = timed(take_turns, max_staleness=0)
            together, _ = timed(run_together, max_staleness=1)
            shares.append((apart - together) / (apart - max(stages["curation"], stages["training"])))
            gains.append(apart / together)
            why = f"{stages} s one after the other, together {together:.1f} s"
    return [
        Figure("share of the overlap gained", "all of it", shares, "", ">= 0.85", 1.0, why),
        Figure("curation and training together", "one after the other", gains, "x faster"),
    ]


def timed(do: Callable[[Run], str], max_staleness: int) -> tuple[float, dict[str, float]]:
    """Seconds of a whole run in a new folder, and of its stages."""
    config = planned([*SETTINGS, f"schedule.max_staleness={max_staleness}"])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        run = begun(config, folder)
        return seconds(lambda: do(run)), run.seconds


if __name__ == "__main__":
    main("together", measure)
