"""Table of the study: python studies/tlpo_table.py ROWS; writes studies/results/tlpo.json and docs/study.md.

ROWS: rows.jsonl of studies/tlpo.py. Differences to the base are paired by prompt and noise and averaged
over noises; intervals are Student's t over prompts and training seeds, refused below six prompts. What is
reported as `test` was measured once, at the strength that validation prompts chose.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

DIMENSIONS = ("mn", "ls", "vq")
RULES = ("rule_mn", "rule_ls", "vq")
"""The same three by the annotators' own rules without their error; `vq` is such a rule already."""
LEAST_PROMPTS = 6
CURATED = "curated"
"""The reference: what curation of the training data reaches."""
RIVALS = ("dpo_sum", "uniform", "simpo", "wide")
GATE, GATE_RIVALS = "gate_full", ("gate_timestep", "gate_layer", "tlpo_offline")
"""The full gate against its halves and against the plain sum of the same experts."""

Rows = Sequence[dict[str, Any]]


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a study; none where it has not begun."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def gains(rows: Rows, name: str, split: str, key: str, strength: float | None = None) -> np.ndarray:
    """Differences to the base [S seeds, P prompts], averaged over noises."""
    base = _values([row for row in rows if row["system"] == "base" and row["split"] == split], key)
    found = [row for row in rows if row["system"] == name and row["split"] == split]
    if strength is not None:
        found = [row for row in found if row["strength"] == strength]
    seeds = sorted({row["seed"] for row in found})
    prompts = sorted({prompt for prompt, _ in base})
    out = []
    for seed in seeds:
        own = _values([row for row in found if row["seed"] == seed], key)
        out.append([np.mean([own[at] - base[at] for at in base if at[0] == p]) for p in prompts])
    return np.array(out)


def _values(rows: Rows, key: str) -> dict[tuple[str, int], float]:
    return {(row["prompt"], row["noise"]): row[key] for row in rows}


def spread_of_base(rows: Rows, split: str) -> dict[str, float]:
    """Standard deviation of the base's clips, the unit in which dimensions are compared."""
    base = [row for row in rows if row["system"] == "base" and row["split"] == split]
    return {key: float(np.std([row[key] for row in base])) for key in (*DIMENSIONS, *RULES)}


def least(
    rows: Rows,
    name: str,
    split: str,
    strength: float | None = None,
    seed: int | None = None,
    keys: Sequence[str] = DIMENSIONS,
) -> float:
    """Least gain over the measures `keys`, in standard deviations of the base."""
    chosen = [row for row in rows if seed is None or row["system"] == "base" or row["seed"] == seed]
    spread = spread_of_base(rows, split)
    return min(float(gains(chosen, name, split, key, strength).mean()) / spread[key] for key in keys)


def chosen_strength(rows: Rows, name: str, seed: int) -> float:
    """Of the strengths measured on validation prompts the one with the best least gain."""
    tried = sorted(
        {
            row["strength"]
            for row in rows
            if (row["system"], row["split"], row["seed"]) == (name, "validation", seed)
        }
    )
    return max(tried, key=lambda strength: least(rows, name, "validation", strength, seed))


def interval(gain_SP: np.ndarray) -> dict[str, float | None]:
    """Mean and 95 % t-interval over prompts and training seeds; None with too few prompts.

    The variances of the mean over prompts and over seeds are added (a little too wide: what both share is
    counted twice), with Welch and Satterthwaite's degrees of freedom. One seed: over prompts only.
    """
    mean = float(gain_SP.mean())
    if gain_SP.shape[1] < LEAST_PROMPTS:
        return {"mean": mean, "low": None, "high": None}
    parts = [gain_SP.mean(axis=0)] + ([gain_SP.mean(axis=1)] if len(gain_SP) > 1 else [])
    variance = np.array([values.var(ddof=1) / len(values) for values in parts])
    total = float(variance.sum())
    freedom = np.array([len(values) - 1 for values in parts])
    df = total**2 / float((variance**2 / freedom).sum()) if total else 1.0
    half = float(stats.t.ppf(0.975, df)) * total**0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}


def resampled(
    statistic: Callable[[np.ndarray, np.ndarray], float], seeds: int, prompts: int, draws: int = 4000
) -> dict[str, float]:
    """`statistic` (of places of seeds and of prompts) with its 95 % interval by bootstrap over both.

    With one seed it is over prompts only.
    """
    rng = np.random.default_rng(0)
    drawn = [
        statistic(rng.integers(seeds, size=seeds), rng.integers(prompts, size=prompts)) for _ in range(draws)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"mean": statistic(np.arange(seeds), np.arange(prompts)), "low": float(low), "high": float(high)}


