"""The tab Critic: how far the critic agrees with people, and a critic fitted on their answers."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from markupsafe import Markup

from ft2ray.critic.labels import Label, read_labels
from ft2ray.errors import FT2RayError
from ft2ray.evaluation.charts import line_chart
from ft2ray.labels.answers import answer_store, current, read_answers
from ft2ray.labels.clips import Source
from ft2ray.labels.export import export
from ft2ray.storage import base_name, join, local_copy
from ft2ray.ui.words import captioned, number, paragraph, table

if TYPE_CHECKING:  # heavy: loaded when a button is pressed
    from ft2ray.critic.assessment import Assessment

SHOWN = 6  # of the clips on which the critic is most wrong


def critic_tab(source: Source, scratch: Path) -> None:
    labels_file = join(source.url, "labels.jsonl")
    gr.HTML(
        paragraph(
            "How often the critic says what people said under Label, and a critic fitted on their answers: a "
            "low-rank update of what it reads from motion, where that helps, and its scaling."
        )
    )
    out = gr.Textbox(join(source.url, "critic"), label="Folder for the critic that is fitted", max_lines=1)
    with gr.Row():
        look = gr.Button("Compare the critic with people", variant="primary")
        fit = gr.Button("Fit it on them")
    note, result, worst = gr.HTML(), gr.HTML(), gr.HTML()
    gr.HTML(
        paragraph("A full-size critic is tuned by a job on GPUs:")
        + Markup(
            "<pre>ft2ray agree {0} --out {1}\n"
            "python jobs/tune_critic.py --labels {1} --base BASE --out OUT</pre>"
        ).format(source.url, labels_file)
    )

    def given(questions: dict[str, str]) -> list[Label]:
        file = scratch / f"{uuid.uuid4().hex}.jsonl"
        export(str(file), current(read_answers(answer_store(source.url))), source.url, source.dimensions)
        return read_labels(file, questions)

    def on_look(progress: Any = gr.Progress()) -> tuple[Markup, Markup, Markup]:  # noqa: B008
        from ft2ray.critic.assessment import assess, read_margins
        from ft2ray.critic.talking.critic import TalkingCritic

        try:
            critic = TalkingCritic.load()
            labels = given(critic.questions)
            margin_NK, label_NK = read_margins(
                critic, labels, lambda n, of: progress(n / of, desc=f"clip {n} of {of}")
            )
            found = assess(critic, labels, margin_NK, label_NK)
        except FT2RayError as error:
            return paragraph(str(error), "error"), Markup(), Markup()
        return paragraph(f"{len(labels)} clips."), assessment_tables(found), _worst(found, scratch)

    def on_fit(out: str, progress: Any = gr.Progress()) -> Markup:  # noqa: B008
        from ft2ray.critic.talking.critic import TalkingCritic
        from ft2ray.critic.talking.fitting import fit_critic

        try:
            critic, out = TalkingCritic.load(), out.strip()
            labels = given(critic.questions)
            fitted = fit_critic(critic, labels, out, lambda n, of: progress(n / of, desc=f"clip {n} of {of}"))
        except FT2RayError as error:
            return paragraph(str(error), "error")
        right = fitted.calibration["accuracy"].items()
        accuracy = ", ".join(f"{name} {number(share)}" for name, share in right)
        order = ", ".join(f"{name} {old:.0%} and {new:.0%}" for name, (old, new) in fitted.order.items())
        done = "is in it" if fitted.updated else "would not clearly have helped and is left out"
        return paragraph(
            f"Critic {fitted.fingerprint} is in {out}; share of right answers among those held out: "
            f"{accuracy}. An update of its motion head {done}: of two held-out clips with different answers "
            f"the right one stands higher without and with it in {order}. A run takes the critic by "
            f"critic.weights={out}."
        )

    look.click(on_look, None, [note, result, worst], api_visibility="private", concurrency_limit=1)
    fit.click(on_fit, [out], [note], api_visibility="private", concurrency_limit=1)


def assessment_tables(found: Assessment) -> Markup:
    """Figures, confusions and a reliability plot for each dimension."""
    head = (
        "dimension",
        "answers",
        "accuracy",
        "balanced",
        "ECE",
        "Yes as Yes",
        "Yes as No",
        "No as Yes",
        "No as No",
    )
    rows = [
        (
            name,
            figures["n"],
            number(figures["accuracy"]),
            number(figures["balanced_accuracy"]),
            number(figures["ece"]),
            *found.confusion[name],
        )
        for name, figures in found.figures.items()
    ]
    lines = {
        name: [(100 * p, share) for p, share, _ in points]
        for name, points in found.reliability.items()
        if points
    }
    if not lines:
        return table(head, rows)
    title = "share of Yes by people over the critic's P(Yes)"
    plot = line_chart(title, lines, "critic's P(Yes), %")
    return table(head, rows) + paragraph(f"Reliability: {title}; a critic to be trusted rises evenly.") + plot


def _worst(found: Assessment, scratch: Path) -> Markup:
    shown: list[tuple[str, Path]] = []
    for mistake in found.mistakes[:SHOWN]:
        copy = scratch / f"{uuid.uuid4().hex}{Path(base_name(mistake.clip)).suffix}"
        shutil.copyfile(local_copy(mistake.clip), copy)
        said = "Yes" if mistake.label else "No"
        shown.append((f"{mistake.dimension}: people say {said}, critic P(Yes) {mistake.p_yes:.2f}", copy))
    return captioned(shown)
