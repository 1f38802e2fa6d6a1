"""How much host memory a process of each pool needs, in GB: what Ray is asked to keep for it.

Memory of a GPU is not counted here: Ray gives whole cards, and `ft2ray plan` says what fits one. A setting
`resources.pools.X.memory` takes the place of any of these figures.
"""

from __future__ import annotations

from ft2ray.config import AlignConfig
from ft2ray.loaders import PACKAGED, is_code
from ft2ray.storage import join, list_files, size

# Memory of their own (without what processes share) that the embedded models held at most at the default
# settings, with a quarter more, from `python studies/pool_memory.py` (CPU, torch 2.13, Ray 2.60). Those
# of the generators held 862.6 MiB in a demo, as Ray Data measures it, which asks for a quarter more: 1.13 GB.
EMBEDDED = {"generators": 1.15, "critic": 0.75, "training": 0.8}
JUDGE_GB = 0.35  # beside the generator, of a process that evaluates
SCORER = 0.5  # waits for the critic and writes shards
PROCESS = 0.7  # has imported torch, Ray and the media libraries, and holds a clip


def with_memory(config: AlignConfig) -> AlignConfig:
    """Return the configuration in which every pool says how much memory each of its processes needs."""
    pools = config.resources.pools
    weights = {
        "generators": config.generator.weights,
        "critic": config.critic.weights,
        "training": config.generator.weights,
    }
    told = {
        name: getattr(pools, name).replaced(memory=needed(name, weights[name]))
        for name in weights
        if getattr(pools, name).memory is None
    }
    return config.replaced(resources=config.resources.replaced(pools=pools.replaced(**told)))


def needed(pool: str, weights: str) -> float:
    """GB for a process of `pool` that loads `weights`.

    Weights pass through the host's memory on their way to a card, or stay in it. A training without a card
    holds about as much again: gradients and moments of the adapters, and the blocks' inputs.
    """
    if weights in PACKAGED:
        return EMBEDDED[pool]
    gigabytes = weights_gigabytes(weights)
    return round(PROCESS + gigabytes * (2 if pool == "training" else 1), 2)


def weights_gigabytes(weights: str) -> float:
    """Size of the safetensors files below `weights`; 0 for a class of yours and a name on the hub."""
    if is_code(weights):
        return 0.0
    return (
        sum(size(join(weights, name)) for name in list_files(weights, ".safetensors", recursive=True)) / 1e9
    )
