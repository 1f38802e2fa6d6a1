"""Several runs side by side, from their reports alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft2ray.errors import DataError
from ft2ray.storage import base_name, exists, join, plain_json
from ft2ray.systems import BASE

BESIDE = ("joint", "displacement")  # what a report says of a system beside its dimensions


@dataclass(frozen=True)
class Gain:
    """What one system of one run changed in one dimension against its own base."""

    run: str
    system: str
    dimension: str
    mean: float | None
    delta: float | None
    interval: tuple[float, float] | None  # 95 %


def gains(runs: Sequence[str]) -> list[Gain]:
    """Every system but the base of every run, in the order given.

    Raises DataError where a run has no report.
    """
    found = []
    for run in runs:
        file = join(run, "report.json")
        if not exists(file):
            raise DataError(f"{run} holds no report.json yet; run `ft2ray align` to its end first")
        report: dict[str, Any] = plain_json(file, "a report", f"`ft2ray report {run}` writes it again")
        for system, figures in report["systems"].items():
            for dimension, table in figures.items():
                if system == BASE or dimension in BESIDE:
                    continue
                bounds = table["delta_ci95"]
                interval = None if bounds is None else (bounds[0], bounds[1])
                found.append(
                    Gain(base_name(run), system, dimension, table["mean"], table["delta_vs_base"], interval)
                )
    return found
