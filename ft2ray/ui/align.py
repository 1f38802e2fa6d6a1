"""The tab Align: how far a run is, its curves and gate, and runs side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr
from markupsafe import Markup

from ft2ray.errors import FT2RayError
from ft2ray.evaluation.charts import line_chart
from ft2ray.evaluation.compare import verdict
from ft2ray.observe.comparison import Gain, gains
from ft2ray.observe.curves import training_curves
from ft2ray.observe.status import read_status
from ft2ray.run import Run
from ft2ray.ui.words import paragraph, side_by_side, table

EVERY_SECONDS = 10.0


def align_tab(page: gr.Blocks, run: Run) -> None:
    gr.HTML(
        Markup(
            "<p class=ft-quiet>Started, continued and, by Ctrl-C, stopped in a terminal:</p><pre>{}</pre>"
        ).format(f"ft2ray align {run.file('config.yaml')}")
    )
    status, curves = gr.HTML(), gr.HTML()
    timer = gr.Timer(EVERY_SECONDS)
    others = gr.Textbox("", label="Other runs to compare with (a folder a line)", lines=2)
    compare = gr.Button("Compare")
    compared = gr.HTML()

    def on_status() -> tuple[Markup, Markup]:
        try:
            text = Markup("<pre>{}</pre>").format(str(read_status(run.url)))
            return text, _curves(run)
        except FT2RayError as error:
            return paragraph(str(error), "error"), Markup()

    def on_compare(others: str) -> Markup:
        folders = [run.url, *(line.strip() for line in others.splitlines() if line.strip())]
        try:
            return gain_table(gains(folders), {d.name: d.title for d in run.config.dimensions})
        except FT2RayError as error:
            return paragraph(str(error), "error")

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    page.load(on_status, None, [status, curves], **quiet)
    timer.tick(on_status, None, [status, curves], **quiet)
    compare.click(on_compare, [others], [compared], **quiet)


def _curves(run: Run) -> Markup:
    newest = run.newest_policy(run.config.schedule.rounds)
    if newest == 0:
        return paragraph("No policy is published yet.")
    charts = training_curves(run.curves(run.policy(newest)))
    return side_by_side({name: line_chart(name, lines) for name, lines in charts.items()})


def gain_table(found: list[Gain], titles: Mapping[str, str]) -> Markup:
    """A row for each system of each run: differences to its own base with 95 % intervals."""
    dimensions = list(dict.fromkeys(gain.dimension for gain in found))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for gain in found:
        rows.setdefault((gain.run, gain.system), {})[gain.dimension] = _words(gain)
    return table(
        ("run", "system", *(f"{titles.get(name, name)} against the base" for name in dimensions)),
        [(*key, *(said.get(name, "\u2013") for name in dimensions)) for key, said in rows.items()],
    )


def _words(gain: Gain) -> str:
    if gain.delta is None:
        return "not measured"
    if gain.interval is None:
        return f"{gain.delta:+.3f} (no interval)"
    low, high = gain.interval
    return f"{gain.delta:+.3f} ({low:+.3f} to {high:+.3f}): {verdict({'delta_ci95': gain.interval})}"
