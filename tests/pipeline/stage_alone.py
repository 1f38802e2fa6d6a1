"""Stages of `align` without the others, as a process: `python -m tests.pipeline.stage_alone STAGE a.b=c ...`.

curate      fills all slots; prints the ids of the groups that the store must hold at the end, as JSON
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
from ft2ray.pipeline.align import Work, critic_running, run_together, take_turns
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.pipeline.curation import curate, missing_slots
from ft2ray.pipeline.endings import in_one_sentence
from ft2ray.pipeline.preflight import check_resources
from ft2ray.pipeline.training import new_training, train
from ft2ray.rounds.intake import Intake
from ft2ray.rounds.prompts import plan_prompts
from ft2ray.rounds.schedule import slots, training_key
from ft2ray.rounds.scores import pairs_by_group
from ft2ray.run import write_fingerprints, write_inputs


def begun(given: Sequence[str]) -> tuple[Work, str]:
    """What is to be done, as the run folder states it from now on, and the fingerprint of the critic."""
    config = load_config(None, given)
    plan = plan_prompts(config.prompts, config.generator.size)
    generator = load_generator(config.generator.weights).fingerprint
    critic = load_critic(config.critic.weights).fingerprint
    write_inputs(config, plan)
    write_fingerprints(config.run_dir, generator, critic)
    key = training_key(config, generator, critic, plan.curation)
    return Work(config, key, slots(config, generator, critic, plan.curation)), critic


def curate_all(work: Work) -> str:
    missing = missing_slots(work.config.run_dir, work.slots)
    with critic_running(work.config, missing):
        for _ in curate(work.config, work.key, missing):
            pass
    return json.dumps([slot.group_id for slot in work.slots])


def train_all(work: Work) -> str:
    return train(work.config, work.key, work.slots, work.config.schedule.rounds - 1)


def replayed(given: Sequence[str]) -> tuple[str, list]:
    """What one process without Ray learns that sees the same groups at the same steps: policy and curves."""
    work, critic = begun(given)
    run = new_training(work.config)
    intake = Intake(
        work.config, work.key, work.slots, lambda ids: pairs_by_group(work.config, ids, critic), rank=0
    )
    run.train(run.last_step, lambda run: None, intake)
    return run.policy().fingerprint, json.loads(json.dumps(run.curves))


def main(stage: str, *given: str) -> None:
    work, _ = begun(given)
    stages = {"curate": curate_all, "train": train_all, "turns": take_turns, "together": run_together}
    with in_one_sentence(work.config.run_dir), ray_cluster(work.config.resources.address):
        check_resources(work.config)
        print(stages[stage](work))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RunEnded as ended:
        sys.exit(f"ft2ray: {ended}")
