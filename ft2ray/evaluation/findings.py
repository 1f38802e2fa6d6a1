"""The comparison put into `report.json` and into plain sentences.

Sentences are made from the intervals alone: a system "improved" a dimension only when the whole 95 % interval
of its paired difference to the base lies above zero. A high mean without that is "not shown".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ft2ray.dimensions import Dimension
from ft2ray.evaluation.compare import (
    MIN_PROMPTS,
    Row,
    compare,
    joint_shares,
    prompt_means,
    reference_figures,
    verdict,
    worst_gain,
)
from ft2ray.systems import BASE, DPO_SUM, TLPO, UNIFORM

DISPLACEMENT = "displacement"  # of the latents, beside the figures of the dimensions
FEW_PROMPTS = 10
LIP_SYNC = "ls"  # the metric that has references with other sound
NOT_MEASURED = "not measured"


def build_report(
    rows: Sequence[Row],
    reference_rows: Sequence[Row],
    critic: Mapping,
    seconds: float,
    dimensions: Sequence[Dimension],
    main_system: str = TLPO,
    rivals: Sequence[str] = (DPO_SUM, UNIFORM),
    resamples: int = 4000,
    seed: int = 0,
) -> dict:
    """The content of `report.json`.

    Args:
        rows: measured clips of all systems.
        reference_rows: measured clips of the references (`Row.system` in `compare.REFERENCES`).
        critic: {"accuracy": {dim: share right or None}, "n": clips}, as measured by the critic's own tests.
        seconds: wall time of the whole run.
        dimensions: those without a metric have no figures, which is said; joint shares and the least gain are
            those of the others.
        main_system: the system that the worst-gain comparison and the first sentence are about.
        rivals: systems that it is compared with there.
        resamples: bootstrap resamples.
        seed: seed of the bootstrap.
    Returns:
        {"systems", "references", "critic", "prompts", "seeds", "seconds"} as documented in the README (each
        system but the base also with "joint" and "displacement"), and
        "findings": {"verdicts": {system: {dim: word}}, "joint": {system: {"jdr","jcr","n"}}, "worst_gain",
        "missing": {system: {dim: clips without the figure}}, "text": [sentences]}.
    """
    names = [dimension.name for dimension in dimensions]
    measured = [dimension.name for dimension in dimensions if dimension.metric is not None]
    systems: dict[str, dict[str, Any]] = dict(compare(rows, names, BASE))
    others = [name for name in systems if name != BASE]
    present = [name for name in rivals if name in systems]
    report: dict[str, Any] = {
        "systems": systems,
        "references": reference_figures(reference_rows, names),
        "critic": dict(critic),
        "prompts": len({row.prompt for row in rows}),
        "seeds": sorted({row.seed for row in rows}),
        "seconds": float(seconds),
        "findings": {
            "verdicts": {
                name: {d: verdict(systems[name][d]) if d in measured else NOT_MEASURED for d in names}
                for name in others
            },
            "joint": {name: joint_shares(rows, name, measured) for name in others},
            "worst_gain": worst_gain(rows, main_system, present, measured, resamples=resamples, seed=seed)
            if main_system in systems
            else None,
            "missing": missing_figures(rows, measured),
        },
    }
    for name in others:
        systems[name]["joint"] = report["findings"]["joint"][name]
        systems[name]["displacement"] = displacement(rows, name)
    report["findings"]["text"] = plain_words(report, main_system, dimensions)
    return report


def displacement(rows: Sequence[Row], system: str) -> float | None:
    """Mean change of a system's latents against the base's for the same noise, relative to the base's size.

    Systems are comparable at equal displacement: a larger change of the same direction gains and costs more.
    """
    means = prompt_means(rows, system, DISPLACEMENT)
    return float(np.mean(list(means.values()))) if means else None


def missing_figures(rows: Sequence[Row], dimensions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Clips per system and dimension that could not be measured; those with none are absent."""
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        for dim in dimensions:
            if row.values.get(dim) is None:
                table = counts.setdefault(row.system, {})
                table[dim] = table.get(dim, 0) + 1
    return counts


