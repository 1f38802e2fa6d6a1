"""The whole method in one run folder, every stage going on where the last attempt stopped.

prompts -> curate (Ray Data + Ray Serve) <-> train (Ray Train) -> evaluate (Ray Data) -> report

Curation and training take turns or run at the same time, as `schedule` says (see schedule.py).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.context import _get_global_client
from tqdm import tqdm

from ft2ray.checks import check_dimensions, check_run_dir, check_targets, check_weights
from ft2ray.config import AlignConfig
from ft2ray.critic.base import CriticCard
from ft2ray.dimensions import questions
from ft2ray.errors import StoredDataError, UserError
from ft2ray.evaluation.judge import Judge
from ft2ray.loaders import PACKAGED, critic_card, generator_fingerprint
from ft2ray.observe.deaths import write_deaths
from ft2ray.observe.reporting import write_run_report
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.pipeline.critic_service import APP, start_critic
from ft2ray.pipeline.curation import curate
from ft2ray.pipeline.deaths import deaths_bounded
from ft2ray.pipeline.evaluation import evaluate
from ft2ray.pipeline.failures import as_user_error, keep_last_error, user_error
from ft2ray.pipeline.memory import with_memory
from ft2ray.pipeline.preflight import check_resources
from ft2ray.pipeline.training import train
from ft2ray.resources import Pool
from ft2ray.rounds.group_loader import CurationFailed
from ft2ray.rounds.measurements import run_judge
from ft2ray.rounds.prompts import plan_prompts
from ft2ray.rounds.schedule import GroupSpec, oldest_policy
from ft2ray.rounds.scores import critics, pair_counts, scored_candidates
from ft2ray.run import Run, is_published
from ft2ray.storage import delete, exclusive, new_file, write_atomically
from ft2ray.tlpo.run import HOW_TO_GET_PAIRS, NO_PAIRS

REMOVAL_SECONDS = 30.0
T = TypeVar("T")
log = logging.getLogger(__name__)


def align(config: AlignConfig) -> str:
    """Run everything that the run folder lacks; returns the URL of report.html.

    Raises:
        ValueError: for settings and media that cannot work.
        RunEnded: where a disk is full, the store or the critic fails; later the same call goes on.
    """
    check_run_dir(config.run_dir)
    check_targets(config)
    run = Run(config)
    with (
        as_user_error(run.url),
        exclusive(run.url, "ft2ray align"),
        keep_last_error(run.url),
        as_user_error(run.url),
        logged(run),
    ):
        check_weights(config)
        say(f"Checking portraits ({config.prompts.portraits}) and speech ({config.prompts.speech})")
        with timed(run, "prompts"):
            plan = plan_prompts(config.prompts, config.generator.size)
        for refused in plan.quarantined:
            say(f"  quarantined {refused.path} [{refused.reason}]: {refused.message}")
        say(f"  {len(plan.curation)} prompts to curate, {len(plan.evaluation)} kept apart for the evaluation")
        run.begin(plan)
        write_deaths(run.url, [])
        run.config = with_memory(run.config)
        with ray_cluster(config.resources.address):
            repaired(run, lambda: _align_on_ray(run))
            report = _on_node(config.resources.pools.generators, write_run_report, run.url, True)
    say(f"Done. Open {report}")
    return report


@contextmanager
def logged(run: Run) -> Iterator[None]:
    """Everything that this package and Ray say in this process also goes to a file of the run."""
    name = time.strftime("%Y%m%d-%H%M%S.log", time.gmtime())
    with new_file(run.file("logs", name)) as file, contextlib.ExitStack() as stack:
        handler = stack.enter_context(contextlib.closing(logging.FileHandler(file)))
        handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(name)s %(levelname)s %(message)s"))
        for logger in map(logging.getLogger, ("ft2ray", "ray")):
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
        yield


def repaired(run: Run, work: Callable[[], T]) -> T:
    """The result of `work`, which is done again without the rows that turn out to be damaged."""
    while True:
        try:
            return work()
        except Exception as error:  # of any kind: Ray wraps what its workers raise
            if not isinstance(user_error(error, run.url), StoredDataError):
                raise
            stores = run.groups, run.refused, run.measurements
            damaged = [sentence for store in stores for sentence in store.set_aside_damaged()]
            if not damaged:
                raise
            say("\n".join(f"  set aside, to be made again: {sentence}" for sentence in damaged))


def _align_on_ray(run: Run) -> None:
    config = run.config
    check_resources(config)
    generator, card = identities(config)
    judge = Judge.load(run_judge(run)).fingerprint
    check_critic(run, card)
    run.identify(generator, card.fingerprint)

    policy = take_turns(run) if config.schedule.max_staleness == 0 else run_together(run)
    run.publish(policy)

    rows = len(run.plan.evaluation) * len(config.evaluation.seeds)
    say(f"Evaluating {len(config.systems)} systems on held-out prompts: {rows * len(config.systems)} clips")
    with timed(run, "evaluation"):
        for _ in tqdm(evaluate(run, judge, policy), total=rows, unit="prompt"):
            pass


def identities(config: AlignConfig) -> tuple[str, CriticCard]:
    """Fingerprint of the generator, and what is known of the critic without its weights."""
    pools, generator, critic = config.resources.pools, config.generator.weights, config.critic
    found = _where_it_lies(pools.generators, generator, generator_fingerprint, generator, True)
    asked = questions(config.dimensions)
    named = critic.weights, critic.fps, critic.pixels, asked, True  # the user's own words: they may name code
    return found, _where_it_lies(pools.critic, critic.weights, critic_card, *named)


def _where_it_lies(pool: Pool, weights: str, call: Callable[..., T], *args: Any) -> T:
    """Call here what reads files of this machine: no GPU node need start for it."""
    here = weights in PACKAGED or Path(weights).is_dir()
    return call(*args) if here else _on_node(pool, call, *args)


def _on_node(pool: Pool, call: Callable[..., T], *args: Any) -> T:
    """`call` where the pool it is about has room: the driver's node may have no GPU and a small disk."""
    task: Any = ray.remote(call).options(**pool.options())
    try:
        return ray.get(task.remote(*args))
    except RayTaskError as error:
        raise error.cause from error  # a user's mistake stays one


