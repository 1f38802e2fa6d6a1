"""The tab Curate: groups with candidates, scores and pairs; what was refused; pairs that are wrong."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from ft2ray.errors import FT2RayError
from ft2ray.evaluation.charts import histogram
from ft2ray.labels.answers import annotator_name
from ft2ray.observe.groups import GroupView, find_groups, read_group, refusals, scores_by_dimension
from ft2ray.preference.wrong_pairs import mark, mark_store, marked
from ft2ray.run import Run
from ft2ray.storage import exists, local_copy
from ft2ray.ui.words import captioned, number, paragraph, side_by_side, table


def curate_tab(page: gr.Blocks, run: Run, scratch: Path) -> None:
    gr.HTML(
        paragraph(
            "What the run made for each prompt, what the critic says of it, and the pairs it learns from."
        )
    )
    with gr.Row():
        search = gr.Textbox("", label="Portrait or recording", placeholder="part of a name", max_lines=1)
        policy = gr.Textbox("", label="Policy", placeholder="beginning of its fingerprint", max_lines=1)
        group = gr.Dropdown([], label="Group", scale=3)
    clips, scores = gr.HTML(), gr.HTML()
    with gr.Row():
        pair = gr.Dropdown([], label="Pair (winner, loser)", scale=3)
        name = gr.Textbox("", label="Your name", max_lines=1)
    with gr.Row():
        wrong = gr.Button("Mark as wrong")
        right = gr.Button("Take the mark back")
    note = gr.HTML()
    with gr.Accordion("Scores of all candidates", open=False):
        charts = gr.HTML()
    with gr.Accordion("Refused inputs", open=False):
        refused = gr.HTML()

    def on_search(search: str, policy: str) -> tuple[Any, Markup]:
        try:
            found = find_groups(run, search.strip(), policy.strip())
        except FT2RayError as error:
            return gr.Dropdown(choices=[], value=None), paragraph(str(error), "error")
        choices = [(words, group_id) for group_id, words in found]
        first = found[0][0] if found else None
        return gr.Dropdown(choices=choices, value=first), paragraph(f"{len(found)} groups.")

    def on_group(group_id: str | None) -> tuple[Markup, Markup, Any]:
        if group_id is None:
            return Markup(), Markup(), gr.Dropdown(choices=[], value=None)
        view = read_group(run, group_id)
        shown = captioned([(f"candidate {place}", path) for place, path in _copies(run, view, scratch)])
        choices = _pair_choices(run, view)
        return (
            shown,
            _scores(run, view),
            gr.Dropdown(choices=choices, value=choices[0][1] if choices else None),
        )

    def on_mark(is_wrong: bool) -> Any:
        def act(request: gr.Request, group_id: str | None, pair: int | None, name: str) -> tuple[Any, Markup]:
            if group_id is None or pair is None:
                return gr.skip(), paragraph("Choose a pair first.", "error")
            view = read_group(run, group_id)
            try:
                person = annotator_name(request.username or name)
                mark(mark_store(run.url), view.pairs[pair][0], is_wrong, person)
            except FT2RayError as error:
                return gr.skip(), paragraph(str(error), "error")
            total = len(marked(mark_store(run.url)))
            said = (
                f"{total} pairs are marked as wrong. The next `ft2ray align` of this run trains without them."
            )
            return gr.Dropdown(choices=_pair_choices(run, view), value=pair), paragraph(said)

        return act

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    for event in (page.load, search.submit, policy.submit):
        event(on_search, [search, policy], [group, note], **quiet)
    group.change(on_group, [group], [clips, scores, pair], **quiet)
    wrong.click(on_mark(True), [group, pair, name], [pair, note], **quiet)
    right.click(on_mark(False), [group, pair, name], [pair, note], **quiet)
    page.load(lambda: _charts(run), None, charts, **quiet)
    page.load(lambda: _refused(run), None, refused, **quiet)


def _copies(run: Run, view: GroupView, scratch: Path) -> list[tuple[int, Path]]:
    """The group's clips where the page may show them from."""
    copies = []
    for candidate in view.candidates:
        if candidate.video is not None and exists(run.file(candidate.video)):
            copy = scratch / f"{uuid.uuid4().hex}.mp4"
            shutil.copyfile(local_copy(run.file(candidate.video)), copy)
            copies.append((candidate.place, copy))
    return copies


def _scores(run: Run, view: GroupView) -> Markup:
    titles = _titles(run)
    rows = [
        (c.place, *(number(c.p_yes.get(name)) for name in titles), c.policy, c.error or "")
        for c in view.candidates
    ]
    kept = any(candidate.video for candidate in view.candidates)
    said = (
        Markup() if kept else paragraph("The videos were not kept (resources.keep_videos=true keeps them).")
    )
    return said + table(
        ("candidate", *(f"P(Yes) {title}" for title in titles.values()), "policy", "no score because"), rows
    )


def _pair_choices(run: Run, view: GroupView) -> list[tuple[str, int]]:
    """Pairs by their number in the view."""
    wrong, titles = set(marked(mark_store(run.url))), _titles(run)
    return [
        (
            f"{titles.get(pair.dimension, pair.dimension)}: {pair.winner} over {pair.loser}, "
            f"margin {margin:.2f}" + (" (marked as wrong)" if pair in wrong else ""),
            number,
        )
        for number, (pair, margin) in enumerate(view.pairs)
    ]


def _charts(run: Run) -> Markup:
    try:
        scores = scores_by_dimension(run)
    except FT2RayError as error:
        return paragraph(str(error), "error")
    titles = _titles(run)
    return side_by_side(
        {
            f"{titles[name]} ({len(values)} scores)": histogram(titles[name], values)
            for name, values in scores.items()
            if values
        }
    )


def _titles(run: Run) -> dict[str, str]:
    return {dimension.name: dimension.title for dimension in run.config.dimensions}


def _refused(run: Run) -> Markup:
    rows = refusals(run)
    return table(("file", "reason", "what was wrong"), rows) if rows else paragraph("None.")
