"""What the tabs Label and Blind test share: one task on the screen, buttons with keys, and answers."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from ft2ray.errors import FT2RayError
from ft2ray.labels.answers import BOTH_BAD, FIRST, NO, QUESTION, SECOND, SKIP, TIE, WORDS, YES
from ft2ray.labels.sitting import Sitting
from ft2ray.ui.words import paragraph, players

# answer -> (words, key)
BUTTONS = {
    YES: ("Yes", "y"),
    NO: ("No", "n"),
    FIRST: ("A is better", "a"),
    SECOND: ("B is better", "b"),
    TIE: ("Tie", "t"),
    BOTH_BAD: ("Both bad", "x"),
    SKIP: ("Skip", "s"),
}


# On a phone, settings fill the screen: the clip and its buttons come into view.
SCROLL = """() => [...document.querySelectorAll(".ft-keys")]
  .find((element) => element.offsetParent !== null)?.scrollIntoView({ block: "nearest" })"""


@dataclass
class Desk:
    """A sitting and the folder that its clips are shown from; one answer at a time."""

    sitting: Sitting
    folder: Path
    lock: threading.Lock = field(default_factory=threading.Lock)


def new_desk(sitting: Sitting, scratch: Path) -> Desk:
    return Desk(sitting, Path(tempfile.mkdtemp(dir=scratch)))


def asking(begin: Callable[..., Desk], inputs: list[Any], summary: Callable[[Desk | None], Markup]) -> None:
    """Lay out question, clips, buttons and figures, and connect them.

    Args:
        begin: makes a desk from the annotator's name and the values of the other inputs.
        inputs: the first is the annotator's name, which whoever has logged in need not give.
        summary: HTML of what is known so far; None where nobody sits here yet.
    """
    with gr.Column(elem_classes="ft-keys"):
        start = gr.Button("Start", variant="primary", elem_classes="ft-start")
        question = gr.HTML(elem_classes="ft-question-box")
        clips = gr.HTML()
        buttons: dict[str, gr.Button] = {}
        with gr.Row():
            for word, (label, key) in BUTTONS.items():
                buttons[word] = gr.Button(
                    f"{label} ({key.upper()})", visible=False, elem_classes=f"ft-key-{key}", min_width=90
                )
            undo = gr.Button("Undo (U)", visible=False, elem_classes="ft-key-u", min_width=90)
        note = gr.HTML()
    figures = gr.HTML(lambda: summary(None))
    desk = gr.State(None)
    # What the browser shows as the button is pressed: two keys in haste must not answer what nobody saw.
    seen = gr.Textbox("", visible="hidden")
    shown = [desk, seen, question, clips, note, figures, *buttons.values(), undo]

    def on_start(request: gr.Request, name: str, *values: Any) -> list[Any]:
        try:
            made = begin(request.username or name, *values)
        except FT2RayError as error:
            return _screen(None, str(error), summary)
        return _screen(made, "", summary)

    def on_answer(word: str) -> Callable[[Desk, str], list[Any]]:
        def answer(made: Desk, seen: str) -> list[Any]:
            with made.lock:
                try:
                    said = "" if made.sitting.answer(word, seen) else "This one was answered already."
                except FT2RayError as error:
                    said = str(error)
                return _screen(made, said, summary)

        return answer

    def on_undo(made: Desk) -> list[Any]:
        with made.lock:
            try:
                said = "Taken back." if made.sitting.undo() else "There is nothing to take back."
            except FT2RayError as error:
                said = str(error)
            return _screen(made, said, summary)

    quiet: Mapping[str, Any] = {"outputs": shown, "show_progress": "hidden", "api_visibility": "private"}
    start.click(on_start, inputs, **quiet).then(None, js=SCROLL)
    for word, button in buttons.items():
        button.click(on_answer(word), [desk, seen], **quiet)
    undo.click(on_undo, [desk], **quiet)


def _screen(desk: Desk | None, said: str, summary: Callable[[Desk | None], Markup]) -> list[Any]:
    """Values of everything on the screen."""
    words: tuple[str, ...] = ()
    seen = ""
    question, clips = Markup(), Markup()
    if desk is not None:
        sitting = desk.sitting
        try:
            clips = players(sitting.show(desk.folder))
        except FT2RayError as error:
            said = str(error)
        task = sitting.task
        seen = "" if task is None else task.task_id
        if sitting.gone:
            said = f"{len(sitting.gone)} clips are gone and were passed over, such as {sitting.gone[0]}."
        if task is None:
            question = paragraph("That was all. Thank you.", "question")
        else:
            words = WORDS[task.kind]
            asked = next(d for d in sitting.source.dimensions if d.name == task.dimension)
            text = asked.question if task.kind == QUESTION else f"Which is better in {asked.title}, A or B?"
            question = paragraph(text, "question")
    try:
        figures = summary(desk)
    except FT2RayError as error:
        figures = paragraph(str(error), "error")
    keys = "Space plays. Letters in brackets are keys." if words else ""
    note = paragraph(said, "error" if said else "quiet") + paragraph(keys)
    visible = [gr.Button(visible=word in words) for word in BUTTONS]
    return [desk, seen, question, clips, note, figures, *visible, gr.Button(visible=desk is not None)]
