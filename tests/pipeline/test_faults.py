"""Whatever dies, hangs, fills up or stutters: a run ends with the same groups and bits, or says why not.

The driver that dies is in test_align.py, the node that is lost in test_autoscaling.py.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ft2ray.pipeline.curation import read_groups
from ft2ray.storage import list_files
from tests.pipeline.faulty_parts import FOLDER
from tests.ray_head import RayHead
from tests.s3_server import Line

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
GROUPS = 6
WAIT = 1500.0  # seconds, on a machine that is busy with other things
SETTINGS = [
    "generator.weights=tests.pipeline.faulty_parts:TrainableGenerator",
    "critic.weights=tests.pipeline.faulty_parts:DiscerningCritic",
    "prompts.seconds=1.5",
    f"prompts.curation={GROUPS}",
    "prompts.evaluation=1",
    "curation.candidates=2",
    "preference.margin=0.0",
    "tlpo.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=10",
    "tlpo.gate_steps=4",
    "tlpo.checkpoint_every=1",
]
JOIN = "cluster.address=auto"
GENERATOR, CRITIC, TRAINER = "GenerateGroup", "ServeReplica:curation-critic", "RayTrainWorker"


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A folder that the test and all parts of its runs know."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def head(shared) -> Iterator[RayHead]:
    environment = {"PYTHONPATH": str(ROOT), FOLDER: str(shared), "OMP_NUM_THREADS": "1"}
    with RayHead(["--num-cpus=6"], environment=environment, dashboard=False) as head:
        yield head


@pytest.fixture(scope="module")
def undisturbed(head, tmp_path_factory) -> Path:
    """A run folder whose groups were curated, and trained on, without any fault."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    finish(curation(head, run_dir))
    assert len(read_groups(str(run_dir))) == GROUPS
    copied(run_dir, tmp_path_factory.mktemp("groups"))
    finish(training(head, run_dir))
    return run_dir


def curation(head: RayHead, run_dir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.pipeline.curate_alone", f"run_dir={run_dir}"]
    return head.start(*command, *SETTINGS, JOIN, *more)


def training(head: RayHead, run_dir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.pipeline.train_alone", f"run_dir={run_dir}"]
    return head.start(*command, *SETTINGS, JOIN)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output[-3000:]
    return output


def kill_one(process: subprocess.Popen, found: Callable[[], list[psutil.Process]], when: Callable[[], bool]):
    """SIGKILL one of the processes that `found` gives, as soon as `when` holds."""
    deadline = time.monotonic() + WAIT
    while not when():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim, *_ = found()
    victim.kill()


def running(head: RayHead, part: str) -> list[psutil.Process]:
    found = []
    for process in head.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if part in " ".join(process.cmdline()):
                found.append(process)
    return found


def shards(run_dir: str | Path) -> list[Path]:
    return list(Path(run_dir, "store", "groups").glob("*.parquet"))


def groups(run_dir: str | Path) -> list:
    """Everything about the groups that must not depend on what happened to whom."""
    assert len(list_files(f"{run_dir}/store/groups", ".parquet")) == GROUPS, "a gap, or a group twice"
    return [
        (g.group_id, g.round, [(c.candidate_id, c.scores, c.latents_CFHW.tobytes()) for c in g.candidates])
        for g in read_groups(str(run_dir))
    ]


def learnt(run_dir: Path) -> tuple[str, list]:
    """Fingerprint of the policy that was published, and all curves."""
    (policy,) = (run_dir / "policies").glob("*-1/policy.json")
    (curves,) = (run_dir / "policies").glob("*-1.curves.json")
    return json.loads(policy.read_text())["fingerprint"], json.loads(curves.read_text())


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
        lambda: len(list((tmp_path / "train").glob("*/checkpoint_*"))) >= 2,
    )
    assert not (tmp_path / "policies").exists(), "it was killed too late to test anything"
    finish(process)
    assert learnt(tmp_path) == learnt(undisturbed)


def test_a_critic_that_hangs_once_is_replaced_and_scores_everything(head, shared, undisturbed, tmp_path):
    critic = "critic.weights=tests.pipeline.faulty_parts:HangsOnce"
    finish(curation(head, tmp_path, critic, "critic.timeout_seconds=10", "critic.retries=3"))
    assert (shared / "hung").exists()
    assert groups(tmp_path) == groups(undisturbed)


@pytest.mark.parametrize("schedule", ["schedule.max_staleness=0", "schedule.max_staleness=1"])
def test_a_critic_that_always_hangs_ends_the_run_and_leaves_no_nulls_behind(head, tmp_path, schedule):
    critic = "critic.weights=tests.pipeline.faulty_parts:AlwaysHangs"
    limits = ("critic.timeout_seconds=4", "critic.retries=0", "prompts.curation=1")
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={tmp_path}"]
    process = head.start(*command, *SETTINGS, JOIN, critic, *limits, schedule)
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


def test_a_full_disk_is_named_and_a_larger_one_goes_on(head, undisturbed, small_disk):
    (small_disk / "ballast").write_bytes(os.urandom(60_000))
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={small_disk}"]
    process = head.start(*command, *SETTINGS, JOIN)
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 1 and "Traceback" not in output, output[-3000:]
    assert "ft2ray: a disk is full" in output and "No space left on device" in output
    assert str(small_disk) in output and "the same command goes on" in output
    committed = {path: path.read_bytes() for path in shards(small_disk)}
    assert len(committed) < GROUPS
    whole = {group_id for group_id, *_ in groups_so_far(small_disk)}
    assert len(whole) == len(committed), "something half-written was read"

    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    finish(curation(head, small_disk))
    assert {path: path.read_bytes() for path in committed} == committed
    assert groups(small_disk) == groups(undisturbed)


def groups_so_far(run_dir: Path) -> list:
    return [(group.group_id, group.round) for group in read_groups(str(run_dir))]


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
    command = [sys.executable, "-m", "tests.pipeline.curate_alone", f"run_dir={run_dir}", *SETTINGS]
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
