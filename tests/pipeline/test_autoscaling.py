"""On Ray's simulated nodes: they come when groups or the training wait, go afterwards, and may be lost."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.fakes import latent
from ft2ray.run import read_groups
from ft2ray.tlpo.policy import load_policy
from tests.pipeline.stage_alone import begun, replayed
from tests.ray_head import RayHead

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
GROUPS, NODES = 9, 3
SETTINGS = [
    "resources.address=auto",
    f"resources.may_add=[{NODES} x CPU=3 memory=2 pool=generation, 1 x CPU=1 memory=1 pool=training]",
    f"resources.pools.generators.count={NODES}",
    "resources.pools.generators.cpus=2",  # the head has 1, a node 3: one generator on each node
    "resources.pools.generators.on=pool=generation",
    "resources.pools.training.on=pool=training",
    "generator.weights=tests.pipeline.faulty_models:SlowGenerator",
    "critic.weights=tests.pipeline.faulty_models:DiscerningCritic",
    "prompts.seconds=1.5",
    f"prompts.curation_prompts={GROUPS}",
    "prompts.evaluation_prompts=1",
    "curation.candidates=2",
    "pairs.margin=0.0",
    "schedule.max_staleness=1",
    "tlpo.experts.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=10",
    "tlpo.gate_steps=4",
    "resources.compute.checkpoint_every=1",
    "resources.pools.training.count=1",
]
NODE_TYPES = {
    "generation": {
        "resources": {"CPU": 3, "memory": 2_000_000_000},
        "labels": {"pool": "generation"},
        "max_workers": NODES,
    },
    "training": {
        "resources": {"CPU": 1, "memory": 1_000_000_000},
        "labels": {"pool": "training"},
        "max_workers": 1,
    },
}
# A dead node is noticed after six seconds, not after the usual 20, on a machine that may be busy.
SYSTEM = {
    "health_check_initial_delay_ms": 5000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 6,
}


def wait_until(reached: Callable[[], bool], seconds: float, *alive: subprocess.Popen) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert all(process.poll() is None for process in alive), "a process ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.2)


def nodes_with(head: RayHead, part: str) -> list[list[psutil.Process]]:
    """The processes of each node on which such an actor runs."""
    return [
        node for node in head.nodes().values() if any(part in " ".join(process.cmdline()) for process in node)
    ]


def lose(node: list[psutil.Process]) -> None:
    for process in node:
        process.kill()


def test_nodes_come_and_go_and_lost_ones_cost_nothing_but_time(tmp_path):
    def committed() -> list[Path]:
        return list((tmp_path / "store" / "groups").glob("*.parquet"))

    def checkpoints() -> list[Path]:
        return list((tmp_path / "train").glob("*/checkpoint_*"))

    head = RayHead(
        ["--num-cpus=1", f"--system-config={json.dumps(SYSTEM)}"],
        environment={"PYTHONPATH": str(ROOT)},
        node_types=NODE_TYPES,
        dashboard=False,
    )
    settings = [f"run_dir={tmp_path}", *SETTINGS]
    with head:
        assert head.nodes() == {}
        run = head.start(sys.executable, "-m", "tests.pipeline.stage_alone", "together", *settings)
        wait_until(lambda: len(nodes_with(head, "GenerateGroup")) >= 2, 900, run, head.process)
        wait_until(lambda: len(committed()) >= 1, 900, run, head.process)
        before = {path: path.stat().st_mtime_ns for path in committed()}
        lose(nodes_with(head, "GenerateGroup")[0])
        assert len(committed()) < GROUPS, "the generators' node was lost too late to test anything"

        wait_until(lambda: len(checkpoints()) >= 2, 900, run, head.process)
        (training,) = nodes_with(head, "RayTrainWorker")
        lose(training)
        assert not (tmp_path / "policies").exists(), "the trainer's node was lost too late to test anything"

        output, _ = run.communicate(timeout=900)
        assert run.returncode == 0, output[-3000:]
        wait_until(lambda: head.nodes() == {}, 300, head.process)

    groups = read_groups(str(tmp_path))
    planned = begun(settings)
    assert [group.group_id for group in groups] == sorted(spec.group_id for spec in planned.specs)
    assert len(committed()) == len(groups) == GROUPS, "a gap, or one twice"
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a committed group was made again"
    for group in groups:
        for candidate in group.candidates:
            assert candidate.scores is not None, candidate.error
            noise, scale = latent(candidate.seed, group.frames).numpy(), candidate.sampler["audio_scale"]
            assert np.array_equal(candidate.latents_CFHW, scale * noise)
    published = load_policy(planned.policy(1), "trainable")
    assert published.fingerprint == replayed(settings)[0]
