"""Training on the groups that a run folder holds, as a process: `python -m tests.pipeline.train_alone a.b=c`.

Prints the folder of the policy that it published.
"""

import sys

from ft2ray.config import load_config
from ft2ray.parts import load_critic, load_generator
from ft2ray.pipeline.align import ray_cluster
from ft2ray.pipeline.prompts import plan_prompts
from ft2ray.pipeline.run_folder import write_fingerprints
from ft2ray.pipeline.schedule import slots, training_key
from ft2ray.pipeline.training import train


def main(settings: list[str]) -> None:
    config = load_config(None, settings)
    prompts = plan_prompts(config.prompts).curation
    made_by = (
        load_generator(config.generator.weights).fingerprint,
        load_critic(config.critic.weights).fingerprint,
    )
    write_fingerprints(config.run_dir, *made_by)
    wanted = slots(config, *made_by, prompts)
    with ray_cluster(config):
        print(train(config, training_key(config, *made_by, prompts), wanted, config.schedule.rounds - 1))


if __name__ == "__main__":
    main(sys.argv[1:])
