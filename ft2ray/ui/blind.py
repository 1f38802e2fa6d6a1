"""The tab Blind test: base or aligned, without knowing which."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from markupsafe import Markup

from ft2ray.blind_test import blind_pairs, blind_source, blind_tasks, sentences, write_blind_result
from ft2ray.errors import FT2RayError
from ft2ray.labels.answers import annotator_name
from ft2ray.labels.sitting import Sitting
from ft2ray.run import Run
from ft2ray.systems import BASE, TLPO
from ft2ray.ui.asking import Desk, asking, new_desk
from ft2ray.ui.words import paragraph, system_choices


def blind_tab(run: Run, scratch: Path) -> None:
    gr.HTML(
        paragraph(
            "Two clips of one prompt, one by the base and one by the system chosen; which is which is hidden."
        )
    )
    with gr.Row():
        name = gr.Textbox("", label="Your name", max_lines=1)
        system = gr.Radio(
            [choice for choice in system_choices(run.config) if choice[1] != BASE],
            value=TLPO,
            label="Compared with the base",
        )

    def begin(annotator: str, system: str) -> Desk:
        pairs = blind_pairs(run, system)
        person = annotator_name(annotator)
        tasks = blind_tasks(pairs, run.config.dimension_names, person)
        return new_desk(Sitting(blind_source(run, pairs), person, tasks=tasks), scratch)

    def summary(desk: Desk | None) -> Markup:
        if desk is None:
            return Markup()
        return paragraph(f"You have answered {len(desk.sitting.said)} of {len(desk.sitting.tasks)}.")

    asking(begin, [name, system], summary)
    gr.HTML(paragraph("Look at the result after you have answered: knowing it changes how you judge."))
    show = gr.Button("Result so far, into the report")
    result = gr.HTML()

    def on_show(system: str) -> Markup:
        try:
            file = write_blind_result(run, system)
            lines = [
                *sentences(run),
                f"Written to {file}; `ft2ray report {run.url}` puts it into the report.",
            ]
        except FT2RayError as error:
            return paragraph(str(error), "error")
        return Markup().join(paragraph(line) for line in lines)

    show.click(on_show, [system], result, show_progress="hidden", api_visibility="private")