def take_turns(run: Run) -> str:
    """Each round: curate all of it, then train on it. Returns the last policy published."""
    config, policy = run.config, ""
    baseline = ", the dpo_sum baseline" if config.tlpo.baseline else ""
    for round in range(config.schedule.rounds):
        of = f"round {round + 1} of {config.schedule.rounds}"
        say(f"Curating {of}: {config.curation.candidates} candidates per prompt, scored by Talking-Critic")
        missing = run.missing(run.specs_of(round))
        with timed(run, "curation"), critic_running(config, missing):
            for _ in committed(run, missing):
                pass
        check_pairs(run)
        say(f"Training {of}: {len(config.dimensions)} experts{baseline}, the gate at the end")
        with timed(run, "training"):
            policy = train(run, round)
    return policy


def run_together(run: Run) -> str:
    """Curate and train at the same time. Returns the last policy published."""
    config, stop = run.config, threading.Event()
    for going_on in (run.curating, run.training):
        write_atomically(going_on, b"")

    def curate_all() -> None:
        try:
            curate_rounds(run, stop)
        except BaseException:
            delete(run.curating)  # the training need not wait; a file that says so might find the disk full
            raise

    say(f"Curating {len(run.specs)} groups and training on them at the same time")
    with timed(run, "curation and training"), ThreadPoolExecutor(1) as pool:
        curation = pool.submit(curate_all)
        try:
            policy = train(run, config.schedule.rounds - 1)
        except BaseException as error:
            stop.set()
            if isinstance(error, CurationFailed) or curation.done():
                curation.result()  # where curation failed, its error is the cause
            raise
        finally:
            delete(run.training)  # nor need generators
        curation.result()
    return policy


