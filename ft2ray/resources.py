"""Where a run is computed and what its processes may use. Nothing here changes what is learnt."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from ft2ray.settings import Settings, Text
from ft2ray.tlpo.settings import ComputeSettings

NODE_GROUP = re.compile(
    r"(\d+) x (CPU=[\d.]+(?: GPU=[\d.]+)? memory=[\d.]+)((?: (?!(?:CPU|GPU|memory)=)[^\s=]+=[^\s=]+)*)"
)


class Pool(Settings):
    """Equal processes, and what Ray is asked for each of them."""

    count: int = Field(1, ge=1)
    cpus: float = Field(0.5, ge=0)
    gpus: float = Field(0.0, ge=0)
    memory: float | None = Field(None, gt=0)  # GB of host memory; None: estimated from the weights
    on: str | None = None  # the label of the nodes that the pool keeps to, "pool=generation"; None: any node

    @field_validator("gpus")
    @classmethod
    def _whole_cards(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"must be below 1, a share of one card, or whole cards, got {gpus:g}")
        return gpus

    @field_validator("on")
    @classmethod
    def _label(cls, on: str | None) -> str | None:
        if on is not None and not all(on.partition("=")):
            raise ValueError(f'must be of the form name=value, such as "pool=generation", got {on!r}')
        return on

    @property
    def selector(self) -> dict[str, str]:
        """`on` as Ray's label selectors take it."""
        name, _, value = (self.on or "").partition("=")
        return {name: value} if name else {}

    def options(self) -> dict[str, Any]:
        """What Ray reserves for one process of the pool: options of a task or an actor."""
        asked = {"num_cpus": self.cpus, "num_gpus": self.gpus, "label_selector": self.selector}
        return asked if self.memory is None else asked | {"memory": self.memory * 1e9}


class Pools(Settings):
    generators: Pool = Pool(count=2)  # actors that sample and decode
    critic: Pool = Pool(cpus=0.2)  # replicas
    training: Pool = Pool(count=2)  # workers


class ResourceSettings(Settings):
    # None starts Ray on this machine, "auto" joins the running cluster; else host:port or ray://host:port.
    address: Text | None = None
    # What the autoscaler may add to the nodes that run already: "4 x CPU=16 GPU=8 memory=200
    # pool=training" is up to four of a kind, with their GB of memory and their labels.
    may_add: tuple[str, ...] = ()
    pools: Pools = Pools()
    compute: ComputeSettings = ComputeSettings()  # of the training
    keep_videos: bool = False  # also store an mp4 of every candidate

    @field_validator("address")
    @classmethod
    def _names_a_cluster(cls, address: str | None) -> str | None:
        if address is not None and re.fullmatch(r"auto|(ray://)?[^/\s]+:\d+", address) is None:
            raise ValueError(f"{address!r} is neither auto nor host:port nor ray://host:port")
        return address

    @field_validator("may_add")
    @classmethod
    def _node_groups(cls, may_add: tuple[str, ...]) -> tuple[str, ...]:
        for text in may_add:
            if NODE_GROUP.fullmatch(text) is None:
                raise ValueError(
                    f"{text!r} is not of the form '4 x CPU=16 GPU=8 memory=200 pool=a': the most nodes of a "
                    "group, what one of them offers (memory in GB), then its labels"
                )
        return may_add
