"""On Ray's simulated nodes: they come when groups wait, go when they are done, and one may be lost."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ft2ray.pipeline.curation import read_groups
from tests.pipeline.stand_ins import latent
from tests.ray_head import RayHead

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
GROUPS, NODES = 9, 3
POOL = {"pool": "generation"}
SETTINGS = [
    "cluster.address=auto",
    f"cluster.generators={NODES}",
    "cluster.generator_cpus=2",  # the head has 1, a node 3: one generator on each node
    "cluster.generators_on=pool=generation",
    "generator.weights=tests.pipeline.stand_ins:NoddingGenerator",
    "critic.weights=tests.pipeline.stand_ins:IndifferentCritic",
    "prompts.seconds=1.5",
    f"prompts.curation={GROUPS}",
    "prompts.evaluation=1",
    "curation.candidates=2",
]
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


def generates(processes: list) -> bool:
    return any("GenerateGroup" in " ".join(process.cmdline()) for process in processes)


def test_nodes_come_and_go_and_a_lost_one_costs_nothing_but_time(tmp_path):
    shards = tmp_path / "store" / "groups"

    def committed() -> list[Path]:
        return list(shards.glob("*.parquet"))

    head = RayHead(
        ["--num-cpus=1", f"--system-config={json.dumps(SYSTEM)}"],
        environment={"PYTHONPATH": str(ROOT)},
        node_types={"generation": {"resources": {"CPU": 3}, "labels": POOL, "max_workers": NODES}},
        dashboard=False,
    )
    with head:
        assert head.nodes() == {}
        command = [sys.executable, "-m", "tests.pipeline.curate_alone", f"run_dir={tmp_path}", *SETTINGS]
        curation = head.start(*command)
        wait_until(lambda: len(head.nodes()) >= 2, 900, curation, head.process)
        wait_until(lambda: len(committed()) >= 1, 900, curation, head.process)
        before = {path: path.stat().st_mtime_ns for path in committed()}

        processes = next(processes for processes in head.nodes().values() if generates(processes))
        for process in processes:
            process.kill()
        assert len(committed()) < GROUPS, "the node was lost too late to test anything"

        output, _ = curation.communicate(timeout=900)
        assert curation.returncode == 0, output[-3000:]
        wait_until(lambda: head.nodes() == {}, 300, head.process)

    wanted = json.loads(output.splitlines()[-1])
    groups = read_groups(str(tmp_path))
    assert [group.group_id for group in groups] == sorted(wanted), "a gap, or one twice"
    assert len(committed()) == len(groups) == GROUPS
    assert {path: path.stat().st_mtime_ns for path in before} == before, "a committed group was made again"
    for group in groups:
        for candidate in group.candidates:
            assert candidate.scores == [0.5, 0.5, 0.5], candidate.error
            assert np.array_equal(candidate.latents_CFHW, latent(candidate.seed, group.frames))
