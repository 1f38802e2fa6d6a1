"""On a head without a worker: what cannot work is said before Ray is asked for one, in one sentence.

What only the workers can tell ends the run all the same.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ft2ray.observe.deaths import read_deaths, summary
from ft2ray.pipeline.curation import SCORER
from ft2ray.pipeline.deaths import POOLS
from ft2ray.pipeline.memory import PROCESS
from tests.pipeline.test_faults import SETTINGS
from tests.ray_head import RAY, RayHead
from tests.runs import changed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
WAIT = 600.0  # seconds, on a machine that is busy with other things
MAY_ADD = "resources.may_add=[1 x CPU=4 memory=4]"


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    node = {"resources": {"CPU": 4, "memory": 4_000_000_000}, "max_workers": 1}
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with RayHead(["--num-cpus=0"], environment, node_types={"worker": node}) as head:
        yield head


def ended(head: RayHead, run_dir: Path, *settings: str) -> tuple[int, str, set[str]]:
    """Exit code and last line of a run, and the workers that came meanwhile."""
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={run_dir}"]
    process = head.start(
        *command, f"resources.address={head.address}", MAY_ADD, *changed(SETTINGS, *settings)
    )
    workers: set[str] = set()
    deadline = time.monotonic() + WAIT
    while process.poll() is None:
        workers |= head.nodes().keys()
        assert time.monotonic() < deadline
        time.sleep(0.5)
    output, _ = process.communicate()
    assert "Traceback" not in output, output[-3000:]
    return process.returncode, output.splitlines()[-1], workers


def listed(head: RayHead, kind: str) -> list[dict]:
    """What Ray lists of its own, and what is gone too."""
    told = head.run(RAY, "list", kind, "--detail", "--format=json", "--limit=1000").stdout
    return json.loads(told[told.index("[") :])


def memory(head: RayHead) -> dict[str, set[float]]:
    """GB that the processes of each pool have asked for; Ray Train asks for all its workers together."""
    actors, groups = listed(head, "actors"), listed(head, "placement-groups")
    asked = {
        part: {a["required_resources"].get("memory", 0) / 1e9 for a in actors if part in a["class_name"]}
        for part in POOLS
    }
    bundles = [bundle["unit_resources"] for group in groups for bundle in group["bundles"]]
    return asked | {"RayTrainWorker": {bundle.get("memory", 0) / 1e9 for bundle in bundles}}


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("tlpo.steps=twenty", "tlpo.steps"),
        ("generator.weights=/models/nope", "generator.weights: /models/nope holds no .safetensors file"),
        ("critic.weights=/models/nope", "critic.weights: /models/nope holds no .safetensors file"),
        ("prompts.speech=/nowhere", "/nowhere"),
        ("resources.pools.generators.memory=3", "generators 2 x 3 GB of memory = 6"),
    ],
    ids=["setting", "generator", "critic", "media", "memory"],
)
def test_a_mistake_is_said_without_a_worker(head, tmp_path, mistake, says):
    code, sentence, workers = ended(head, tmp_path / "run", mistake)
    assert code == 2 and sentence.startswith("ft2ray: ") and says in sentence
    assert workers == set()


def test_a_critic_that_dies_at_every_start_ends_the_run_which_says_what_to_change(head, tmp_path):
    run_dir = tmp_path / "run"
    critic = "critic.weights=tests.pipeline.faulty_models:DiesAtStart"
    code, sentence, workers = ended(head, run_dir, critic)
    assert code == 75 and len(workers) == 1
    assert "the critic died or was not ready at every start" in sentence
    assert "resources.pools.critic.memory" in sentence and "the same command goes on" in sentence
    kept = json.loads((run_dir / "ending.json").read_text())
    assert f"ft2ray: {kept['sentence']}" == sentence and kept["exit_code"] == 75
    assert sentence.count("the same command goes on") == 1
    (line,) = summary(read_deaths(run_dir))
    assert line.startswith("critic died 3 times") and "killed on" in line


def test_every_process_of_a_stage_declares_its_memory(head, tmp_path):
    command = [sys.executable, "-m", "tests.pipeline.stage_alone", "turns", f"run_dir={tmp_path}"]
    settings = [
        *SETTINGS,
        f"resources.address={head.address}",
        MAY_ADD,
        "resources.pools.training.memory=1.5",
    ]
    process = head.start(*command, *settings)
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output[-3000:]
    asked = memory(head)
    assert asked.pop("MeasurePrompt") == set(), "no evaluation is part of this stage"
    assert asked.pop("ScoreAndCommit") == {SCORER} and asked.pop("RayTrainWorker") == {1.5}
    assert set(map(frozenset, asked.values())) == {frozenset({PROCESS})}, asked