def margin(rows: Rows, name: str, rival: str, keys: Sequence[str] = DIMENSIONS) -> dict[str, float]:
    """Excess of the least gain of `name` over that of `rival` on test prompts, of shared trainings."""
    spread = spread_of_base(rows, "test")
    seeds = [{row["seed"] for row in rows if row["system"] == system} for system in (name, rival)]
    rows = [row for row in rows if row["system"] == "base" or row["seed"] in seeds[0] & seeds[1]]
    both_2KSP = np.array(
        [[gains(rows, system, "test", key) / spread[key] for key in keys] for system in (name, rival)]
    )

    def excess(seeds: np.ndarray, prompts: np.ndarray) -> float:
        own, other = both_2KSP[:, :, seeds][..., prompts].mean(axis=(2, 3)).min(axis=1)
        return float(own - other)

    return resampled(excess, *both_2KSP.shape[2:])


def recovered(rows: Rows, name: str) -> dict[str, float]:
    """Gain in lip-sync over that of the curated base on test prompts."""
    own_SP, curated_P = gains(rows, name, "test", "ls"), gains(rows, CURATED, "test", "ls").mean(axis=0)

    def share(seeds: np.ndarray, prompts: np.ndarray) -> float:
        return float(own_SP[seeds][:, prompts].mean() / curated_P[prompts].mean())

    return resampled(share, *own_SP.shape)


def table(rows: Rows) -> dict[str, Any]:
    """`systems` and `references`: value, difference by dimension, least gain, displacement, joint rates."""
    base = [row for row in rows if row["system"] == "base" and row["split"] == "test"]
    out: dict[str, Any] = {
        "prompts": len({row["prompt"] for row in base}),
        "spread_of_base": spread_of_base(rows, "test"),
        "systems": {},
        "references": {},
        "recovered": {},
        "margins": {},
        "margins_by_rules": {},
        "front": front(rows),
    }
    names = list(dict.fromkeys(row["system"] for row in rows if row["split"] == "test"))
    for name in names:
        own = [row for row in rows if row["system"] == name and row["split"] == "test"]
        by_key = {key: gains(rows, name, "test", key) for key in dict.fromkeys((*DIMENSIONS, *RULES))}
        mean = np.stack([by_key[key].mean(axis=0) for key in DIMENSIONS])
        out["references" if name == CURATED else "systems"][name] = {
            "seeds": len({row["seed"] for row in own}),
            "strengths": [
                next(r["strength"] for r in own if r["seed"] == s) for s in sorted({r["seed"] for r in own})
            ],
            "value": {key: float(np.mean([row[key] for row in own])) for key in DIMENSIONS},
            "difference": {key: interval(by_key[key]) for key in by_key},
            "least_in_spread_of_base": least(rows, name, "test"),
            "least_by_rules": least(rows, name, "test", keys=RULES),
            "displacement": float(np.mean([row["displacement"] for row in own])),
            "joint": {
                "better": float((mean > 0).all(axis=0).mean()),
                "worse": float((mean < 0).all(axis=0).mean()),
            },
        }
    finals = [name for name in names if name.startswith("tlpo_")]
    if CURATED in names:
        out["recovered"] = {name: recovered(rows, name) for name in finals}
    rivals_of = {
        name: [
            rival for rival in names if rival in RIVALS or rival.rsplit("_round", 1)[0] in ("dpo_sum", "wide")
        ]
        for name in finals
    }
    if GATE in names:
        rivals_of[GATE] = [rival for rival in GATE_RIVALS if rival in names]
    for name, rivals in rivals_of.items():
        for place, keys in (("margins", DIMENSIONS), ("margins_by_rules", RULES)):
            out[place][name] = {rival: margin(rows, name, rival, keys) for rival in rivals}
    return out


def front(rows: Rows) -> list[dict[str, Any]]:
    """Least gains against displacement on validation prompts: every system at every strength."""
    moved: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if row["split"] == "validation" and row["system"] != "base":
            moved.setdefault((row["system"], row["strength"]), []).append(row["displacement"])
    return [
        {
            "system": name,
            "strength": strength,
            "least": least(rows, name, "validation", strength),
            "least_by_rules": least(rows, name, "validation", strength, keys=RULES),
            "displacement": float(np.mean(displacements)),
        }
        for (name, strength), displacements in sorted(moved.items())
    ]


