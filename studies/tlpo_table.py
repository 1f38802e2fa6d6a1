"""Table of the study: python studies/tlpo_table.py ROWS [--out studies/results/tlpo.json].

ROWS: rows.jsonl of studies/tlpo.py. Differences to the base are paired by prompt, averaged over noises and
training seeds; intervals are t-intervals over prompts, refused below six of them. With one training seed they
do not hold how much a training varies.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

DIMENSIONS = ("mn", "ls", "vq")
LEAST_PROMPTS = 6
REFERENCES = ("curated",)


def by_prompt(rows: list[dict[str, Any]], key: str) -> dict[str, dict[str, float]]:
    """System -> prompt -> mean of `key` over noises and training seeds."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["system"]][row["prompt"]].append(row[key])
    return {name: {p: float(np.mean(v)) for p, v in prompts.items()} for name, prompts in found.items()}


def interval(values: np.ndarray) -> dict[str, float | None]:
    """Mean and its 95 % t-interval over prompts; None where there are too few."""
    if len(values) < LEAST_PROMPTS:
        return {"mean": float(values.mean()), "low": None, "high": None}
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {
        "mean": float(values.mean()),
        "low": float(values.mean() - half),
        "high": float(values.mean() + half),
    }


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`systems` and `references`: value, difference to the base by dimension, displacement, joint rates."""
    figures = {key: by_prompt(rows, key) for key in (*DIMENSIONS, "displacement")}
    prompts = sorted(figures["mn"]["base"])
    spread = {k: float(np.std([row[k] for row in rows if row["system"] == "base"])) for k in DIMENSIONS}
    out: dict[str, Any] = {"prompts": len(prompts), "spread_of_base": spread, "systems": {}, "references": {}}
    for name in figures["mn"]:
        gains = {
            k: np.array([figures[k][name][p] - figures[k]["base"][p] for p in prompts]) for k in DIMENSIONS
        }
        in_spread = [gains[k].mean() / spread[k] for k in DIMENSIONS]
        better = np.all([gains[k] > 0 for k in DIMENSIONS], axis=0)
        worse = np.all([gains[k] < 0 for k in DIMENSIONS], axis=0)
        out["references" if name in REFERENCES else "systems"][name] = {
            "seeds": len({row["seed"] for row in rows if row["system"] == name}),
            "value": {k: float(np.mean([figures[k][name][p] for p in prompts])) for k in DIMENSIONS},
            "difference": {k: interval(gains[k]) for k in DIMENSIONS},
            "least_in_spread_of_base": float(min(in_spread)),
            "displacement": float(np.mean([figures["displacement"][name][p] for p in prompts])),
            "joint": {"better": float(better.mean()), "worse": float(worse.mean())},
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results") / "tlpo.json")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(table(rows), indent=2) + "\n")


if __name__ == "__main__":
    main()
