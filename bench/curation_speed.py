"""The curation pipeline: are its generators busy, and what does it cost beside the bare work?

  python bench/curation_speed.py

utilisation   two generators whose sampling is a sleep: the share of the steady state in which they sample.
              The steady state begins when the last generator starts and ends when the first one is done.
overhead      one packaged generator and the packaged critic: the pipeline against the same calls in a plain
              loop of one process, from the first group's start to the last commit. The pipeline scores in
              another process, which may make it the faster one where there are cores to spare.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from functools import cache

import torch
from fakes import SleepingGenerator
from figures import Figure, main, profiled, ratios

from ft2ray.config import AlignConfig, load_config
from ft2ray.loaders import critic_card, generator_fingerprint, load_critic
from ft2ray.observe.timeline import Span, read_spans
from ft2ray.pipeline.align import critic_running
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.pipeline.curation import GenerateGroup, curate
from ft2ray.rounds.plan import Plan
from ft2ray.rounds.prompts import plan_prompts
from ft2ray.rounds.settings import PromptSettings
from ft2ray.run import Run

FAKES = ["generator.weights=fakes:SleepingGenerator", "critic.weights=fakes:BriefCritic"]
SLEEPING = [*FAKES, "prompts.seconds=1.0", "prompts.curation_prompts=12", "curation.candidates=2"]
REAL = [
    "resources.pools.generators.count=1",
    "prompts.seconds=2.0",
    "prompts.curation_prompts=4",
    "curation.candidates=4",
]


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    return [utilisation(repetitions), overhead(repetitions)]


def utilisation(repetitions: int) -> Figure:
    config = planned(SLEEPING)
    shares, where = [], ""
    with ray_cluster(), critic_running(config, [None]):
        for _ in range(repetitions):
            spans, _ = curated(config)
            shares.append(busy_share(spans, config.curation.candidates * SleepingGenerator.sample_seconds))
            length = sum(span.ended - span.began for span in spans) / len(spans)
            sampling = config.curation.candidates * SleepingGenerator.sample_seconds
            where = f"a group takes {length:.2f} s, {sampling:.2f} s of them sampling"
    return Figure(
        f"generators at work, {SleepingGenerator.sample_seconds:g} s a clip",
        "always",
        shares,
        "",
        ">= 0.90",
        1.0,
        where,
    )


def busy_share(spans: list[Span], work_seconds: float) -> float:
    """Share of the steady state in which the generators did the `work_seconds` of their groups."""
    lanes: dict[str, list[Span]] = {}
    for span in spans:
        lanes.setdefault(span.lane, []).append(span)
    began = max(min(span.began for span in lane) for lane in lanes.values())
    ended = min(max(span.ended for span in lane) for lane in lanes.values())
    inside = sum(
        max(0.0, min(span.ended, ended) - max(span.began, began)) / (span.ended - span.began)
        for span in spans
    )
    return inside * work_seconds / (len(lanes) * (ended - began))


def overhead(repetitions: int) -> Figure:
    config = planned(REAL)
    pipeline, bare = [], []
    with ray_cluster(), critic_running(config, [None]):
        for _ in range(repetitions):
            spans, ended = curated(config)
            pipeline.append(ended - min(span.began for span in spans))
            bare.append(plain_loop(config))
        why = profiled(lambda: plain_loop(config, 1))
    candidates = config.prompts.curation_prompts * config.curation.candidates
    return Figure(
        f"{candidates} candidates through the pipeline",
        "a plain loop, one process",
        ratios(pipeline, bare),
        "x its time",
        "<= 1.15",
        None,
        why,
    )


def curated(config: AlignConfig) -> tuple[list[Span], float]:
    """Curate all groups in a new folder: their spans, and when the last one was committed."""
    with tempfile.TemporaryDirectory() as folder:
        run = begun(config, folder)
        for _ in curate(run, run.specs):
            pass
        ended = time.time()
        found = len(list(run.groups.shards()))
        assert found == len(run.specs), f"{found} groups of {len(run.specs)}"
        return read_spans(run.spans), ended


def plain_loop(config: AlignConfig, groups: int | None = None) -> float:
    """The same groups, scored and committed, without Ray; seconds without loading the models."""
    with tempfile.TemporaryDirectory() as folder:
        run = begun(config, folder)
        generate, critic, store = GenerateGroup(run), load_critic("embedded"), run.groups
        start = time.perf_counter()
        for spec in run.specs[:groups]:
            made = generate(asdict(spec))
            p_NK = critic.score(made["views"])
            for candidate, p_K in zip(made["group"].candidates, p_NK, strict=True):
                candidate.scores = p_K.tolist()
            store.commit_once([made["group"].to_row()])
        return time.perf_counter() - start


def planned(settings: list[str]) -> AlignConfig:
    return load_config(None, [*settings, "prompts.evaluation_prompts=1"])


def begun(config: AlignConfig, folder: str) -> Run:
    """A run in this folder that has groups to make."""
    run = Run(config.replaced(run_dir=folder))
    run.begin(plan(config.prompts))
    weights = (config.generator.weights, config.critic.weights)
    run.identify(
        generator_fingerprint(weights[0], True), critic_card(weights[1], allow_code=True).fingerprint
    )
    return run


@cache
def plan(config: PromptSettings) -> Plan:
    return plan_prompts(config, 256)


if __name__ == "__main__":
    main("curation", measure)
