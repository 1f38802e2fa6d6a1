"""The tab Label: clips one by one, or two side by side, and how far people agree."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from markupsafe import Markup

from ft2ray.labels.agreement import agreement, reliability
from ft2ray.labels.answers import PAIR, QUESTION, answer_store, current, read_answers
from ft2ray.labels.clips import Source
from ft2ray.labels.queue import QueueSettings
from ft2ray.labels.sitting import Sitting
from ft2ray.ui.asking import Desk, asking, new_desk
from ft2ray.ui.words import agreement_tables, paragraph

ALL = "all"
KINDS = {"one clip, Yes or No": QUESTION, "two clips side by side": PAIR}
ORDERS = {"by chance": "random", "where the critic is least sure": "unsure"}


def label_tab(source: Source, scratch: Path) -> None:
    questions = [(dimension.title, dimension.name) for dimension in source.dimensions]
    gr.HTML(
        paragraph(
            "Type your name, press Start, watch each clip with its sound and answer the question above it. "
            "Answers are kept at once; you can stop and come back at any time."
        )
    )
    with gr.Row():
        name = gr.Textbox("", label="Your name", max_lines=1)
        dimension = gr.Radio([ALL, *questions], value=ALL, label="Question")
        kind = gr.Radio(list(KINDS), value=next(iter(KINDS)), label="What is shown")
        order = gr.Radio(list(ORDERS), value=next(iter(ORDERS)), label="Order")

    def begin(annotator: str, dimension: str, kind: str, order: str) -> Desk:
        settings = QueueSettings.model_validate({"kind": KINDS[kind], "order": ORDERS[order]})
        asked = () if dimension == ALL else (dimension,)
        return new_desk(Sitting(source, annotator, asked, settings), scratch)

    def summary(desk: Desk | None) -> Markup:
        rows = read_answers(answer_store(source.url)) if desk is None else desk.sitting.rows
        answers = [answer for answer in current(rows) if answer.task.kind in (QUESTION, PAIR)]
        progress = Markup()
        if desk is not None:
            done = sum(answer.task.check is None for answer in desk.sitting.said)
            progress = paragraph(f"You have answered {done} of {len(desk.sitting.tasks)}.")
        return progress + agreement_tables(agreement(answers), reliability(answers))

    asking(begin, [name, dimension, kind, order], summary)
