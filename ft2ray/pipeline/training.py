"""TLPO as one Ray Train run: stage 1 trains all experts from one stream, stage 2 the gate.

Every worker takes in the same groups at the same steps, makes the same draws and takes its share of each
batch; gradients are averaged. A batch of one dimension touches that expert only, so co-training equals
separate runs. The baseline `dpo_sum` is one more adapter in the same run, on pairs of the summed score, with
as many updates as all the experts together. At the end of every round the policy is published and becomes the
run's current one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from ft2ray.config import AlignConfig
from ft2ray.dimensions import masks
from ft2ray.errors import StoreUnavailable, UserError
from ft2ray.loaders import load_generator
from ft2ray.observe.metrics import metric
from ft2ray.observe.tensorboard import Board, board
from ft2ray.observe.timeline import TrainingClock
from ft2ray.pipeline.failures import user_error
from ft2ray.preference.rules import FULL, Pair, pairs
from ft2ray.records import PromptGroup
from ft2ray.rounds.group_loader import CurationFailed, GroupLoader
from ft2ray.rounds.schedule import last_step
from ft2ray.rounds.scores import pairs_by_group
from ft2ray.run import Run, is_published
from ft2ray.scratch import scratch_folder
from ft2ray.storage import Checkpoints
from ft2ray.systems import SUM
from ft2ray.tlpo.run import TlpoRun

log = logging.getLogger(__name__)

MOST_RETRIES = 3
"""Of a training whose workers died or failed; each goes on from the last checkpoint."""


def pairs_of(config: AlignConfig, group: PromptGroup, critic: str) -> dict[str, list[Pair]]:
    """Pairs of every dimension, of the summed score and of stage 2 from the scores of one group.

    critic: fingerprint of the run's critic; ValueError where another one gave the scores.
    """
    group.require_critic(critic)
    names = config.dimension_names
    return pairs(group.scores_NK(), names, config.pairs, (*names, SUM, FULL))


def train(run: Run, round: int) -> str:
    """Train, or go on training, to the end of `round`; returns the URL of the policy published then."""
    config, published = run.config, run.policy(round + 1)
    if is_published(published):
        return published
    with progress(run, last_step(config, round)):
        for retries in range(MOST_RETRIES + 1):
            try:
                _fit(run, round)
                break
            except Exception as error:
                if retries == MOST_RETRIES or is_permanent(error, run.url):
                    raise
                reason = str(error).splitlines() or [type(error).__name__]
                log.warning("the training goes on from its last checkpoint after: %s", reason[0])
    if not is_published(published):
        raise CurationFailed("the training ended early: curation failed, or gave not a single pair")
    return published


def is_permanent(error: Exception, run_dir: str) -> bool:
    """Whether another attempt would only meet the same error: numbers that are not finite, damaged rows."""
    found = user_error(error, run_dir)
    return found is not None and found.exit_code == UserError.exit_code


def _fit(run: Run, round: int) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    pool = run.config.resources.pools.training
    resources = {"CPU": pool.cpus, "GPU": pool.gpus, "memory": (pool.memory or 0) * 1e9}
    # Ray wants a folder, although the checkpoints are ours: it finds nothing there but its own marker.
    with scratch_folder() as folder:
        TorchTrainer(
            _train_loop,
            train_loop_config={"run": run, "round": round},
            scaling_config=ScalingConfig(
                num_workers=pool.count,
                use_gpu=pool.gpus > 0,
                resources_per_worker={k: v for k, v in resources.items() if v},
                label_selector=pool.selector,  # type: ignore[call-arg]  # annotated as Train v1
            ),
            run_config=RunConfig(name=run.key, storage_path=str(folder)),
        ).fit()


@contextmanager
def progress(run: Run, steps: int) -> Iterator[None]:
    """A progress bar that follows what rank 0 reports: it may sit on another machine."""
    finished, together = threading.Event(), run.config.schedule.max_staleness > 0

    def follow() -> None:
        with tqdm(total=steps, unit="step", position=int(together)) as bar:
            while not finished.wait(1.0):
                with contextlib.suppress(StoreUnavailable):  # which those who do the work meet too
                    bar.update(max(0, run.step - bar.n))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def new_training(config: AlignConfig, rank: int = 0, workers: int = 1) -> TlpoRun:
    """A training of this configuration at step 0, without groups."""
    return TlpoRun(
        load_generator(config.generator.weights, allow_code=True),
        config.dimension_names,
        config.tlpo,
        config.resources.compute,
        config.seed,
        config.generator.sampling,
        config.schedule.rounds,
        rank,
        workers,
        masks(config.dimensions),
    )


def _train_loop(arguments: dict[str, Any]) -> None:
    import ray.train.torch

    torch.set_num_threads(1)
    run: Run = arguments["run"]
    config = run.config
    if torch.cuda.is_available():
        torch.cuda.set_device(ray.train.torch.get_device())  # where the generator loads itself to
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    tlpo = new_training(config, rank, workers)
    clock = TrainingClock(run.spans, f"{platform.node()} {os.getpid()}")
    curves: list[dict[str, Any]] = []
    kept: dict[int, list[str]] = {}
    checkpoints = Checkpoints(run.checkpoints)
    step = _of_rank_0(checkpoints.newest() if rank == 0 else None)
    if step is not None:
        saved = checkpoints.open(step)
        tlpo.restore(saved / "state")
        curves = json.loads((saved / "curves.json").read_text())
        kept = {int(at): ids for at, ids in json.loads((saved / "intake.json").read_text()).items()}
    loader = GroupLoader(run, lambda ids: pairs_by_group(run, ids), rank, workers, kept)

    def write(folder: Path) -> None:
        tlpo.save(folder / "state")
        (folder / "curves.json").write_text(json.dumps(curves))
        (folder / "intake.json").write_text(json.dumps(loader.lists))

    def load_groups(tlpo: TlpoRun) -> None:
        if loader.complete:
            return
        clock.stop(tlpo.step, round)
        loader(tlpo)
        clock.start(tlpo.step)

    def save(tlpo: TlpoRun) -> None:
        clock.stop(tlpo.step, round)
        if shown is not None:
            curves.extend(tlpo.curves)
            show(tlpo, shown)
            tlpo.curves.clear()
            checkpoints.save(tlpo.step, write)
            clock.commit()
            run.reached(tlpo.step)
        else:
            tlpo.save("")  # with ZeRO everybody has a part of it; rank 0 writes
        ray.train.report({"step": tlpo.step})
        clock.start(tlpo.step)

    # Where curation failed a new attempt would only fail again: `train` reports it, Ray Train need not.
    with (
        contextlib.suppress(CurationFailed),
        board(run.file("tensorboard"), tlpo.step)
        if rank == 0
        else contextlib.nullcontext() as shown,  # one worker reports
    ):
        for round in range(arguments["round"] + 1):
            end = last_step(config, round)
            clock.start(tlpo.step)
            tlpo.train(end, save, load_groups)
            # Beyond its end a round was published by an earlier attempt.
            if tlpo.step == end:
                weights_SNK = tlpo.gate_weights()
                if shown is not None:
                    run.publish_version(round + 1, tlpo.policy(), curves)  # who serves this run follows it
                    shown.gate(weights_SNK.numpy(), tlpo.dimensions, tlpo.step)
        checkpoints.wait()


def _of_rank_0(value: int | None) -> int | None:
    """Every worker goes on from the same checkpoint."""
    box = [value]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def show(tlpo: TlpoRun, shown: Board) -> None:
    """The newest figures as metrics and on the board."""
    shown.curves(tlpo.curves)
    shown.keep()
    metric("ft2ray_train_step").set(tlpo.step)
    metric("ft2ray_train_groups").set(len(tlpo.groups))
    for point in tlpo.curves:
        for name in ("loss", "accuracy"):
            metric(f"ft2ray_train_{name}").set(point[name], tags={"adapter": point["name"]})