def curate_rounds(run: Run, stop: threading.Event) -> None:
    """Curate all rounds in one stream, in which generators wait for policies, until `stop`."""
    config = run.config
    missing = run.missing(run.specs)
    left = Counter(spec.round for spec in missing)

    def check_before_waiting() -> None:
        """The policy that the next groups wait for is trained on what there is, or never."""
        needed = oldest_policy(config, min(left))
        if needed > 0 and not is_published(run.policy(needed)):
            check_pairs(run)

    # The critic starts here, beside the training's processes, and goes as soon as there is nothing to score.
    with critic_running(config, missing):
        if left:
            check_before_waiting()
        for round in committed(run, missing):
            if stop.is_set():
                return
            left[round] -= 1
            if left[round] == 0:
                del left[round]
                if left:
                    check_before_waiting()
    check_pairs(run)


def committed(run: Run, specs: Sequence[GroupSpec]) -> Iterator[int]:
    """Curate these groups, with a progress bar; yields the round of each that is done."""
    if not specs:
        return
    rounds = {spec.round for spec in specs}
    total = sum(spec.round in rounds for spec in run.specs)
    with tqdm(total=total, initial=total - len(specs), unit="group") as bar:
        for summary in curate(run, specs):
            bar.update()
            yield summary["round"]


@contextmanager
def critic_running(config: AlignConfig, missing: Sequence[GroupSpec]) -> Iterator[None]:
    """Talking-Critic is deployed as long as there are groups to score."""
    if not missing:
        yield
        return
    try:
        with deaths_bounded(config.run_dir) as look:
            start_critic(config.critic, config.resources.pools.critic, questions(config.dimensions), look)
        yield
    except BaseException:
        remove_critic()
        raise
    serve.delete(APP)


def remove_critic() -> None:
    """Take the critic away after a failure, which counts: where memory is short Serve may never answer.

    serve.delete would wait for it without a limit.
    """
    try:
        client = _get_global_client(raise_if_no_controller_running=False)
        if client is not None:
            ray.get(client._controller.delete_apps.remote([APP]), timeout=REMOVAL_SECONDS)
    except RayError as error:  # no answer, or no controller any more
        log.warning("the application %s may stay on a shared cluster: %s", APP, type(error).__name__)


def check_critic(run: Run, critic: CriticCard) -> None:
    """Scores of two critics do not compare, nor do other dimensions than the critic's.

    Raises:
        UserError: for another list of dimensions, other questions, or a store with another critic's scores.
    """
    check_dimensions(run.config.dimensions, critic)
    others = critics(run) - {critic.fingerprint}
    if others:
        raise UserError(
            f"{run.url} holds scores of critic {', '.join(map(str, others))}, now it is "
            f"{critic.fingerprint}; choose a new run_dir"
        )


def check_pairs(run: Run) -> None:
    """Say how many pairs there are; ValueError with the reason where no dimension has any."""
    candidates = scored_candidates(run)
    pairs = pair_counts(run.config, candidates, run.wrong_pairs)
    say("  pairs: " + ", ".join(f"{name} {count}" for name, count in pairs.items()))
    if any(pairs[name] for name in run.config.dimension_names):
        return
    unscored = candidates.filter(candidates[run.config.dimension_names[0]].is_null())
    errors = Counter(unscored["error"].to_pylist())
    if not errors:
        raise UserError(f"{NO_PAIRS}; {HOW_TO_GET_PAIRS}")
    ((error, _),) = errors.most_common(1)
    raise UserError(
        f"{NO_PAIRS}: {errors.total()} of {len(candidates)} candidates have no score ({error}); "
        f"{HOW_TO_GET_PAIRS}"
    )


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Adds the stage's wall time to the run's, over all attempts."""
    start = time.monotonic()
    try:
        yield
    finally:
        run.add_seconds(stage, time.monotonic() - start)


def say(text: str) -> None:
    log.info("%s", text)
