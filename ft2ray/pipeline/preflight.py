"""Whether the cluster, with what its autoscaler may add, can hold all pools at once: asked before the start.

Ray waits without a word for resources that will never come. Here the demands are added up and compared first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ft2ray.config import AlignConfig
from ft2ray.pipeline.curation import SCORER_CPUS

Resources = Mapping[str, float]  # CPU and GPU
_GROUP = re.compile(r"(\d+) x ((?:CPU|GPU)=[\d.]+(?: (?:CPU|GPU)=[\d.]+)*)")


@dataclass(frozen=True)
class Pool:
    """`count` actors that each need `each` on one node."""

    name: str
    count: int
    each: Resources

    def total(self, resource: str) -> float:
        return self.count * self.each.get(resource, 0.0)

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.each.items() if amount)
        return f"{self.name} {self.count} x {each}"


def stages(config: AlignConfig) -> list[list[Pool]]:
    """The pools that have to run at the same time, for each stage."""
    c = config.cluster
    generators = Pool("generators", c.generators, {"CPU": c.generator_cpus, "GPU": c.generator_gpus})
    critic = Pool("critic replicas", c.critic_replicas, {"CPU": c.critic_cpus, "GPU": c.critic_gpus})
    scorers = Pool("scorers", c.critic_replicas, {"CPU": SCORER_CPUS})
    workers = Pool("train workers", config.tlpo.workers, {"CPU": c.train_cpus, "GPU": c.train_gpus})
    curation, training = [generators, scorers, critic], [workers]
    return [curation, training] if config.schedule.max_staleness == 0 else [curation + training]


def refusals(pools: Sequence[Pool], nodes: Sequence[Resources], most: Resources) -> list[str]:
    """Why these pools would wait for ever: sentences with the sum; none if they fit.

    Args:
        nodes: what each kind of node offers.
        most: the most that the whole cluster may come to offer.
    """
    found = []
    for resource in ("CPU", "GPU"):
        total = sum(pool.total(resource) for pool in pools)
        if total > most.get(resource, 0.0) + 1e-6:
            parts = " + ".join(f"{pool} = {pool.total(resource):g}" for pool in pools if pool.total(resource))
            found.append(
                f"{parts}: {total:g} {resource} in all, the cluster offers {most.get(resource, 0.0):g}"
            )
    for pool in pools:
        if not any(
            all(amount <= node.get(name, 0.0) for name, amount in pool.each.items()) for node in nodes
        ):
            found.append(f"no node is large enough for one of {pool}")
    return found


def node_groups(may_add: Sequence[str]) -> list[tuple[int, Resources]]:
    """Read `cluster.may_add`: "4 x CPU=16 GPU=8" is up to four nodes of that kind."""
    groups: list[tuple[int, Resources]] = []
    for text in may_add:
        found = _GROUP.fullmatch(text)
        if found is None:
            raise ValueError(
                f"configuration: cluster.may_add {text!r} is not of the form '4 x CPU=16 GPU=8': "
                "the most nodes of a group, then what one of them offers"
            )
        amounts = (item.split("=") for item in found[2].split())
        groups.append((int(found[1]), {name: float(amount) for name, amount in amounts}))
    return groups


def check_resources(config: AlignConfig) -> None:
    """Raises ValueError, with the sum, if some stage can not ever run on the connected cluster.

    Ray does not tell what an autoscaler may add: `cluster.may_add` does. Where an autoscaler runs and that
    setting is empty nothing can be refused.
    """
    import ray
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.experimental.internal_kv import _internal_kv_get

    groups = node_groups(config.cluster.may_add)
    if not groups and _internal_kv_get(DEBUG_AUTOSCALING_STATUS):
        return
    alive: list[Resources] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    added = [node for count, node in groups for _ in range(count)]
    most = {name: sum(node.get(name, 0.0) for node in [*alive, *added]) for name in ("CPU", "GPU")}
    for pools in stages(config):
        if found := refusals(pools, [*alive, *added], most):
            raise ValueError(
                f"cluster: {'; '.join(found)}. Lower cluster.* or tlpo.workers, or let the cluster grow "
                "(and say so in cluster.may_add)"
            )