def plain_words(report: Mapping, main_system: str, dimensions: Sequence[Dimension]) -> list[str]:
    """Sentences for a reader who does not read tables; every one follows from the figures of `report`."""
    systems, findings = report["systems"], report["findings"]
    titles = {dimension.name: dimension.title for dimension in dimensions}
    order = sorted(findings["verdicts"], key=lambda name: name != main_system)
    sentences = [
        _system_sentence(name, findings["verdicts"][name], systems[name], dimensions, name == main_system)
        for name in order
    ]
    worst = findings["worst_gain"]
    if worst is not None:
        own = worst["value"]
        sentences += [_rival_sentence(main_system, own, *pair) for pair in worst["versus"].items()]
    for dimension in dimensions:
        if dimension.metric == LIP_SYNC:
            sentences += _reference_sentences(dimension.name, systems, report["references"])
    unmeasured = [dimension.title for dimension in dimensions if dimension.metric is None]
    if unmeasured:
        sentences.append(
            f"Nothing measures {_listed(unmeasured)}: what became of it is known from the critic alone."
        )
    n = report["prompts"]
    if n < MIN_PROMPTS:
        sentences.append(
            f"Only {n} prompt{'s were' if n != 1 else ' was'} measured (seeds {_listed(report['seeds'])}): "
            f"no interval is stated below {MIN_PROMPTS}, and no change is shown."
        )
    elif n < FEW_PROMPTS:
        sentences.append(
            f"Only {n} prompts were measured (seeds {_listed(report['seeds'])}), so the intervals are "
            "wide: an effect that is not shown here may still exist."
        )
    for system, table in findings["missing"].items():
        counts = _listed([f"{count} without {titles[dim]}" for dim, count in table.items()])
        sentences.append(f"Some clips of {system} could not be measured: {counts}.")
    return sentences


def _system_sentence(
    name: str, words: Mapping, figures: Mapping, dimensions: Sequence[Dimension], with_figures: bool
) -> str:
    groups = {
        word: [
            _with_delta(d.title, figures[d.name]) if with_figures else d.title
            for d in dimensions
            if words[d.name] == word
        ]
        for word in ("improved", "worse", "not shown", NOT_MEASURED)
    }
    parts = []
    if groups["improved"]:
        parts.append(f"improved {_listed(groups['improved'])}")
    if groups["worse"]:
        parts.append(f"made {_listed(groups['worse'])} worse")
    if groups["not shown"]:
        parts.append(f"shows no clear change in {_listed(groups['not shown'])}")
    if not parts:
        parts.append("was not measured")
    lead = "Against the base, " if with_figures else ""
    return f"{lead}{name} {', '.join(parts[:-1]) + ' and ' if len(parts) > 1 else ''}{parts[-1]}."


def _with_delta(title: str, figures: Mapping) -> str:
    if figures["delta_vs_base"] is None:
        return f"{title} (not measured)"
    if figures["delta_ci95"] is None:
        return f"{title} ({figures['delta_vs_base']:+.3f}, too few prompts for an interval)"
    low, high = figures["delta_ci95"]
    return f"{title} ({figures['delta_vs_base']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})"


def _rival_sentence(main_system: str, own: float, rival: str, figures: Mapping) -> str:
    text = (
        f"Judged by whichever dimension gained least, {main_system} stands at {own:+.2f} and {rival} at "
        f"{figures['rival_value']:+.2f} (in standard deviations of the base's clips): "
    )
    if figures["ci95"] is None:
        return text + "too few prompts for an interval, so nothing is shown."
    low, high = figures["ci95"]
    word = "better" if low > 0 else "worse" if high < 0 else "not shown to differ"
    return (
        text + f"{word} (difference {figures['difference']:+.2f}, 95 % interval {low:+.2f} to {high:+.2f})."
    )


def _reference_sentences(name: str, systems: Mapping, references: Mapping) -> list[str]:
    """What the references say of lip-sync, which is the dimension `name`."""
    base = systems[BASE][name]["mean"]
    wrong, real = (references[reference].get(name) for reference in ("wrong_audio", "real_video"))
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
