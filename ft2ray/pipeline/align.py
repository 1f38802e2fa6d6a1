"""The whole method in one run folder, every stage going on where the last attempt stopped.

prompts -> curate (Ray Data + Ray Serve) -> train (Ray Train) -> evaluate (Ray Data) -> report
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import serve
from tqdm import tqdm

from ft2ray.config import AlignConfig
from ft2ray.critic.critic import Critic
from ft2ray.evaluation.judge import Judge
from ft2ray.parts import load_critic, load_generator
from ft2ray.pipeline.critic_service import APP, start_critic
from ft2ray.pipeline.curation import BASE_POLICY, curate, curated, missing_prompts, read_groups
from ft2ray.pipeline.evaluation import evaluate, run_judge
from ft2ray.pipeline.prompts import Plan, Quarantined, plan_prompts
from ft2ray.pipeline.reporting import write_run_report
from ft2ray.pipeline.run_folder import add_quarantined, add_seconds, exclusive, publish, write_inputs
from ft2ray.pipeline.training import pair_pools, train


def align(config: AlignConfig) -> Path:
    """Run everything that the run folder lacks; returns the path of report.html."""
    # absolute, since workers may sit in another folder
    config = dataclasses.replace(config, run_dir=str(Path(config.run_dir).absolute()))
    with exclusive(config.run_dir):
        say(f"Checking portraits ({config.prompts.portraits}) and speech ({config.prompts.speech})")
        with timed(config, "prompts"):
            plan = plan_prompts(config.prompts)
        for refused in plan.quarantined:
            say(f"  quarantined {Path(refused.path).name} [{refused.reason}]: {refused.message}")
        say(f"  {len(plan.curation)} prompts to curate, {len(plan.evaluation)} kept apart for the evaluation")
        write_inputs(config, plan)
        with ray_cluster(config):
            _align_on_ray(config, plan)
        report = write_run_report(Path(config.run_dir))
    say(f"Done. Open {report}")
    return report


def _align_on_ray(config: AlignConfig, plan: Plan) -> None:
    generator = load_generator(config.generator.weights).fingerprint
    judge = Judge.load(run_judge(config)).fingerprint
    check_critic(config, load_critic(config.critic.weights))

    say(f"Curating: {config.curation.candidates} candidates per prompt, scored by Talking-Critic")
    with timed(config, "curation"):
        _curate(config, plan, generator)
    groups = curated(config, plan.curation, generator)
    pools = pair_pools(config, groups)
    say("  pairs: " + ", ".join(f"{name} {len(pool)}" for name, pool in pools.items()))

    say(f"Training {len(config.tlpo.dimensions)} experts, the dpo_sum baseline and the gate")
    with timed(config, "training"):
        policy = train(config, groups)
    publish(config.run_dir, policy)

    clips = len(plan.evaluation) * len(config.evaluation.seeds) * len(config.evaluation.systems)
    say(f"Evaluating {len(config.evaluation.systems)} systems on held-out prompts: {clips} clips")
    with timed(config, "evaluation"):
        rows = len(plan.evaluation) * len(config.evaluation.seeds)
        for _ in tqdm(evaluate(config, plan.evaluation, generator, judge, policy), total=rows, unit="prompt"):
            pass


def _curate(config: AlignConfig, plan: Plan, generator: str) -> None:
    missing = missing_prompts(config, plan.curation, generator, BASE_POLICY)
    if not missing:
        return
    start_critic(config.critic, config.cluster)
    summaries = curate(config, missing, None)
    for summary in tqdm(
        summaries, total=len(plan.curation), initial=len(plan.curation) - len(missing), unit="group"
    ):
        if summary["quarantine"]:
            add_quarantined(config.run_dir, Quarantined(*json.loads(summary["quarantine"])))
    serve.delete(APP)


def check_critic(config: AlignConfig, critic: Critic) -> None:
    """Scores of two critics do not compare, nor do other dimensions than the critic's."""
    if critic.dimensions != config.tlpo.dimensions:
        raise ValueError(
            f"tlpo.dimensions {list(config.tlpo.dimensions)} are not the critic's {critic.dimensions}"
        )
    others = {group.critic for group in read_groups(config.run_dir)} - {critic.fingerprint}
    if others:
        raise ValueError(
            f"{config.run_dir} holds scores of critic {', '.join(map(str, others))}, now it is "
            f"{critic.fingerprint}; choose a new run_dir"
        )


@contextmanager
def ray_cluster(config: AlignConfig) -> Iterator[None]:
    """Join the cluster of the configuration, or start one on this machine and stop it at the end."""
    # One thread per process: several processes share the cores, and spinning OpenMP pools would fight.
    environment = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # else every checkpoint waits 2 s
    local = config.cluster.address is None
    ray.init(
        address="local" if local else config.cluster.address,
        num_cpus=max(4, os.cpu_count() or 1) if local else None,  # logical: the actors ask for halves
        runtime_env={"env_vars": environment},
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    for name in ("ray.data", "ray.serve", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours count groups, not blocks
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def timed(config: AlignConfig, stage: str) -> Iterator[None]:
    """Adds the stage's wall time to the run's, over all attempts."""
    start = time.monotonic()
    try:
        yield
    finally:
        add_seconds(config.run_dir, stage, time.monotonic() - start)


def say(text: str) -> None:
    print(text, flush=True)
