"""Whatever dies, hangs, fills up or stutters: a run ends with the same groups and bits, or says why not.

The driver that dies in turns is in test_align.py, the node that is lost in test_autoscaling.py.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ft2ray.observe.metrics import METRICS
from ft2ray.observe.status import read_status
from ft2ray.run import read_groups
from ft2ray.storage import join, list_files, read_bytes
from tests.pipeline.faulty_models import FOLDER
from tests.pipeline.stage_alone import replayed
from tests.pipeline.whole_run import joined
from tests.ray_head import RayHead
from tests.runs import changed
from tests.s3_server import HOST, Line, free_ports

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
GROUPS = 6
WAIT = 1500.0  # seconds, on a machine that is busy with other things
SETTINGS = [
    "generator.weights=tests.pipeline.faulty_models:TrainableGenerator",
    "critic.weights=tests.pipeline.faulty_models:DiscerningCritic",
    "prompts.seconds=1.5",
    f"prompts.curation_prompts={GROUPS}",
    "prompts.evaluation_prompts=1",
    "curation.candidates=2",
    "pairs.margin=0.0",
    "tlpo.experts.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=10",
    "tlpo.gate_steps=4",
    "resources.compute.checkpoint_every=1",
]
JOIN = "resources.address=auto"
GENERATOR, CRITIC, TRAINER = "GenerateGroup", "ServeReplica:curation-critic", "RayTrainWorker"


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder that the test and all parts of its runs know."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def head(shared, metrics_port) -> Iterator[RayHead]:
    environment = {"PYTHONPATH": str(ROOT), FOLDER: str(shared), "OMP_NUM_THREADS": "1"}
    options = [
        f"--metrics-export-port={metrics_port}",
        '--system-config={"metrics_report_interval_ms": 1000}',
    ]
    with RayHead(["--num-cpus=6", *options], environment=environment, dashboard=False) as head:
        yield head


@pytest.fixture(scope="module")
def undisturbed(head, tmp_path_factory) -> Path:
    """A run folder whose groups were curated, and trained on, without any fault."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    finish(stage(head, "turns", run_dir))
    return run_dir


def curation(head: RayHead, run_dir: Path, *more: str) -> subprocess.Popen:
    return stage(head, "curate", run_dir, *more)


def training(head: RayHead, run_dir: Path, *more: str) -> subprocess.Popen:
    return stage(head, "train", run_dir, *more)


