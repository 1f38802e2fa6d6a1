"""Tune a full-size critic on people's answers and calibrate it on held-out ones, with Ray Train.

    python jobs/tune_critic.py --labels labels.csv --base /models/Qwen2.5-Omni-7B --out /models/critic

--base is a Qwen2.5-Omni folder or hub name, --labels a table or import as ft2ray/critic/labels.py reads them.
What the folder beside --out, named --out and .training, holds already is not done again: stopped at any
moment, the same command goes on. With several workers --out must lie on S3 or on a disk that they share. The
result is a folder for `critic.weights`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from output_path import check_output_path
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ft2ray.critic.labels import Label, check_clips, parted, read_labels
from ft2ray.critic.omni.card import CARD, OmniCard, new_card, read_card
from ft2ray.critic.omni.folder import find_omni
from ft2ray.critic.omni.tuning import Tuning, TuningConfig, run
from ft2ray.critic.omni.whole_clip import FPS, PIXELS
from ft2ray.critic.questions import QUESTIONS
from ft2ray.errors import FT2RayError, UserError
from ft2ray.pipeline.cluster import job_address, ray_cluster
from ft2ray.records import content_id
from ft2ray.scratch import scratch_folder
from ft2ray.storage import Checkpoints, exists, join, read_bytes, upload_folder, write_atomically

LOG = "tuning.jsonl"


@dataclasses.dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    base: str
    out: str
    card: OmniCard
    labels: list[Label]
    held_out: list[Label]
    config: TuningConfig
    save_every: int

    @property
    def training(self) -> str:
        """Where the checkpoints are: not below `out`, all of which is fetched by whoever loads a critic."""
        return self.out.rstrip("/") + ".training"

    @property
    def name(self) -> str:
        """Identity of the training: another one does not go on from its checkpoints."""
        card = [self.card.base_fingerprint, self.card.questions, self.card.fps, self.card.pixels]
        labels = [dataclasses.astuple(label) for label in self.labels]
        return content_id(card, labels, dataclasses.asdict(self.config))


def worker(given: dict[str, Job]) -> None:
    import numpy as np
    import ray.train.torch
    import torch
    import torch.distributed as dist

    from ft2ray.critic.omni.critic import Reader

    job = given["job"]
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if device.type == "cpu":
        torch.set_num_threads(1)
    tuning = Tuning(
        Reader.load(job.card.base, job.card, device), job.card, job.labels, job.config, rank, workers
    )
    checkpoints = Checkpoints(join(job.training, job.name))
    newest = [checkpoints.newest() if rank == 0 else None]
    if workers > 1:
        dist.broadcast_object_list(newest, src=0)
    if newest[0] is not None:
        tuning.restore(checkpoints.open(newest[0]))
    began, first = time.monotonic(), tuning.step
    log = join(job.out, LOG)
    said = [json.loads(line) for line in read_bytes(log).splitlines()] if exists(log) else []
    said = [figures for figures in said if figures["step"] <= first]  # the rest is done again

    def say(figures: dict[str, float]) -> None:
        if rank:
            return
        figures["seconds_per_step"] = round((time.monotonic() - began) / (tuning.step - first), 3)
        said.append(figures)
        print(f"step {tuning.step} of {tuning.last_step}: loss {figures['loss']:.4f}", flush=True)

    def save(tuning: Tuning) -> None:
        if rank == 0:
            write_atomically(log, "".join(json.dumps(figures) + "\n" for figures in said).encode())
            checkpoints.save(tuning.step, tuning.save)
        ray.train.report({"step": tuning.step})

    run(tuning, save, say, job.save_every)
    checkpoints.wait()
    shares: list[Any] = [None] * workers
    if workers > 1:
        dist.all_gather_object(shares, tuning.margins(job.held_out))
    else:
        shares = [tuning.margins(job.held_out)]
    if rank == 0:
        margin_NK = np.empty((len(job.held_out), len(job.card.questions)))
        for n, share in enumerate(shares):
            margin_NK[n::workers] = share
        with scratch_folder() as folder:
            tuning.write(folder, job.base, margin_NK, job.held_out)
            upload_folder(folder, job.out, last=CARD)


def tune(job: Job, workers: int, gpu: bool) -> OmniCard:
    """Train, or go on training, and write the critic's folder; returns its card."""
    with scratch_folder() as folder:  # Ray wants one, although the checkpoints are ours
        TorchTrainer(
            worker,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu),
            run_config=RunConfig(
                name=job.name, storage_path=str(folder), failure_config=FailureConfig(max_failures=3)
            ),
        ).fit()
    return read_card(job.out)


