"""Curation without what follows it, as a process: `python -m tests.pipeline.curate_alone a.b=c ...`.

Prints the ids of the groups that the store must hold at the end, as JSON.
"""

import json
import sys

from ft2ray.config import load_config
from ft2ray.parts import load_critic, load_generator
from ft2ray.pipeline.align import critic_running, ray_cluster
from ft2ray.pipeline.curation import curate, missing_slots
from ft2ray.pipeline.prompts import plan_prompts
from ft2ray.pipeline.run_folder import write_fingerprints
from ft2ray.pipeline.schedule import slots, training_key


def main(settings: list[str]) -> None:
    config = load_config(None, settings)
    prompts = plan_prompts(config.prompts).curation
    made_by = (
        load_generator(config.generator.weights).fingerprint,
        load_critic(config.critic.weights).fingerprint,
    )
    write_fingerprints(config.run_dir, *made_by)
    wanted = slots(config, *made_by, prompts)
    missing = missing_slots(config.run_dir, wanted)
    with ray_cluster(config), critic_running(config, missing):
        for _ in curate(config, training_key(config, *made_by, prompts), missing):
            pass
    print(json.dumps([slot.group_id for slot in wanted]))


if __name__ == "__main__":
    main(sys.argv[1:])
