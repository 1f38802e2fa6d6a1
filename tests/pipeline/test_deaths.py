"""Processes that die are counted and named; a stage that only loses processes ends in one sentence."""

import re
import threading
import time
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from ray import cloudpickle
from ray.exceptions import GetTimeoutError

from ft2ray.config import load_config
from ft2ray.errors import RunEnded
from ft2ray.observe.deaths import Death, read_deaths, reason, summary, write_deaths
from ft2ray.pipeline import align, deaths
from ft2ray.pipeline.deaths import MOST_DEATHS, deaths_bounded, watched

OOM = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID:"
    " 5c) was 1.40GB used / 1.46GB limit (0.955005)\nOOM kill reason: Memory usage exceeded threshold"
)
DEATH = Death("generators", "192.0.2.2", 0.0, *reason("NODE_OUT_OF_MEMORY", OOM))


class Watch:
    """Finds a death whenever it is asked."""

    waiting = Counter()

    def __init__(self, pools, note):
        self.asked = 0

    def look(self):
        self.asked += 1
        return [DEATH]


class Rows:
    """A dataset: between two looks for a row Ray Data calls the callbacks of the dataset's context."""

    def __init__(self, rows):
        self.rows, self.context = rows, SimpleNamespace(custom_execution_callback_classes=[])

    def iter_rows(self):
        callbacks = [kind() for kind in self.context.custom_execution_callback_classes]
        for row in self.rows:
            for callback in callbacks:
                callback.on_execution_step(None)
            if row is not None:  # None: there is no row yet
                yield row


@pytest.fixture
def dying(monkeypatch):
    monkeypatch.setattr(deaths, "DeathWatch", Watch)
    monkeypatch.setattr(deaths, "EVERY_SECONDS", 0.01)


def test_what_ray_says_becomes_a_reason_with_numbers():
    assert (DEATH.why, DEATH.used, DEATH.limit) == ("out_of_memory", 1.40, 1.46)
    assert str(DEATH) == "out of memory on 192.0.2.2, 1.4 of 1.46 GB were in use"
    assert reason("SYSTEM_ERROR", "Worker unexpectedly exits") == ("killed", None, None)


def test_only_the_pools_that_are_watched_are_noted(monkeypatch):
    """Actors of this job, and replicas of Serve, whoever deployed them; who ended as intended did not die."""

    def actor(job, class_name, pid, state="ALIVE"):
        return SimpleNamespace(job_id=job, class_name=class_name, pid=pid, node_id="n", state=state)

    def worker(pid, exit_type):
        return SimpleNamespace(
            worker_id=str(pid), node_id="n", ip="192.0.2.2", pid=pid, exit_type=exit_type, exit_detail=OOM
        )

    actors = [
        actor("mine", "MapWorker(Map(GenerateGroup))", 1),
        actor("theirs", "MapWorker(Map(GenerateGroup))", 2),
        actor("serve", "ServeReplica:curation-critic:TalkingCritic", 3),
        actor("serve", "ServeReplica:critic:TalkingCritic", 4),
        actor("mine", "RayTrainWorker", 5),
    ]
    dead = []
    monkeypatch.setattr("ray.util.state.list_actors", lambda **_: actors)
    monkeypatch.setattr("ray.util.state.list_workers", lambda **_: dead)
    monkeypatch.setattr(deaths.ray, "nodes", lambda: [{"NodeID": "n", "Alive": True}])
    context = SimpleNamespace(get_job_id=lambda: "mine")
    monkeypatch.setattr(deaths.ray, "get_runtime_context", lambda: context)
    noted = []
    watch = deaths.DeathWatch(deaths.POOLS, noted.extend)
    assert watch.look() == []
    dead += [worker(pid, "NODE_OUT_OF_MEMORY") for pid in range(1, 5)] + [worker(5, "INTENDED_SYSTEM_EXIT")]
    assert watch.look() == noted and [death.pool for death in noted] == ["generators", "critic"]
    assert noted[0].limit == 1.46 and watch.look() == [], "nobody dies twice"

    actors.append(actor("mine", "RayTrainWorker", None, "PENDING_CREATION"))
    dead.append(worker(6, "NODE_OUT_OF_MEMORY"))
    (died,) = watch.look()
    assert died.pool == "training" and watch.waiting == {"training": 1}, "it died before it was an actor"


