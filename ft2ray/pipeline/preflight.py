"""Whether the cluster, with what its autoscaler may add, can hold all pools at once: asked before the start.

Ray waits without a word for resources that will never come. Here the demands are added up and compared first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ft2ray import resources
from ft2ray.config import AlignConfig
from ft2ray.errors import ConfigurationError
from ft2ray.pipeline.curation import SCORER_CPUS

Resources = Mapping[str, float]  # CPU and GPU
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """What a node offers, and the labels by which pools keep to it."""

    offers: Resources
    labels: Labels = field(default_factory=dict)

    def carries(self, labels: Labels) -> bool:
        return labels.items() <= self.labels.items()

    def holds(self, each: Resources) -> int:
        """How many actors that need `each` find room on this node if nobody else is there."""
        shares = [self.offers.get(name, 0.0) / amount for name, amount in each.items() if amount]
        return int(min(shares) + 1e-6) if shares else sys.maxsize


@dataclass(frozen=True)
class Pool:
    """`count` actors that each need `each` on one node, on one with the labels `on`."""

    name: str
    count: int
    each: Resources
    on: Labels = field(default_factory=dict)

    def total(self, resource: str) -> float:
        return self.count * self.each.get(resource, 0.0)

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.each.items() if amount)
        return f"{self.name} {self.count} x {each}"


def stages(config: AlignConfig) -> list[list[Pool]]:
    """The pools that have to run at the same time, for each stage."""
    pools = config.resources.pools

    def pool(name: str, of: resources.Pool) -> Pool:
        return Pool(name, of.count, {"CPU": of.cpus, "GPU": of.gpus}, of.selector)

    generators = pool("generators", pools.generators)
    curating = [
        generators,
        Pool("scorers", pools.critic.count, {"CPU": SCORER_CPUS}, generators.on),
        pool("critic replicas", pools.critic),
    ]
    workers = [pool("train workers", pools.training)]
    return [curating, workers] if config.schedule.max_staleness == 0 else [curating + workers]


def refusals(pools: Sequence[Pool], nodes: Sequence[Node]) -> list[str]:
    """Why these pools would wait for ever on `nodes`: sentences with the sum; none if they fit."""
    found = []
    places: list[Labels] = [{}]
    places += [
        pool.on for n, pool in enumerate(pools) if pool.on and pool.on not in [p.on for p in pools[:n]]
    ]
    for place in places:
        # Everybody shares the whole cluster; the nodes of a label, those who keep to it (and maybe others).
        bound = [pool for pool in pools if place.items() <= pool.on.items()]
        there = [node for node in nodes if node.carries(place)]
        for resource in ("CPU", "GPU"):
            total = sum(pool.total(resource) for pool in bound)
            offered = sum(node.offers.get(resource, 0.0) for node in there)
            if total > offered + 1e-6:
                parts = " + ".join(
                    f"{pool} = {pool.total(resource):g}" for pool in bound if pool.total(resource)
                )
                who = f"the nodes with {written(place)} offer" if place else "the cluster offers"
                found.append(f"{parts}: {total:g} {resource} in all, {who} {offered:g}")
    for pool in pools:
        room = sum(node.holds(pool.each) for node in nodes if node.carries(pool.on))
        where = f" with {written(pool.on)}" if pool.on else ""
        if room == 0:
            found.append(f"no node{where} is large enough for one of {pool}")
        elif room < pool.count and not found:
            found.append(
                f"the nodes{where} have room for {room} of {pool}: what each has left over is too small"
            )
    return found


def written(labels: Labels) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())


def node_groups(may_add: Sequence[str]) -> list[tuple[int, Node]]:
    """Read `resources.may_add`: "4 x CPU=16 GPU=8 pool=training" is up to four nodes of that kind."""
    groups = []
    for text in may_add:
        found = resources.NODE_GROUP.fullmatch(text)
        assert found is not None, "the setting has been checked"
        amounts = (item.split("=") for item in found[2].split())
        labels = dict(item.split("=") for item in found[3].split())
        groups.append((int(found[1]), Node({name: float(amount) for name, amount in amounts}, labels)))
    return groups


def check_resources(config: AlignConfig) -> None:
    """Raises ValueError, with the sum, if some stage can not ever run on the connected cluster.

    Ray does not tell whether an autoscaler may add nodes, nor which: `resources.may_add` does.
    """
    import ray

    nodes = [Node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]
    nodes += [node for count, node in node_groups(config.resources.may_add) for _ in range(count)]
    for pools in stages(config):
        if found := refusals(pools, nodes):
            raise ConfigurationError(
                f"cluster: {'; '.join(found)}. Lower resources.pools.*, or let the cluster grow and say so "
                "in resources.may_add"
            )