def page(found: dict[str, Any], critic: dict[str, Any] | None) -> str:
    """The study as a page of the docs."""
    lines = [
        "# The study: what alignment gains on unseen people",
        "",
        f"Written by `studies/tlpo_table.py` from `studies/results`: {found['prompts']} test prompts, two",
        "noises each, differences to the uncurated base with 95 % intervals over prompts and training seeds.",
        "Measured on the motion that drives the clips: `mn` and `ls` by the evaluation's measures (of the",
        "commit that the lab log names), `vq` by the annotators' own shape rule (an upper bound). Labels",
        "come from the simulated annotators. least: the smallest gain over the dimensions, in deviations of",
        "the base's clips; by rules: the same by the annotators' own rules without their error, that is, by",
        "what the labels ask for. uniform is tlpo_offline's sum of experts at a third of its strength: with",
        "free strengths both are one system. wide is one adapter of triple rank on the masked losses.",
        "[Protocol](protocol.md), [lab log](lab-log.md).",
        "",
        "| system | seeds | strength | MN | LS | VQ | least | by rules | displacement |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in (found["systems"] | found["references"]).items():
        cells = [
            _cell(row["difference"][key]) if name != "base" else f"{row['value'][key]:.3f}"
            for key in DIMENSIONS
        ]
        strengths = ", ".join(f"{strength:g}" for strength in row["strengths"])
        cells += [f"{row[key]:+.2f}" for key in ("least_in_spread_of_base", "least_by_rules")]
        lines.append(
            f"| {name} | {row['seeds']} | {strengths} | {' | '.join(cells)} | {row['displacement']:.2f} |"
        )
    lines += ["", "Bold: the whole interval is above zero; italic: below.", ""]
    for name, share in found["recovered"].items():
        mean, low, high = (f"{100 * share[end]:.0f}" for end in ("mean", "low", "high"))
        lines.append(f"- {name} gains {mean} % ({low} to {high}) of the lip-sync that curation gives.")
    lines += [
        "",
        "## Least gains compared",
        "",
        "Differences over the training seeds that both have; intervals by bootstrap over prompts and seeds.",
        "",
        "| | measured | by rules |",
        "|---|---|---|",
    ]
    for name, margins in found["margins"].items():
        for rival, measured in margins.items():
            cells = [_margin(m) for m in (measured, found["margins_by_rules"][name][rival])]
            lines.append(f"| {name} less {rival} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Gain against displacement",
        "",
        "Least gain on validation prompts, mean over training seeds.",
        "",
        "| system | strength | least | by rules | displacement |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {at['system']} | {at['strength']:g} | {at['least']:+.2f} | {at['least_by_rules']:+.2f} | "
        f"{at['displacement']:.2f} |"
        for at in found["front"]
    ]
    if critic is not None:
        lines += ["", *_critic_lines(critic)]
    return "\n".join(lines) + "\n"


def _margin(m: dict[str, float]) -> str:
    mark = "**" if m["low"] > 0 else "*" if m["high"] < 0 else ""
    return f"{mark}{m['mean']:+.2f}{mark} ({m['low']:+.2f} to {m['high']:+.2f})"


def _cell(difference: dict[str, float | None]) -> str:
    mean, low, high = (difference[key] for key in ("mean", "low", "high"))
    if low is None or high is None:
        return f"{mean:+.3f}"
    mark = "**" if low > 0 else "*" if high < 0 else ""
    return f"{mark}{mean:+.3f}{mark} ({low:+.3f} to {high:+.3f})"


def _critic_lines(critic: dict[str, Any]) -> list[str]:
    """The critic inside groups of candidates, from studies/critic_agreement.py."""
    lines = [
        "## The critic inside groups of candidates",
        "",
        f"{critic['prompts']} {critic['split']} prompts of {critic['candidates']} candidates, rendered;",
        "correlation inside groups with 95 % intervals (bootstrap over prompts).",
        "",
        "| | with the annotators | thinker alone | with the judge | balanced accuracy |",
        "|---|---|---|---|---|",
    ]
    for name in DIMENSIONS:
        row = critic[name]
        keys = ("r_critic_annotators", "r_thinker_annotators", "r_critic_judge", "balanced_accuracy")
        cells = [
            f"{row[key]['value']:.2f} ({row[key]['low']:.2f} to {row[key]['high']:.2f})"
            if key in row
            else "-"
            for key in keys
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    arguments = parser.parse_args()
    results, docs = Path(__file__).with_name("results"), Path(__file__).parents[1] / "docs"
    found = table(read_rows(arguments.rows))
    (results / "tlpo.json").write_text(json.dumps(found, indent=2) + "\n")
    critic = results / "critic.json"
    text = page(found, json.loads(critic.read_text()) if critic.exists() else None)
    (docs / "study.md").write_text(text)


if __name__ == "__main__":
    main()