def test_a_step_that_only_loses_processes_ends(dying, monkeypatch):
    monkeypatch.setattr(deaths, "EVERY_SECONDS", 0.0)
    with deaths_bounded("run") as look:
        for _ in range(MOST_DEATHS - 1):
            look()
        with pytest.raises(RunEnded, match=f"processes died {MOST_DEATHS} times .* 1.4 of 1.46 GB"):
            look()


def test_a_step_that_looks_often_asks_ray_seldom(dying, monkeypatch):
    monkeypatch.setattr(deaths, "EVERY_SECONDS", 60.0)
    with deaths_bounded("run") as look:
        for _ in range(2 * MOST_DEATHS):
            look()


def test_rows_pass_in_their_order_and_errors_too(dying):
    assert list(watched(Rows("abc"), "run")) == ["a", "b", "c"]

    def rows():
        yield 1
        raise ValueError("broken")

    passing = watched(Rows(rows()), "run")
    assert next(passing) == 1
    with pytest.raises(ValueError, match="broken"):
        next(passing)


def test_too_many_deaths_without_a_row_end_the_stage(dying):
    def rows():
        yield "first"
        while True:
            time.sleep(0.01)
            yield None

    dataset = Rows(rows())
    passing = watched(dataset, "run")
    assert next(passing) == "first"
    with pytest.raises(RunEnded) as ended:
        next(passing)
    text = str(ended.value)
    (times,) = re.findall(r"processes died (\d+) times", text)
    assert int(times) >= MOST_DEATHS and "1.4 of 1.46 GB" in text
    assert "resources.pools.generators.memory" in text and "the same command goes on" in text
    assert ended.value.exit_code == 75
    assert cloudpickle.dumps(dataset.context), "Ray sends the context to the processes that make the rows"


def test_a_row_in_between_counts_from_nought_again(monkeypatch):
    """One death before every row: a hundred of them end nothing."""
    turn = threading.Semaphore(0)

    class Slow(Watch):
        def look(self):
            turn.release()
            return [DEATH]

    monkeypatch.setattr(deaths, "DeathWatch", Slow)
    monkeypatch.setattr(deaths, "EVERY_SECONDS", 0.01)

    def rows():
        for number in range(3 * MOST_DEATHS):
            turn.acquire()
            yield str(number)

    assert len(list(watched(Rows(rows()), "run"))) == 3 * MOST_DEATHS


def test_a_pool_that_finds_no_place_is_named(monkeypatch, caplog):
    class Waiting(Watch):
        waiting = Counter(generators=2, critic=1)

        def look(self):
            return []

    monkeypatch.setattr(deaths, "DeathWatch", Waiting)
    monkeypatch.setattr(deaths, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(deaths, "QUIET_SECONDS", 0.05)

    def rows():
        deadline = time.monotonic() + 60
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.01)
        yield "first"

    assert list(watched(Rows(rows()), "run")) == ["first"]
    assert "(2 of generators, 1 of critic); `ray status`" in caplog.text


def test_a_serve_that_cannot_answer_hides_no_error(monkeypatch):
    """Where memory is short Serve's own controller dies too."""

    def unanswered(*_, timeout):
        raise GetTimeoutError(f"no answer in {timeout} s")

    monkeypatch.setattr(align, "start_critic", lambda *arguments: None)
    monkeypatch.setattr(align, "deaths_bounded", lambda run_dir: nullcontext())
    monkeypatch.setattr(align, "_get_global_client", lambda **_: MagicMock())
    monkeypatch.setattr(align.ray, "get", unanswered)
    with pytest.raises(RunEnded, match="died 6 times"), align.critic_running(load_config(None, []), [None]):
        raise RunEnded("processes died 6 times")


def test_the_run_folder_keeps_them_and_the_status_says_which_where_how_often_and_what_to_do(tmp_path):
    killed = Death("critic", "192.0.2.3", 1.0, "killed")
    write_deaths(tmp_path, [DEATH, killed, DEATH])
    found = read_deaths(tmp_path)
    assert found == [DEATH, killed, DEATH] and read_deaths(tmp_path / "other") == []
    critic, generators = summary(found)
    assert critic.startswith("critic died once, at ") and "most likely by the kernel" in critic
    assert generators.startswith("generators died 2 times") and "1.46 GB" in generators
