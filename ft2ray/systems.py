"""The systems that a policy can be run as: what of it is added to the base, and with which weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

BASE, UNIFORM, DPO_SUM, TLPO = "base", "uniform", "dpo_sum", "tlpo"
SUM = "sum"  # the adapter and the pool of pairs of the summed score


@dataclass(frozen=True)
class System:
    """One way to run a policy.

    Attributes:
        name: what clips, rows and files are called by.
        adapters: what is added to the base.
        weights: how: in full, equal shares of all, or by the gate.
        title: a few words for people.
    """

    name: str
    adapters: tuple[str, ...]
    weights: Literal["full", "equal", "gate"]
    title: str

    @property
    def fused(self) -> bool:
        """Whether dimensions can be weighted by the user."""
        return self.weights != "full"


def systems_of(
    dimensions: Sequence[str],
    adapters: Collection[str],
    gate: bool,
    titles: Mapping[str, str] | None = None,
) -> dict[str, System]:
    """The systems, by name, that these adapters (dimensions and SUM) make with or without a gate."""
    titles = titles or {}
    trained = [name for name in dimensions if name in adapters]
    found = [System(BASE, (), "full", "the generator before alignment")]
    found += [
        System(f"expert_{name}", (name,), "full", f"{titles.get(name, name)} expert alone")
        for name in trained
    ]
    if len(trained) == len(dimensions):
        found.append(System(UNIFORM, tuple(dimensions), "equal", "all experts in equal shares"))
    if SUM in adapters:
        found.append(System(DPO_SUM, (SUM,), "full", "one expert, plain DPO on the summed score"))
    if len(trained) == len(dimensions) and gate:
        found.append(System(TLPO, tuple(dimensions), "gate", "the experts weighed by the gate"))
    return {system.name: system for system in found}
