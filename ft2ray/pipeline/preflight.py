"""Whether the cluster, with what its autoscaler may add, can hold all pools at once: asked before the start.

Ray waits without a word for resources that will never come. Here the demands are added up and compared first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ft2ray import resources
from ft2ray.config import AlignConfig
from ft2ray.errors import ConfigurationError
from ft2ray.pipeline.curation import SCORER_CPUS
from ft2ray.pipeline.evaluation import evaluators
from ft2ray.pipeline.memory import SCORER, with_memory

Resources = Mapping[str, float]  # of the three below
Labels = Mapping[str, str]
UNITS = {"CPU": "CPU", "GPU": "GPU", "memory": "GB of memory"}


@dataclass(frozen=True)
class Node:
    """What a node offers, and the labels by which pools keep to it."""

    offers: Resources
    labels: Labels = field(default_factory=dict)

    def carries(self, labels: Labels) -> bool:
        return labels.items() <= self.labels.items()

    def works_for(self, each: Resources) -> bool:
        """False for a head without CPUs, whose memory is of no use to actors that need one."""
        return bool(self.offers.get("CPU")) or not each.get("CPU")

    def holds(self, each: Resources) -> int:
        """How many actors that need `each` find room on this node if nobody else is there."""
        shares = [self.offers.get(name, 0.0) / amount for name, amount in each.items() if amount]
        return int(min(shares) + 1e-6) if shares else sys.maxsize


@dataclass(frozen=True)
class Demand:
    """`count` actors that each need `each` on one node, on one with the labels `on`."""

    name: str
    count: int
    each: Resources
    on: Labels = field(default_factory=dict)

    def total(self, resource: str) -> float:
        return self.count * self.each.get(resource, 0.0)

    def share(self, resource: str) -> str:
        """This pool's part of the sum of one resource."""
        only = amounts({resource: self.each[resource]})
        return f"{self.name} {self.count} x {only} = {self.total(resource):g}"

    def __str__(self) -> str:
        return f"{self.name} {self.count} x {amounts(self.each)}"


def amounts(each: Resources) -> str:
    return " and ".join(f"{amount:g} {UNITS[name]}" for name, amount in each.items() if amount)


def stages(config: AlignConfig) -> list[list[Demand]]:
    """The pools that have to run at the same time, for each stage."""
    config = with_memory(config)
    pools = config.resources.pools

    def pool(name: str, of: resources.Pool) -> Demand:
        assert of.memory is not None, "with_memory has filled it in"
        return Demand(name, of.count, {"CPU": of.cpus, "GPU": of.gpus, "memory": of.memory}, of.selector)

    generators = pool("generators", pools.generators)
    scorer = {"CPU": SCORER_CPUS, "memory": SCORER}
    curating = [
        generators,
        Demand("scorers", pools.critic.count, scorer, generators.on),
        pool("critic replicas", pools.critic),
    ]
    workers = [pool("train workers", pools.training)]
    evaluating = [pool("evaluators", evaluators(config))]
    in_turns = config.schedule.max_staleness == 0
    return [*([curating, workers] if in_turns else [curating + workers]), evaluating]


def refusals(pools: Sequence[Demand], nodes: Sequence[Node]) -> list[str]:
    """Why these pools would wait for ever on `nodes`: sentences with the sum; none if they fit."""
    labels: list[Labels] = []
    for pool in pools:
        if pool.on and pool.on not in labels:
            labels.append(pool.on)
    short = [sentence for on in [{}, *labels] for sentence in _short_of(on, pools, nodes)]
    return short + list(_without_room(pools, nodes, report_crowded=not short))


def _short_of(on: Labels, pools: Sequence[Demand], nodes: Sequence[Node]) -> Iterable[str]:
    """Everybody shares the whole cluster; the nodes of a label, those who keep to it (and maybe others)."""
    bound = [pool for pool in pools if on.items() <= pool.on.items()]
    there = [node for node in nodes if node.carries(on) and any(node.works_for(pool.each) for pool in bound)]
    who = f"the nodes with {written(on)} offer" if on else "the cluster offers"
    for resource, unit in UNITS.items():
        total = sum(pool.total(resource) for pool in bound)
        offered = sum(node.offers.get(resource, 0.0) for node in there)
        if total > offered + 1e-6:
            parts = " + ".join(pool.share(resource) for pool in bound if pool.total(resource))
            yield f"{parts}: {total:g} {unit} in all, {who} {offered:g}"


def _without_room(pools: Sequence[Demand], nodes: Sequence[Node], report_crowded: bool) -> Iterable[str]:
    """Pools one of whose actors fits no node, or not all of whose actors fit the nodes one by one."""
    for pool in pools:
        there = [node for node in nodes if node.carries(pool.on)]
        room = sum(node.holds(pool.each) for node in there)
        where = f" with {written(pool.on)}" if pool.on else ""
        if room == 0:
            largest = (
                f", the largest offers {amounts(max((n.offers for n in there), key=_size))}" if there else ""
            )
            yield f"no node{where} is large enough for one of {pool}{largest}"
        elif room < pool.count and report_crowded:
            yield f"the nodes{where} have room for {room} of {pool}: what each has left over is too small"


def _size(offers: Resources) -> tuple[float, ...]:
    return tuple(offers.get(name, 0.0) for name in ("GPU", "memory", "CPU"))


def written(labels: Labels) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())


def node_groups(may_add: Sequence[str]) -> list[tuple[int, Node]]:
    """Read `resources.may_add`: "4 x CPU=16 GPU=8 memory=200 pool=training" is up to four such nodes."""
    groups = []
    for text in may_add:
        found = resources.NODE_GROUP.fullmatch(text)
        assert found is not None, "the setting has been checked"
        offers = (item.split("=") for item in found[2].split())
        labels = dict(item.split("=") for item in found[3].split())
        groups.append((int(found[1]), Node({name: float(amount) for name, amount in offers}, labels)))
    return groups


def check_nodes(config: AlignConfig, nodes: Sequence[Node], remedy: str) -> None:
    """Compare every stage with `nodes`.

    Raises:
        ConfigurationError: with the sums and `remedy`, where a stage would wait for ever.
    """
    for pools in stages(config):
        if found := refusals(pools, nodes):
            raise ConfigurationError(f"cluster: {'; '.join(found)}. {remedy}")


def check_resources(config: AlignConfig) -> None:
    """Compare every stage with the connected cluster and what `resources.may_add` says may come.

    Ray does not tell whether an autoscaler may add nodes, nor which.

    Raises:
        ConfigurationError: with the sums, where a stage can never run.
    """
    import ray

    nodes = [ray_node(node["Resources"], node["Labels"]) for node in ray.nodes() if node["Alive"]]
    nodes += [node for count, node in node_groups(config.resources.may_add) for _ in range(count)]
    remedy = "Lower resources.pools.*, or let the cluster grow and say so in resources.may_add"
    check_nodes(config, nodes, remedy)


def ray_node(offers: Resources, labels: Labels) -> Node:
    """A node as Ray lists it, whose memory is in bytes."""
    known = {name: offers[name] / (1e9 if name == "memory" else 1) for name in UNITS if name in offers}
    return Node({name: round(amount, 3) for name, amount in known.items()}, labels)
