"""Pieces of HTML that several tabs show; everything that comes from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from ft2ray.config import AlignConfig
from ft2ray.labels.agreement import Agreement, Reliability
from ft2ray.systems import SUM, systems_of

FILE = "/gradio_api/file="


def players(paths: Sequence[Path]) -> Markup:
    """One clip, or two that are called A and B; the page's script plays them one after the other."""
    return captioned(list(zip([""] if len(paths) == 1 else ["A", "B"], paths, strict=False)))


def captioned(clips: Sequence[tuple[str, Path]]) -> Markup:
    """Clips beside each other, each with words below it."""
    figures = [
        Markup(
            '<figure><video controls playsinline preload="auto" src="{}"></video>'
            "<figcaption>{}</figcaption></figure>"
        ).format(FILE + quote(str(path)), words)
        for words, path in clips
    ]
    return Markup('<div class="ft-clips">{}</div>').format(Markup().join(figures))


def side_by_side(charts: Mapping[str, Markup]) -> Markup:
    """Charts under their titles, as many in a row as there is room for."""
    cells = [Markup("<div><h3>{}</h3>{}</div>").format(title, chart) for title, chart in charts.items()]
    return Markup('<div class="ft-charts">{}</div>').format(Markup().join(cells))


def system_choices(config: AlignConfig) -> list[tuple[str, str]]:
    """(words for people, name) of every system of a run."""
    titles = {dimension.name: dimension.title for dimension in config.dimensions}
    systems = systems_of(config.dimension_names, (*titles, SUM), gate=True, titles=titles)
    return [(f"{systems[name].title} ({name})", name) for name in config.systems]


def paragraph(text: str, kind: str = "quiet") -> Markup:
    return Markup('<p class="ft-{}">{}</p>').format(kind, text)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    def line(tag: str, cells: Sequence[object]) -> Markup:
        return Markup("<tr>{}</tr>").format(
            Markup().join(Markup("<{0}>{1}</{0}>").format(Markup(tag), cell) for cell in cells)
        )

    body = Markup().join(line("td", row) for row in rows)
    return Markup(
        '<div class="ft-scroll"><table class="ft-table"><thead>{}</thead><tbody>{}</tbody></table></div>'
    ).format(line("th", head), body)


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def agreement_tables(found: dict[str, Agreement], people: dict[str, Reliability]) -> Markup:
    """Agreement by dimension, and how attentive everybody was."""
    if not people:
        return paragraph("Nobody has answered yet.")
    dimensions = [
        (
            name,
            a.clips,
            a.shared,
            number(a.alpha),
            ", ".join(f"{x} and {y} {number(kappa)}" for (x, y), kappa in a.kappas.items()) or "–",
        )
        for name, a in found.items()
    ]
    persons = [
        (
            name,
            r.answers,
            f"{r.repeated_alike} of {r.repeated}",
            f"{r.wrong_sound_noticed} of {r.wrong_sound}",
            f"{r.seconds:.1f} s",
        )
        for name, r in people.items()
    ]
    return table(
        ("dimension", "clips", "answered by several", "Krippendorff's alpha", "Cohen's kappa"), dimensions
    ) + table(("annotator", "answers", "same answer again", "wrong sound noticed", "median time"), persons)
