"""What all benches share: ways timed in turns, and figures with their opponent, target and bound.

A bench is a module with `measure(repetitions) -> list[Figure]`. Every repetition runs all ways once, one
after the other, so that whatever else the machine does hits each alike; ratios are taken within a repetition,
and the median and the range over the repetitions are shown.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import multiprocessing
import os
import pstats
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPETITIONS = 5


@dataclass(frozen=True)
class Figure:
    """One line of the table: `values` (one for each repetition) of `name`, measured against `opponent`.

    `target`: ">= 2.2", "<= 1.15" or nothing; `bound`: the best that was possible in this very run;
    `why`: a profile, for a figure that misses its target.
    """

    name: str
    opponent: str
    values: Sequence[float]
    unit: str = ""
    target: str = ""
    bound: float | None = None
    why: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None without one."""
        if not self.target:
            return None
        comparison, number = self.target.split()
        return self.median >= float(number) if comparison == ">=" else self.median <= float(number)


def in_turns(ways: Mapping[str, Callable[[], Any]], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every way in every repetition. The first way of a repetition is another one each time."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for repetition in range(repetitions):
        shift = repetition % len(order)
        for name in order[shift:] + order[:shift]:
            times[name].append(seconds(ways[name]))
    return times


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_own_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a new process: nothing that went before is in its memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def memory(of: str) -> float:
    """Bytes that this process holds ("VmRSS") or held at most ("VmHWM"), as Linux counts them."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{of}:")[1].split()[0])


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """above / below, repetition by repetition."""
    return [a / b for a, b in zip(above, below, strict=True)]


def profiled(call: Callable[[], Any], lines: int = 8) -> str:
    """Where the time of one call goes: the functions with the most time of their own."""
    profile = cProfile.Profile()
    profile.runcall(call)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(lines)
    return "\n".join(line for line in text.getvalue().splitlines() if line.strip())


def table(figures: Mapping[str, Sequence[Figure]]) -> str:
    """Markdown, one line for each figure of each bench."""
    rows = [
        "| bench | figure | median (range) | against | target | bound |",
        "|---|---|---|---|---|---|",
    ]
    for bench, found in figures.items():
        for figure in found:
            low, high = (_number(value) for value in (min(figure.values), max(figure.values)))
            value = f"{_number(figure.median)}{figure.unit} ({low} to {high})"
            target = figure.target + {None: "", True: ", met", False: ", **missed**"}[figure.met]
            bound = "" if figure.bound is None else _number(figure.bound) + figure.unit
            rows.append(f"| {bench} | {figure.name} | {value} | {figure.opponent} | {target} | {bound} |")
    return "\n".join(rows)


def profiles(figures: Mapping[str, Sequence[Figure]]) -> str:
    """The profiles of the figures that miss their target."""
    missed = [(bench, f) for bench, found in figures.items() for f in found if f.met is False and f.why]
    return "\n\n".join(f"Why {bench}, {figure.name}:\n{figure.why}" for bench, figure in missed)


def write(path: Path, figures: Sequence[Figure]) -> None:
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


def read(path: Path) -> list[Figure]:
    return [Figure(**figure) for figure in json.loads(path.read_text())]


def main(name: str, measure: Callable[[int], list[Figure]]) -> None:
    """Command line of one bench."""
    parser = argparse.ArgumentParser(description=f"The bench {name}; bench/run.py runs all of them.")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    # Ray's processes find fakes.py by this.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
    )
    figures = measure(arguments.repetitions)
    if arguments.json:
        write(arguments.json, figures)
    print(table({name: figures}))
    print(profiles({name: figures}))


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