def make_job(arguments: argparse.Namespace) -> Job:
    """Everything is read and checked here, before a worker starts."""
    out = arguments.out
    check_output_path("--out", out)
    if arguments.workers < 1 or arguments.save_every < 1 or not 0 <= arguments.held_out_share < 1:
        raise UserError(
            "--workers and --save-every must be at least 1, and --held-out-share from 0 to less than 1"
        )
    if exists(join(out, CARD)):
        raise UserError(f"{out} holds a tuned critic already; give a new folder")
    base = find_omni(arguments.base)
    card = new_card(base, QUESTIONS, arguments.fps, arguments.pixels)
    labels = read_labels(arguments.labels, QUESTIONS)
    if arguments.held_out is not None:
        held_out = read_labels(arguments.held_out, QUESTIONS)
        both = {label.clip for label in labels} & {label.clip for label in held_out}
        if both:
            raise UserError(f"{len(both)} clips are in both tables, {sorted(both)[0]} for one; hold them out")
    else:
        labels, held_out = parted(labels, arguments.held_out_share, arguments.seed)
    check_clips([*labels, *held_out])
    if not labels:
        raise UserError("there are no labels to tune on; lower --held-out-share or give more")
    config = TuningConfig(
        rank=arguments.rank,
        alpha=arguments.alpha,
        learning_rate=arguments.learning_rate,
        epochs=arguments.epochs,
        batch=arguments.batch,
        seed=arguments.seed,
    )
    named = str(base.absolute()) if Path(arguments.base).exists() else arguments.base
    return Job(named, out, card, labels, held_out, config, arguments.save_every)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--labels", required=True, help=".csv, .jsonl or .parquet, see ft2ray/critic/labels.py"
    )
    parser.add_argument("--base", required=True, help="a Qwen2.5-Omni folder or hub name")
    parser.add_argument("--out", required=True, help="a new folder for the tuned critic")
    parser.add_argument("--held-out", help="labels to calibrate on; without them a share of --labels")
    parser.add_argument("--held-out-share", type=float, default=0.2)
    parser.add_argument("--fps", type=float, default=FPS, help="pictures a second: 8 to 12")
    parser.add_argument("--pixels", type=int, default=PIXELS, help="largest area of a picture is its square")
    parser.add_argument("--rank", type=int, default=TuningConfig.rank)
    parser.add_argument("--alpha", type=float, default=TuningConfig.alpha)
    parser.add_argument("--learning-rate", type=float, default=TuningConfig.learning_rate)
    parser.add_argument("--epochs", type=float, default=TuningConfig.epochs)
    parser.add_argument("--batch", type=int, default=TuningConfig.batch, help="clips a step, of all workers")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cpu", action="store_true", help="no GPU: for toy widths")
    parser.add_argument("--save-every", type=int, default=50, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(given)
    try:
        job = make_job(arguments)
        print(f"{len(job.labels)} clips to tune on, {len(job.held_out)} held out", flush=True)
        with ray_cluster(job_address(), log_to_driver=True):
            card = tune(job, arguments.workers, not arguments.cpu)
    except FT2RayError as error:
        print(f"tune_critic: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps({"critic": card.fingerprint, **card.calibration}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
