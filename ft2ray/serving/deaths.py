"""Replicas that died are named in the log, in a metric and at the health page of their application.

Every front looks for those of its whole application, so each counts all of them: read the metric's maximum.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import Field
from ray import serve

from ft2ray.observe.deaths import Death, summary
from ft2ray.observe.metrics import metric
from ft2ray.pipeline.deaths import REPLICA, DeathWatch
from ft2ray.serving.refusal import Refusal

EVERY_SECONDS = 10.0
HEALTH_SECONDS = 5.0
DEATHS: Any = Field(
    description="replicas that died: how often, where and why last, what to change",
    examples=[
        ["TalkingCritic died once, at 10:31:02 last: out of memory on 192.0.2.2, 1.4 of 1.5 GB in use"]
    ],
)
T = TypeVar("T")


class ReplicaDeaths:
    """Looks for replicas that die as long as this replica lives.

    Args:
        *deployments: names, of the application that this replica belongs to.
    """

    def __init__(self, *deployments: str) -> None:
        app = serve.get_replica_context().app_name
        self._deaths: list[Death] = []
        self._watch = DeathWatch({f"{REPLICA}{app}:{name}": name for name in deployments}, self._note)
        threading.Thread(target=self._look, daemon=True).start()

    def lines(self) -> list[str]:
        """One for each deployment: how often, why and where last, what to change."""
        return summary(self._deaths, advice)

    def _look(self) -> None:
        while True:
            self._watch.look()
            time.sleep(EVERY_SECONDS)

    def _note(self, deaths: list[Death]) -> None:
        self._deaths += deaths
        for death in deaths:
            metric("ft2ray_serving_deaths_total").inc(tags={"of": death.pool, "why": death.why})


def advice(deployment: str) -> str:
    return f"give the nodes more memory, or {deployment} a larger `memory` in its ray_actor_options"


async def soon(answer: Awaitable[T], deaths: Callable[[], list[str]]) -> T:
    """Wait for what a replica says to the health page.

    Args:
        answer: of the replica.
        deaths: a line for each deployment that lost replicas.

    Returns:
        The answer.

    Raises:
        Refusal: where none answers in time, with the deaths that may be why.
    """
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            return await answer
    except TimeoutError:
        died = "".join(f" {line}." for line in deaths())
        raise Refusal(
            503, "busy", f"all replicas are at work, or none is ready; ask again later.{died}", 5.0
        ) from None
