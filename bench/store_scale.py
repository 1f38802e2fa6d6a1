"""What a store of many groups costs: committing, resuming, status, pair counts, loading all into a training.

    python bench/store_scale.py [--groups 1000 10000 100000] [--on local s3] [--folder FOLDER]

Four writers commit small groups, each durable on its own, as a curation's actors do; then every way to read
them runs in a process of its own, whose seconds and resident memory are shown. Targets: 100 commits a second;
each reading of 100,000 groups in 15 s and 600 MB.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from figures import in_own_process, memory

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.s3_server import S3Server

WRITERS = 4
CANDIDATES, SHAPE = 4, (4, 16, 1, 1)
DIMENSIONS = ("mn", "ls", "vq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--on", nargs="+", choices=["local", "s3"], default=["local", "s3"])
    parser.add_argument("--folder", type=Path, help="where the stores are made; a temporary one by default")
    arguments = parser.parse_args()
    print("| store | groups | commits/s | " + " | ".join(f"{name}, s (MB)" for name in READINGS) + " |")
    print("|---" * (3 + len(READINGS)) + "|")
    for place in arguments.on:
        with (
            tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
            S3Server(Path(folder)) if place == "s3" else nullcontext() as server,
        ):
            if server is not None:
                os.environ |= server.environment
            done = 0
            for groups in sorted(arguments.groups):
                root = f"{server.url}/run" if server is not None else f"{folder}/run"
                planned(root, groups)
                rate = commit(root, done, groups)
                done = groups
                figures = [in_own_process(measured, name, root) for name in READINGS]
                cells = " | ".join(f"{seconds:.1f} ({mb:.0f})" for seconds, mb in figures)
                print(f"| {place} | {groups} | {rate:.0f} | {cells} |", flush=True)


def commit(root: str, first: int, end: int) -> float:
    """Commit groups first .. end - 1 by several writers; returns their rate."""
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(commit_some, [root] * WRITERS, range(WRITERS), [()] * WRITERS))  # they import
        took = list(pool.map(commit_some, [root] * WRITERS, range(WRITERS), [(first, end)] * WRITERS))
        return (end - first) / max(took)


def commit_some(root: str, writer: int, which: tuple[int, ...]) -> float:
    from ft2ray.records import Candidate, PromptGroup
    from ft2ray.run import group_store

    if not which:
        return 0.0
    rng, store, specs = np.random.default_rng(0), group_store(root), run_at(root).specs
    start = time.perf_counter()
    for n in range(*which)[writer::WRITERS]:
        candidates = [
            Candidate(
                candidate_id=f"{n}-{i}",
                policy="base",
                seed=i,
                sampler={},
                latents_CFHW=rng.standard_normal(SHAPE, np.float32),
                lip_mask=np.ones((1, 1, 1, 1), np.float32),
                scores=rng.random(len(DIMENSIONS)).tolist(),
            )
            for i in range(CANDIDATES)
        ]
        group = PromptGroup(
            group_id=specs[n].group_id,
            round=0,
            prompt_id=f"prompt {n}",
            portrait="portrait.jpg",
            portrait_id="portrait",
            speech="speech.flac",
            start_seconds=0.0,
            seconds=3.0,
            generator="generator",
            critic="critic",
            dimensions=DIMENSIONS,
            text_LD=None,
            audio_LD=rng.standard_normal((16, 8), np.float32),
            frames=16,
            candidates=candidates,
        )
        assert store.commit_once([group.to_row()])
    return time.perf_counter() - start


def planned(root: str, groups: int) -> None:
    """A run folder of one round with so many prompts."""
    from ft2ray.config import load_config
    from ft2ray.records import Prompt
    from ft2ray.rounds.plan import Plan
    from ft2ray.run import Run

    prompts = [Prompt(f"{n:016x}", "portrait.jpg", "speech.flac", float(n), 3.0) for n in range(groups)]
    config = load_config(None, [f"run_dir={root}", f"curation.candidates={CANDIDATES}", "pairs.margin=0.0"])
    run = Run(config)
    run.begin(Plan(prompts, [], []))
    run.identify("generator", "critic")


def run_at(root: str) -> Any:
    from ft2ray.run import Run

    return Run.open(root)


def resume(root: str) -> None:
    """Which groups are committed."""
    run = run_at(root)
    assert run.missing(run.specs) == []


def status(root: str) -> None:
    from ft2ray.observe.status import read_status

    found = read_status(root)
    assert found.unscored == 0 and found.rounds[0][0] == found.rounds[0][1]


def pair_counts(root: str) -> None:
    from ft2ray.rounds import scores

    run = run_at(root)
    assert scores.pair_counts(run.config, scores.scored_candidates(run))["mn"] == len(run.specs)


def load_groups(root: str) -> None:
    """As a train worker takes the groups in before its first step."""
    from ft2ray.rounds.group_loader import GroupLoader
    from ft2ray.rounds.scores import pairs_by_group

    run = run_at(root)
    taken = Taken(run.config.dimension_names)
    GroupLoader(run, lambda ids: pairs_by_group(run, ids))(taken)
    assert len(taken.pools["mn"]) == len(run.specs)


class Taken:
    """What a loader sees of a TlpoRun: it keeps the pairs as that does."""

    def __init__(self, dimensions: tuple[str, ...]):
        from ft2ray.preference.draws import PairPool

        self.step, self.dimensions, self.groups = 0, dimensions, {}
        self.pools = {name: PairPool() for name in (*dimensions, "sum", "full")}

    @property
    def untrained(self) -> list[str]:
        return [name for name, pool in self.pools.items() if not len(pool)]

    def add(self, group: Any, pairs: dict[str, Any]) -> None:
        self.groups[group.group_id] = group
        for name, found in pairs.items():
            self.pools[name].add(group.group_id, found)


def measured(name: str, root: str) -> tuple[float, float]:
    """Seconds of one way to read, imports apart, and the most MB of its process, imports included."""
    module, call = READINGS[name]
    importlib.import_module(module)
    start = time.perf_counter()
    call(root)
    return time.perf_counter() - start, memory("VmHWM") / 1e6


READINGS = {
    "resume": ("ft2ray.run", resume),
    "status": ("ft2ray.observe.status", status),
    "pair counts": ("ft2ray.rounds.scores", pair_counts),
    "groups into training": ("ft2ray.rounds.group_loader", load_groups),
}

if __name__ == "__main__":
    main()
