"""Head, generation and training as three containers of the image, between which the network is cut.

Ray gives a node up after about half a minute without an answer: 20 s are less, 120 s are more. A node that
was given up ends its processes, and its container starts again, as a pod would.
"""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft2ray.run import read_groups
from tests.cluster.conftest import ROOT
from tests.cluster.test_containers import IMAGE, needs_image
from tests.waiting import wait_until

pytestmark = pytest.mark.containers

SETTINGS = [
    "resources.address=auto",
    "generator.weights=tests.pipeline.faulty_models:SlowGenerator",
    "critic.weights=tests.pipeline.faulty_models:DiscerningCritic",
    "prompts.seconds=1.5",
    "prompts.curation_prompts=8",
    "prompts.evaluation_prompts=1",
    "curation.candidates=2",
    "pairs.margin=0.0",
    "tlpo.experts.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=60",
    "tlpo.gate_steps=10",
    "resources.compute.checkpoint_every=1",
    "resources.pools.generators.count=1",
    "resources.pools.generators.on=pool=generation",
    "resources.pools.critic.on=pool=generation",
    "resources.pools.training.on=pool=training",
]
RUN_SECONDS = 900.0


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


class Containers:
    """A cluster of three containers with a disk that all of them see, /runs."""

    ADDRESSES = {"head": "10.213.77.10", "generation": "10.213.77.11", "training": "10.213.77.12"}

    def __init__(self, disk: Path) -> None:
        self.disk = disk
        self.name = f"ft2ray-test-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> "Containers":
        docker("network", "create", "--subnet=10.213.77.0/24", self.name)
        start = "ray start --block --object-store-memory=150000000"
        self._run("head", f"{start} --head --port=6379 --num-cpus=0")
        join = f"{start} --address={self.ADDRESSES['head']}:6379 --num-cpus=2"
        for node in ("generation", "training"):
            self._run(node, f"{join} --labels pool={node}")
        return self

    def _run(self, node: str, command: str) -> None:
        address = self.ADDRESSES[node]
        docker(
            "run", "--detach", f"--name={self.name}-{node}", f"--network={self.name}", f"--ip={address}",
            "--restart=always", "--memory=4g", "--shm-size=300m", f"--volume={ROOT}:/src:ro",
            f"--volume={self.disk}:/runs", "--workdir=/src", "--env=PYTHONPATH=/src",
            "--env=RAY_AUTH_MODE=disabled", IMAGE, "sh", "-c", f"{command} --node-ip-address={address}",
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        names = [f"{self.name}-{node}" for node in self.ADDRESSES]
        subprocess.run(["docker", "rm", "--force", "--volumes", *names], capture_output=True)
        subprocess.run(["docker", "network", "rm", self.name], capture_output=True)

    def execute(self, *command: str) -> subprocess.Popen:
        """A program on the head."""
        return subprocess.Popen(
            ["docker", "exec", f"{self.name}-head", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def nodes(self) -> int:
        """How many nodes Ray counts as alive."""
        count = "print(sum(node['Alive'] for node in ray.nodes()))"
        program = f"import ray; ray.init('auto', logging_level='ERROR'); {count}"
        output, _ = self.execute("python", "-c", program).communicate()
        last = output.split()[-1:]
        return int(last[0]) if last and last[0].isdecimal() else 0

    def cut(self, node: str, seconds: float) -> None:
        """Nothing reaches this node, or leaves it, for so long."""
        docker("network", "disconnect", self.name, f"{self.name}-{node}")
        time.sleep(seconds)
        docker("network", "connect", f"--ip={self.ADDRESSES[node]}", self.name, f"{self.name}-{node}")

    def turns(self, run: str) -> subprocess.Popen:
        """A run whose curation and training take turns."""
        return self.execute(
            "python", "-m", "tests.pipeline.stage_alone", "turns", f"run_dir=/runs/{run}", *SETTINGS
        )


@pytest.fixture(scope="module")
def containers(tmp_path_factory) -> Iterator[Containers]:
    needs_image()
    disk = tmp_path_factory.mktemp("runs")
    disk.chmod(0o777)  # for the image's own user
    with Containers(disk) as here:
        wait_until(lambda: here.nodes() == 3, 300, "three nodes")
        yield here


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0, output[-3000:]


def result(run: Path) -> tuple[list, str]:
    """Names and bytes of all groups, and the policy's fingerprint: what no fault may change."""
    groups = [(g.group_id, [c.latents_CFHW.tobytes() for c in g.candidates]) for g in read_groups(str(run))]
    current = (run / "policies" / "current").read_text()
    policy = json.loads((run / "policies" / current / "policy.json").read_text())
    return groups, policy["fingerprint"]


@pytest.fixture(scope="module")
def undisturbed(containers) -> tuple[list, str]:
    finish(containers.turns("undisturbed"))
    return result(containers.disk / "undisturbed")


def groups(run: Path) -> int:
    return len(list((run / "store" / "groups").glob("*.parquet")))


def step(run: Path) -> int:
    return max(
        (json.loads(file.read_text())["step"] for file in run.glob("train/*.progress.json")), default=0
    )


@pytest.mark.parametrize("seconds", [20.0, 120.0])
@pytest.mark.parametrize("node", ["generation", "training"])
def test_a_cut_network_costs_time_only(containers, undisturbed, node, seconds):
    wait_until(lambda: containers.nodes() == 3, 300, "three nodes")
    run = containers.disk / f"{node}-{seconds:g}"
    process = containers.turns(run.name)
    reached = {"generation": lambda: groups(run) >= 2, "training": lambda: step(run) >= 5}[node]
    wait_until(lambda: reached() or process.poll() is not None, RUN_SECONDS, "work on that node")
    assert process.poll() is None, process.communicate()[0][-3000:]
    containers.cut(node, seconds)
    assert not (run / "policies").exists(), "it was cut too late to test anything"
    finish(process)
    assert result(run) == undisturbed
