"""Processes of a run that died: what the run folder keeps of them, and how a person is told.

`deaths.json` holds the last ones: pipeline/deaths.py, which finds them, writes it, `ft2ray status` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ft2ray.storage import exists, join, read_bytes, write_atomically

log = logging.getLogger(__name__)

KEPT = 200
_USED = re.compile(r"was ([\d.]+)GB used / ([\d.]+)GB limit")


@dataclass(frozen=True)
class Death:
    """One process that ended and should not have.

    Attributes:
        pool: which of the run's pools it belonged to, such as "generators".
        node: address of its machine.
        at: when it was noticed, in seconds since the epoch.
        why: out_of_memory where Ray ended it because its node was short of memory, killed where the
            operating system did or it crashed.
        used, limit: memory of the node in GB, where Ray has told it.
    """

    pool: str
    node: str
    at: float
    why: str
    used: float | None = None
    limit: float | None = None

    def __str__(self) -> str:
        if self.why == "out_of_memory":
            numbers = f", {self.used:g} of {self.limit:g} GB were in use" if self.limit is not None else ""
            return f"out of memory on {self.node}{numbers}"
        return f"killed on {self.node}, most likely by the kernel for memory, or crashed"


def reason(exit_type: str, detail: str) -> tuple[str, float | None, float | None]:
    """`why`, `used` and `limit` of a Death, from what Ray says of the end of a worker process."""
    if exit_type != "NODE_OUT_OF_MEMORY":
        return "killed", None, None
    found = _USED.search(detail)
    used, limit = (float(found[1]), float(found[2])) if found else (None, None)
    return "out_of_memory", used, limit


def read_deaths(run_dir: str | Path) -> list[Death]:
    """Read the deaths of the last attempt; none where the file, a mere side figure, is missing or damaged."""
    file = join(run_dir, "deaths.json")
    if not exists(file):
        return []
    try:
        return [Death(**death) for death in json.loads(read_bytes(file))]
    except (ValueError, TypeError, RecursionError):
        log.warning("%s is damaged: it is written anew with the next death", file)
        return []


def write_deaths(run_dir: str | Path, deaths: Sequence[Death]) -> None:
    text = json.dumps([dataclasses.asdict(death) for death in deaths[-KEPT:]], indent=1)
    write_atomically(join(run_dir, "deaths.json"), text.encode())


def advice(pool: str) -> str:
    setting = "resources.pools." + ("critic" if pool == "scorers" else pool)
    return (
        "give the nodes more memory, or let fewer processes share one: a larger "
        f"{setting}.memory or a smaller {setting}.count"
    )


def summary(deaths: Sequence[Death], advice: Callable[[str], str] = advice) -> list[str]:
    """One line for each pool: how often, why and where last, what to change."""
    lines = []
    for pool, count in sorted(Counter(death.pool for death in deaths).items()):
        last = [death for death in deaths if death.pool == pool][-1]
        at = time.strftime("%H:%M:%S", time.localtime(last.at))
        times = "once" if count == 1 else f"{count} times"
        lines.append(f"{pool} died {times}, at {at} last: {last}; {advice(pool)}")
    return lines