def stage(head: RayHead, name: str, run_dir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.pipeline.stage_alone", name, f"run_dir={run_dir}"]
    return head.start(*command, JOIN, *changed(SETTINGS, *more))


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output[-3000:]
    return output


def kill_one(process: subprocess.Popen, found: Callable[[], list[psutil.Process]], when: Callable[[], bool]):
    """SIGKILL one of the processes that `found` gives, as soon as `when` holds."""
    wait_until(process, when)
    victim, *_ = found()
    victim.kill()


def wait_until(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not reached():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running(head: RayHead, part: str) -> list[psutil.Process]:
    found = []
    for process in head.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if part in " ".join(process.cmdline()):
                found.append(process)
    return found


def shards(run_dir: str | Path) -> list[Path]:
    return list(Path(run_dir, "store", "groups").glob("*.parquet"))


def checkpoints(run_dir: Path) -> list[Path]:
    return list((run_dir / "train").glob("*/checkpoint_*"))


def groups(run_dir: str | Path, rounds: int = 1) -> list:
    """Everything about the groups of the base that must not depend on what happened to whom."""
    found = list_files(f"{run_dir}/store/groups", ".parquet")
    assert len(found) == rounds * GROUPS, "a gap, or a group twice"
    return [
        (g.group_id, [(c.candidate_id, c.scores, c.latents_CFHW.tobytes()) for c in g.candidates])
        for g in read_groups(str(run_dir))
        if g.round == 0
    ]


def learnt(run_dir: str | Path, version: int = 1) -> tuple[str, list]:
    """Fingerprint of the policy that was published, and all curves."""
    folder = join(run_dir, "policies")
    (policy,) = list_files(folder, f"-{version}/policy.json", recursive=True)
    (curves,) = list_files(folder, f"-{version}.curves.json")
    fingerprint = json.loads(read_bytes(join(folder, policy)))["fingerprint"]
    return fingerprint, json.loads(read_bytes(join(folder, curves)))["curves"]


def copied(run_dir: Path, into: Path) -> Path:
    """Another run folder with the same groups."""
    shutil.copytree(run_dir / "store", into / "store")
    return into


@pytest.mark.parametrize("part", [GENERATOR, CRITIC])
def test_an_actor_that_is_killed_during_curation_costs_nothing_but_time(head, undisturbed, tmp_path, part):
    process = curation(head, tmp_path)
    kill_one(process, lambda: running(head, part), lambda: len(shards(tmp_path)) >= 1)
    assert len(shards(tmp_path)) < GROUPS, "it was killed too late to test anything"
    finish(process)
    assert groups(tmp_path) == groups(undisturbed)


def test_a_train_worker_that_is_killed_leaves_the_training_bitwise_equal(head, undisturbed, tmp_path):
    copied(undisturbed, tmp_path)
    process = training(head, tmp_path)
    kill_one(
        process,
        lambda: running(head, TRAINER),
        lambda: len(checkpoints(tmp_path)) >= 2,
    )
    assert not (tmp_path / "policies").exists(), "it was killed too late to test anything"
    finish(process)
    assert learnt(tmp_path) == learnt(undisturbed)


@contextlib.contextmanager
def exported(port: int) -> Iterator[set[str]]:
    """The names of all series that Prometheus could have read meanwhile."""
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.wait(0.5):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://{HOST}:{port}/metrics") as page,
            ):
                seen.update(re.findall(r"^ray_ft2ray_\w+", page.read().decode(), re.M))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def test_together_a_train_worker_a_generator_and_the_driver_that_are_killed_cost_nothing_but_time(
    head, metrics_port, undisturbed, tmp_path
):
    together = ["schedule.rounds=3", "schedule.max_staleness=1", "resources.pools.training.count=1"]
    run_dir, specs = str(tmp_path), 3 * GROUPS
    process = stage(head, "together", tmp_path, *together)
    with exported(metrics_port) as seen:
        kill_one(process, lambda: running(head, TRAINER), lambda: len(checkpoints(tmp_path)) >= 2)
        assert len(shards(tmp_path)) <= 2 * GROUPS and read_status(run_dir).policies == 0, "it was too late"
        kill_one(process, lambda: running(head, GENERATOR), lambda: len(shards(tmp_path)) > 2 * GROUPS)
        kill_one(
            process, lambda: [psutil.Process(process.pid)], lambda: len(shards(tmp_path)) > 2 * GROUPS + 1
        )
        process.wait()
        status = read_status(run_dir)
        assert len(shards(tmp_path)) < specs and not status.finished, "the driver was killed too late"
        assert status.rounds[:2] == [(GROUPS, GROUPS)] * 2 and status.step >= 2 and status.policies >= 1
        finish(stage(head, "together", tmp_path, *together))

    assert groups(tmp_path, rounds=3) == groups(undisturbed)
    status = read_status(run_dir)
    assert status.rounds == [(GROUPS, GROUPS)] * 3 and set(status.staleness) <= {0, 1}
    assert status.step == status.last_step and status.policies == 3 and status.overlap_seconds > 0
    late = {c.policy for g in read_groups(run_dir) if g.round == 2 for c in g.candidates}
    assert late <= {learnt(tmp_path, version)[0] for version in (1, 2)}, "a policy was not picked up"
    lists = joined(tmp_path)
    assert sorted(sum(lists, [])) == sorted(g.group_id for g in read_groups(run_dir)) and len(lists) > 1
    assert learnt(tmp_path, 3) == replayed([f"run_dir={tmp_path}", *changed(SETTINGS, *together)])

    rare = {"ft2ray_refused_total", "ft2ray_candidates_unscored_total", "ft2ray_serving_deaths_total"}
    rare |= {"ft2ray_deaths_total"}  # Ray tells of them where its dashboard runs
    kinds = {"Histogram": "_bucket"}
    assert seen >= {f"ray_{name}{kinds.get(kind, '')}" for name, (kind, *_) in METRICS.items()} - {
        f"ray_{name}" for name in rare
    }


def test_a_critic_that_hangs_once_is_replaced_and_scores_everything(head, shared, undisturbed, tmp_path):
    critic = "critic.weights=tests.pipeline.faulty_models:HangsOnce"
    finish(curation(head, tmp_path, critic, "critic.timeout_seconds=10", "critic.retries=3"))
    assert (shared / "hung").exists()
    assert groups(tmp_path) == groups(undisturbed)


@pytest.mark.parametrize("schedule", ["schedule.max_staleness=0", "schedule.max_staleness=1"])
def test_a_critic_that_always_hangs_ends_the_run_and_leaves_no_nulls_behind(head, tmp_path, schedule):
    critic = "critic.weights=tests.pipeline.faulty_models:AlwaysHangs"
    limits = ("critic.timeout_seconds=4", "critic.retries=0", "prompts.curation_prompts=1")
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={tmp_path}"]
    process = head.start(*command, JOIN, *changed(SETTINGS, critic, *limits, schedule))
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1, output[-3000:]
    assert "ft2ray: the critic failed on 2 of 2 clips of a group" in output, output[-3000:]
    assert "the same command goes on" in output and "Traceback" not in output, output[-3000:]
    assert not shards(tmp_path) and not (tmp_path / "policies").exists()


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of its own that `remount` makes larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    answer = subprocess.run(mount, capture_output=True, text=True) if shutil.which("mount") else None
    if answer is None or answer.returncode:
        pytest.skip(f"mounting a small disk is not permitted here: {answer and answer.stderr}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up_during_training_is_named_and_costs_no_bit(head, undisturbed, small_disk):
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    copied(undisturbed, small_disk)
    process = training(head, small_disk)
    wait_until(process, lambda: len(checkpoints(small_disk)) >= 2)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(os.urandom(4096))
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1 and "Traceback" not in output, output[-3000:]
    assert "ft2ray: a disk is full" in output and str(small_disk) in output, output[-3000:]
    assert not (small_disk / "policies").exists(), "it was full too late to test anything"
    ballast.unlink()
    finish(training(head, small_disk))
    assert learnt(small_disk) == learnt(undisturbed)


def test_a_full_disk_is_named_and_a_larger_one_goes_on(head, undisturbed, small_disk):
    """Together: the training, which waits for groups, must hear that none will come."""
    (small_disk / "ballast").write_bytes(os.urandom(60_000))
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={small_disk}"]
    process = head.start(*command, *SETTINGS, JOIN, "schedule.max_staleness=1")
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1 and "Traceback" not in output, output[-3000:]
    assert "ft2ray: a disk is full" in output and "No space left on device" in output
    assert str(small_disk) in output and "the same command goes on" in output
    committed = {path: path.read_bytes() for path in shards(small_disk)}
    assert len(committed) < GROUPS
    assert len(read_groups(str(small_disk))) == len(committed), "something half-written was read"

    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    finish(curation(head, small_disk))
    assert {path: path.read_bytes() for path in committed} == committed
    assert groups(small_disk) == groups(undisturbed)


class BadLine(Line):
    """Slow; and `refuse` of the connections that come next get an error from the store."""

    refuse = 0

    def _pass_on(self, source, target, answers):
        if not answers and self.refuse:
            self.refuse -= 1
            with contextlib.suppress(OSError):
                source.recv(1 << 16)
                source.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            source.close()
            target.close()
        else:
            super()._pass_on(source, target, answers)


def test_a_store_that_is_slow_and_answers_with_errors_costs_nothing_but_time(
    s3_server, undisturbed, tmp_path, monkeypatch
):
    line, done, faults = BadLine(s3_server.endpoint), threading.Event(), [0, 0]
    line.delay = 0.1

    def disturb() -> None:
        while not done.wait(1.0):
            faults[0] += 1 - line.lose
            faults[1] += 1 - line.refuse
            line.lose = line.refuse = 1

    threading.Thread(target=disturb, daemon=True).start()
    run_dir = f"{s3_server.url}/{tmp_path.name}"
    environment = {**os.environ, **s3_server.environment, "AWS_ENDPOINT_URL": line.endpoint}
    command = [sys.executable, "-m", "tests.pipeline.stage_alone", "turns", f"run_dir={run_dir}", *SETTINGS]
    try:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        finish(process)
    finally:
        done.set()
        line.close()
    assert min(faults) > 2, "hardly any answer was lost or refused"
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    assert groups(run_dir) == groups(undisturbed)
    assert learnt(run_dir) == learnt(undisturbed)
