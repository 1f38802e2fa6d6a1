"""Notice the processes of a run that die, say so, and end a stage that only loses processes.

Ray starts a process that died again, without a limit and without a word to the user: a pool whose processes
do not fit the memory of their nodes would go on for ever and finish nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import ray
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.state.exception import RayStateApiException

from ft2ray.errors import RunEnded
from ft2ray.observe.deaths import Death, advice, read_deaths, reason, write_deaths
from ft2ray.observe.metrics import metric
from ft2ray.pipeline.failures import GOES_ON

if TYPE_CHECKING:
    from ray.data import Dataset
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

log = logging.getLogger(__name__)

MOST_DEATHS = 6  # in a row, without one finished row in between
EVERY_SECONDS = 5.0
QUIET_SECONDS = 300.0  # without a finished row, after which those who wait for a node are named
# Ray's State API: no dashboard, no answer, or not in time.
UNAVAILABLE = (RayStateApiException, RuntimeError, ValueError, OSError)
STARTING = ("DEPENDENCIES_UNREADY", "PENDING_CREATION", "RESTARTING")
INTENDED = ("INTENDED_SYSTEM_EXIT", "INTENDED_USER_EXIT")
REPLICA = "ServeReplica:"  # then the application and the deployment
POOLS = {
    "GenerateGroup": "generators",
    "MeasurePrompt": "generators",
    "ScoreAndCommit": "scorers",
    f"{REPLICA}curation-critic": "critic",
    "RayTrainWorker": "training",
}


class DeathWatch:
    """Asks Ray which processes of some pools have died since it was asked before.

    Args:
        pools: a part of the class name of the actors, as Ray lists them, and their pool. What counts are
            actors of this process's job, and replicas of Serve, whoever deployed them.
        note: what is done with the deaths that are new, which are logged in any case.

    Attributes:
        waiting: how many processes of each pool had no place, or were starting, when Ray was asked last.
    """

    def __init__(self, pools: Mapping[str, str], note: Callable[[list[Death]], None]) -> None:
        self._parts, self._note = pools, note
        self._job = ray.get_runtime_context().get_job_id()
        self._pools: dict[tuple[str, int], str] = {}  # of every process that was seen, by node and pid
        self._known: set[str] | None = None  # the dead that were found before; None: not looked at yet
        self.waiting: Counter[str] = Counter()

    def look(self) -> list[Death]:
        """Return the new deaths, which are logged and noted."""
        try:
            return self._look()
        except UNAVAILABLE as error:  # asked again soon; without a dashboard Ray never tells
            log.debug("Ray does not say which processes died: %s", error)
            return []

    def _look(self) -> list[Death]:
        from ray.util.state import list_actors

        if self._known is None:
            self._known = {worker.worker_id for worker in self._dead()}
        waiting: Counter[str] = Counter()
        for actor in list_actors(detail=True, limit=10_000, raise_on_missing_output=False):
            pool = next((pool for part, pool in self._parts.items() if part in actor.class_name), None)
            if pool is None or (actor.job_id != self._job and REPLICA not in actor.class_name):
                continue
            if actor.pid and actor.node_id:
                self._pools[actor.node_id, actor.pid] = pool
            if actor.state in STARTING:
                waiting[pool] += 1
        self.waiting = waiting
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        new = []
        for worker in self._dead():
            if worker.worker_id in self._known:
                continue
            self._known.add(worker.worker_id)
            why, used, limit = reason(worker.exit_type, worker.exit_detail or "")
            pool = self._pools.get((worker.node_id, worker.pid))
            if pool is None and why == "out_of_memory":
                pool = next(
                    reversed(waiting), None
                )  # where memory is short, most processes die before Ray gives them their actor
            if pool is None or worker.node_id not in alive:  # of another job, or lost with its node
                continue
            new.append(Death(pool, worker.ip, time.time(), why, used, limit))
        for death in new:
            log.warning("a process of %s died: %s", death.pool, death)
        if new:
            self._note(new)
        return new

    @staticmethod
    def _dead() -> list[Any]:
        from ray.util.state import list_workers

        workers = list_workers(
            filters=[("is_alive", "=", False)], detail=True, limit=10_000, raise_on_missing_output=False
        )
        return [worker for worker in workers if worker.exit_type not in INTENDED]


def note(run_dir: str, deaths: list[Death]) -> None:
    """Count deaths of a run and write them into its folder."""
    for death in deaths:
        metric("ft2ray_deaths_total").inc(tags={"pool": death.pool, "why": death.why})
    write_deaths(run_dir, [*read_deaths(run_dir), *deaths])


@contextmanager
def deaths_bounded(run_dir: str) -> Iterator[Callable[[], None]]:
    """Note the processes that die meanwhile.

    Args:
        run_dir: where deaths are kept.

    Yields:
        A function to be called at any time, which asks Ray every EVERY_SECONDS: RunEnded after MOST_DEATHS
        deaths.
    """
    watch = DeathWatch(POOLS, partial(note, run_dir))
    watch.look()  # those before are not of this step
    died: list[Death] = []
    asked = time.monotonic()

    def look() -> None:
        nonlocal asked
        if time.monotonic() - asked < EVERY_SECONDS:
            return
        asked = time.monotonic()
        died.extend(watch.look())
        if len(died) >= MOST_DEATHS:
            raise RunEnded(verdict(died))

    try:
        yield look
    finally:
        watch.look()


def watched(rows: Dataset, run_dir: str) -> Iterator[dict[str, Any]]:
    """The rows, as they come, while the processes that make them are watched.

    Args:
        rows: made by the processes of a stage.
        run_dir: where deaths are kept.

    Yields:
        The rows.

    Raises:
        RunEnded: after MOST_DEATHS deaths without a row in between, with the reason of the last.
    """
    watch, over = DeathWatch(POOLS, partial(note, run_dir)), threading.Event()
    watch.look()  # those before are not of this stage
    since: list[Death] = []
    moved = time.monotonic()  # when the last row came, or when it was said that none comes

    class Ending(ExecutionCallback):
        """What Ray Data calls between any two of its own steps; an error in it ends the execution."""

        def on_execution_step(self, executor: StreamingExecutor) -> None:
            if len(since) >= MOST_DEATHS:
                raise RunEnded(verdict(since))

    def look() -> None:
        nonlocal moved
        while not over.wait(EVERY_SECONDS):
            since.extend(watch.look())
            if watch.waiting and time.monotonic() - moved > QUIET_SECONDS:
                moved = time.monotonic()
                log.warning("nothing was finished for %g min: %s", QUIET_SECONDS / 60, places(watch.waiting))

    rows.context.custom_execution_callback_classes.append(Ending)
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        for row in rows.iter_rows():
            since.clear()
            moved = time.monotonic()
            yield row
    finally:
        over.set()
        looking.join()  # a call to a Ray that has ended ends the process


def places(waiting: Mapping[str, int]) -> str:
    """Who waits, in words."""
    who = ", ".join(f"{count} of {pool}" for pool, count in waiting.items())
    return (
        f"processes wait for a node with room for them, or are starting ({who}); `ray status` shows the nodes"
    )


def verdict(deaths: list[Death]) -> str:
    """The sentence that a stage ends with."""
    last = deaths[-1]
    return (
        f"processes died {len(deaths)} times and finished nothing in between, the last one of {last.pool}: "
        f"{last}; {advice(last.pool)}; {GOES_ON}"
    )
