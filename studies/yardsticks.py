"""The tables of docs/yardsticks.md, from studies/results/validity.json: python studies/yardsticks.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "validity.json"
PAGE = Path(__file__).parent.parent / "docs" / "yardsticks.md"
START, END = "<!-- tables: studies/yardsticks.py -->", "<!-- end of tables -->"
TITLES = {
    "mn": "motion naturalness (MN)",
    "ls": "lip-sync (LS): contrast with shifted sound",
    "ls_best": "the same, everybody at the best lag",
    "ls_correlation": "lips' correlation alone",
    "ls_phones": "correlation with the phone table",
    "vq": "visual quality (VQ)",
}
BARS = {"mn": 0.85, "ls": 0.5, "vq": 0.5}


def tables(result: Mapping[str, Any]) -> str:
    """Markdown of all tables that the results hold."""
    people = result["people"]
    lines = [
        f"Judge {result['judge']}. Real: {sum(people.values())} pieces of three seconds of {len(people)} "
        f"people ({', '.join(f'{name} {n}' for name, n in people.items())}).",
        "",
    ]
    for name, base in result["bases"].items():
        lines += _beats(name, base)
    lines += _closure(result["bilabials"])
    if "graded" in result:
        lines += _graded(result["graded"]) + _mesh(result["mesh_r"])
    if "floor" in result:
        lines += _floor(result["floor"])
    return "\n".join(lines)


def _beats(name: str, base: Mapping[str, Any]) -> list[str]:
    lines = [
        f"### Real people against the {name} base",
        "",
        f"{base['clips']} clips of {base['fingerprint']}; P: probability that a real piece scores higher.",
        "",
        "| figure | base | real, wild | P, wild | real, GRID | P, GRID | P, all | bar (all wild people) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for figure, table in base["beats"].items():
        wild, grid, everybody = (table[people] for people in ("wild", "grid", "everybody"))
        bar = BARS.get(figure)
        met = "" if bar is None else f">= {bar:g}, {'met' if wild['p'] >= bar else '**missed**'}"
        lines.append(
            f"| {TITLES[figure]} | {wild['base']:.3f} | {wild['real']:.3f} | {wild['p']:.2f} "
            f"| {grid['real']:.3f} | {grid['p']:.2f} | {everybody['p']:.2f} | {met} |"
        )
    return [
        *lines,
        "",
        "A classifier refitted on these clips tells real from generated motion, area under the curve: "
        f"{base['told_apart']:.2f} (0.5 = not at all).",
        "",
    ]


def _closure(bilabials: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["### Lips closed at /p b m/", "", "| clips | closed | heard |", "|---|---|---|"]
    return [
        *lines,
        *(f"| {k} | {100 * v['closed']:.0f} % | {v['heard']:.0f} |" for k, v in bilabials.items()),
        "",
    ]


def _graded(graded: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "### Graded faults",
        "",
        "| fault | clips | strengths | MN | LS | VQ | in the right order |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in graded.items():
        means = " | ".join(", ".join(f"{v:.2f}" for v in row["mean"][d]) for d in ("mn", "ls", "vq"))
        strengths = ", ".join(map(str, row["strengths"]))
        order = f"{100 * row['in_order']:.0f} % ({row['dimension']})"
        lines.append(f"| {name} | {row['clips']} | {strengths} | {means} | {order} |")
    return [*lines, ""]


def _mesh(agreement: Mapping[str, float]) -> list[str]:
    lines = ["### Driving mesh against pixels", "", "| trait | r |", "|---|---|"]
    return [*lines, *(f"| {name} | {r:.2f} |" for name, r in agreement.items()), ""]


def _floor(floor: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = [
        "### Noise and power",
        "",
        "| dimension | SD between two seeds of a prompt | shown by 24 prompts |",
        "|---|---|---|",
    ]
    return [
        *lines,
        *(f"| {d.upper()} | {v['paired_sd']:.3f} | {v['detectable']:.3f} |" for d, v in floor.items()),
        "",
    ]


def filled(page: str, result: Mapping[str, Any]) -> str:
    """The page with new tables between its marks."""
    before, rest = page.split(START)
    return f"{before}{START}\n{tables(result).rstrip()}\n{END}{rest.split(END)[1]}"


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
