"""Stages of `align` without the others, as a process: `python -m tests.pipeline.stage_alone STAGE a.b=c ...`.

curate      fills all specs; prints the ids of the groups that the store must hold at the end, as JSON
train       on the groups that the run folder holds; prints the folder of the policy that it published
turns       one after the other; prints the same
together    both at the same time, with schedule.max_staleness=1; prints the same
"""

import json
import sys
from collections.abc import Sequence

from ft2ray.config import load_config
from ft2ray.errors import RunEnded
from ft2ray.loaders import load_critic, load_generator
from ft2ray.pipeline.align import critic_running, run_together, take_turns
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.pipeline.curation import curate
from ft2ray.pipeline.failures import as_user_error
from ft2ray.pipeline.memory import with_memory
from ft2ray.pipeline.preflight import check_resources
from ft2ray.pipeline.training import new_training, train
from ft2ray.rounds.group_loader import GroupLoader
from ft2ray.rounds.prompts import plan_prompts
from ft2ray.rounds.scores import pairs_by_group
from ft2ray.run import Run


def begun(given: Sequence[str]) -> Run:
    """What is to be done, as the run folder states it from now on."""
    config = load_config(None, given)
    run = Run(config)
    run.begin(plan_prompts(config.prompts, config.generator.size))
    run.identify(
        load_generator(config.generator.weights, allow_code=True).fingerprint,
        load_critic(config.critic.weights, allow_code=True).fingerprint,
    )
    return run


def curate_all(run: Run) -> str:
    missing = run.missing(run.specs)
    with critic_running(run.config, missing):
        for _ in curate(run, missing):
            pass
    return json.dumps([spec.group_id for spec in run.specs])


def train_all(run: Run) -> str:
    return train(run, run.config.schedule.rounds - 1)


def replayed(given: Sequence[str]) -> tuple[str, list]:
    """What one process without Ray learns that sees the same groups at the same steps: policy and curves."""
    run = begun(given)
    tlpo = new_training(run.config)
    loader = GroupLoader(run, lambda ids: pairs_by_group(run, ids))
    tlpo.train(tlpo.last_step, lambda _: None, loader)
    return tlpo.policy().fingerprint, json.loads(json.dumps(tlpo.curves))


def main(stage: str, *given: str) -> None:
    run = begun(given)
    run.config = with_memory(run.config)
    stages = {"curate": curate_all, "train": train_all, "turns": take_turns, "together": run_together}
    with as_user_error(run.url), ray_cluster(run.config.resources.address):
        check_resources(run.config)
        print(stages[stage](run))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RunEnded as ended:
        sys.exit(f"ft2ray: {ended}")
