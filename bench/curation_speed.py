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
from figures import Figure, main, profiled, ratios
from stand_ins import SleepingGenerator

from ft2ray.config import AlignConfig, load_config
from ft2ray.loaders import critic_card, generator_fingerprint, load_critic
from ft2ray.observe.timeline import Span, read_spans
from ft2ray.pipeline.align import critic_running
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.pipeline.curation import GenerateGroup, curate, group_store
from ft2ray.records import Prompt
from ft2ray.rounds.prompts import plan_prompts
from ft2ray.rounds.schedule import Slot, slots, training_key
from ft2ray.rounds.settings import PromptSettings
from ft2ray.run import write_fingerprints

STAND_INS = ["generator.weights=stand_ins:SleepingGenerator", "critic.weights=stand_ins:BriefCritic"]
SLEEPING = [*STAND_INS, "prompts.seconds=1.0", "prompts.curation_prompts=12", "curation.candidates=2"]
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
    config, key, work = planned(SLEEPING)
    shares, where = [], ""
    with ray_cluster(), critic_running(config, work):
        for _ in range(repetitions):
            spans, _ = curated(config, key, work)
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
    config, key, work = planned(REAL)
    pipeline, bare = [], []
    with ray_cluster(), critic_running(config, work):
        for _ in range(repetitions):
            spans, ended = curated(config, key, work)
            pipeline.append(ended - min(span.began for span in spans))
            bare.append(plain_loop(config, key, work))
        why = profiled(lambda: plain_loop(config, key, work[:1]))
    candidates = len(work) * config.curation.candidates
    return Figure(
        f"{candidates} candidates through the pipeline",
        "a plain loop, one process",
        ratios(pipeline, bare),
        "x its time",
        "<= 1.15",
        None,
        why,
    )


def curated(config: AlignConfig, key: str, work: list[Slot]) -> tuple[list[Span], float]:
    """Fill all slots in a new folder: the groups' spans, and when the last one was committed."""
    with tempfile.TemporaryDirectory() as folder:
        here = config.replaced(run_dir=folder)
        write_fingerprints(folder, *made_by(config))
        for _ in curate(here, key, work):
            pass
        ended = time.time()
        found = len(list(group_store(folder).shards()))
        assert found == len(work), f"{found} groups of {len(work)}"
        return read_spans(folder), ended


def plain_loop(config: AlignConfig, key: str, work: list[Slot]) -> float:
    """The same groups, scored and committed, without Ray; seconds without loading the models."""
    with tempfile.TemporaryDirectory() as folder:
        here = config.replaced(run_dir=folder)
        generate, critic, store = GenerateGroup(here, key), load_critic("embedded"), group_store(folder)
        start = time.perf_counter()
        for slot in work:
            made = generate(asdict(slot))
            p_NK = critic.score(made["views"])
            for candidate, p_K in zip(made["group"].candidates, p_NK, strict=True):
                candidate.scores = p_K.tolist()
            store.commit_once([made["group"].to_row()])
        return time.perf_counter() - start


def planned(settings: list[str]) -> tuple[AlignConfig, str, list[Slot]]:
    config = load_config(None, [*settings, "prompts.evaluation_prompts=1"])
    prompts = curation_prompts(config.prompts)
    parts = made_by(config)
    return config, training_key(config, *parts, prompts), slots(config, *parts, prompts)


def made_by(config: AlignConfig) -> tuple[str, str]:
    """Fingerprints of generator and critic."""
    critic = critic_card(config.critic.weights).fingerprint
    return generator_fingerprint(config.generator.weights), critic


@cache
def curation_prompts(config: PromptSettings) -> list[Prompt]:
    return plan_prompts(config, 256).curation


if __name__ == "__main__":
    main("curation", measure)
