"""The comparison put into `report.json` and into plain sentences.

Sentences are made from the intervals alone: a system "improved" a dimension only when the whole 95 % interval
of its paired difference to the base lies above zero. A high mean without that is "not shown".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ft2ray.evaluation.compare import (
    BASE,
    DIMENSIONS,
    Row,
    compare,
    joint_shares,
    reference_figures,
    verdict,
    worst_gain,
)

TITLES = {"mn": "motion naturalness", "ls": "lip-sync", "vq": "visual quality"}
FEW_PROMPTS = 10


def build_report(
    rows: Sequence[Row],
    reference_rows: Sequence[Row],
    critic: Mapping,
    seconds: float,
    dimensions: Sequence[str] = DIMENSIONS,
    main_system: str = "tlpo",
    rivals: Sequence[str] = ("dpo_sum", "uniform"),
    resamples: int = 4000,
    seed: int = 0,
) -> dict:
    """The content of `report.json`.

    Args:
        rows: measured clips of all systems.
        reference_rows: measured clips of the references (`Row.system` in `compare.REFERENCES`).
        critic: {"accuracy": {dim: share right or None}, "n": clips}, as measured by the critic's own tests.
        seconds: wall time of the whole run.
        dimensions: dimension names.
        main_system: the system that the worst-gain comparison and the first sentence are about.
        rivals: systems that it is compared with there.
        resamples: bootstrap resamples.
        seed: seed of the bootstrap.
    Returns:
        {"systems", "references", "critic", "prompts", "seeds", "seconds"} as documented in the README, and
        "findings": {"verdicts": {system: {dim: word}}, "joint": {system: {"jdr","jcr","n"}}, "worst_gain",
        "missing": {system: {dim: clips without the figure}}, "text": [sentences]}.
    """
    systems = compare(rows, dimensions, BASE, resamples, seed)
    others = [name for name in systems if name != BASE]
    present = [name for name in rivals if name in systems]
    report: dict[str, Any] = {
        "systems": systems,
        "references": reference_figures(reference_rows, dimensions, resamples, seed),
        "critic": dict(critic),
        "prompts": len({row.prompt for row in rows}),
        "seeds": sorted({row.seed for row in rows}),
        "seconds": float(seconds),
        "findings": {
            "verdicts": {name: {d: verdict(systems[name][d]) for d in dimensions} for name in others},
            "joint": {name: joint_shares(rows, name, dimensions) for name in others},
            "worst_gain": worst_gain(rows, main_system, present, dimensions, resamples=resamples, seed=seed)
            if main_system in systems
            else None,
            "missing": missing_figures(rows, dimensions),
        },
    }
    report["findings"]["text"] = plain_words(report, main_system, dimensions)
    return report


def missing_figures(rows: Sequence[Row], dimensions: Sequence[str] = DIMENSIONS) -> dict[str, dict[str, int]]:
    """Clips per system and dimension that could not be measured; those with none are absent."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for dim in dimensions:
            if row.values.get(dim) is None:
                table = counts.setdefault(row.system, {})
                table[dim] = table.get(dim, 0) + 1
    return counts


def plain_words(report: Mapping, main_system: str, dimensions: Sequence[str] = DIMENSIONS) -> list[str]:
    """Sentences for a reader who does not read tables; every one follows from the figures of `report`."""
    systems, findings = report["systems"], report["findings"]
    order = sorted(findings["verdicts"], key=lambda name: name != main_system)
    sentences = [
        _system_sentence(name, findings["verdicts"][name], systems[name], dimensions, name == main_system)
        for name in order
    ]
    worst = findings["worst_gain"]
    if worst is not None:
        own = worst["value"]
        sentences += [_rival_sentence(main_system, own, *pair) for pair in worst["versus"].items()]
    sentences += _reference_sentences(systems, report["references"])
    n = report["prompts"]
    if n < FEW_PROMPTS:
        sentences.append(
            f"Only {n} prompt{'s were' if n != 1 else ' was'} measured (seeds {_listed(report['seeds'])}), "
            "so the intervals are wide: an effect that is not shown here may still exist."
        )
    for system, table in findings["missing"].items():
        counts = _listed([f"{count} without {TITLES.get(dim, dim)}" for dim, count in table.items()])
        sentences.append(f"Some clips of {system} could not be measured: {counts}.")
    return sentences


def _system_sentence(
    name: str, words: Mapping, figures: Mapping, dimensions: Sequence[str], with_figures: bool
) -> str:
    groups = {
        word: [
            _with_delta(d, figures[d]) if with_figures else TITLES.get(d, d)
            for d in dimensions
            if words[d] == word
        ]
        for word in ("improved", "worse", "not shown")
    }
    parts = []
    if groups["improved"]:
        parts.append(f"improved {_listed(groups['improved'])}")
    if groups["worse"]:
        parts.append(f"made {_listed(groups['worse'])} worse")
    if groups["not shown"]:
        parts.append(f"shows no clear change in {_listed(groups['not shown'])}")
    lead = "Against the base, " if with_figures else ""
    return f"{lead}{name} {', '.join(parts[:-1]) + ' and ' if len(parts) > 1 else ''}{parts[-1]}."


def _with_delta(dim: str, figures: Mapping) -> str:
    title = TITLES.get(dim, dim)
    if figures["delta_vs_base"] is None:
        return f"{title} (not measured)"
    if figures["delta_ci95"] is None:
        return f"{title} ({figures['delta_vs_base']:+.3f}, one prompt: no interval)"
    low, high = figures["delta_ci95"]
    return f"{title} ({figures['delta_vs_base']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})"


def _rival_sentence(main_system: str, own: float, rival: str, figures: Mapping) -> str:
    text = (
        f"Judged by whichever dimension gained least, {main_system} stands at {own:+.2f} and {rival} at "
        f"{figures['rival_value']:+.2f} (in standard deviations of the base's clips): "
    )
    if figures["ci95"] is None:
        return text + "one prompt has no interval, so nothing is shown."
    low, high = figures["ci95"]
    word = "better" if low > 0 else "worse" if high < 0 else "not shown to differ"
    return (
        text + f"{word} (difference {figures['difference']:+.2f}, 95 % interval {low:+.2f} to {high:+.2f})."
    )


def _reference_sentences(systems: Mapping, references: Mapping) -> list[str]:
    base = systems[BASE].get("ls", {}).get("mean")
    wrong, real = (references[name].get("ls") for name in ("wrong_audio", "real_video"))
    sentences = []
    if base is not None and wrong is not None:
        sentences.append(
            f"Lip-sync of the base is {base:.2f}; "
            f"the same videos under the wrong audio give {wrong['mean']:.2f}."
        )
    if base is not None and real is not None and base > real["mean"]:
        sentences.append(
            f"The base scores above real video in lip-sync ({base:.2f} against {real['mean']:.2f}): that "
            "means lips closer to the predictors' average, not better than people."
        )
    return sentences


def _listed(items: Sequence) -> str:
    words = [str(item) for item in items]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else "none"
