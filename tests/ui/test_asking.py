"""The functions behind the buttons, without a browser."""

from types import SimpleNamespace

import gradio as gr
import pytest

from ft2ray.labels.answers import answer_store, read_answers
from ft2ray.labels.clips import open_source
from ft2ray.ui.asking import BUTTONS
from ft2ray.ui.label import KINDS, ORDERS, label_tab


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "clips" / name).write_bytes(name.encode())
    return tmp_path / "clips"


@pytest.fixture
def tab(folder, tmp_path):
    """The buttons: begin(name), press[word](desk, seen), undo(desk); each gives what is on the screen."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with gr.Blocks(analytics_enabled=False) as page:
        label_tab(open_source(folder), scratch)
    found = {
        name: [f.fn for f in page.fns.values() if f.name == name]
        for name in ("on_start", "answer", "on_undo")
    }

    def begin(name, username=None):
        request = SimpleNamespace(username=username)
        return found["on_start"][0](request, name, "all", next(iter(KINDS)), next(iter(ORDERS)))

    return SimpleNamespace(
        begin=begin, press=dict(zip(BUTTONS, found["answer"], strict=True)), undo=found["on_undo"][0]
    )


def answers(folder):
    return [(row.task.annotator, row.answer) for row in read_answers(answer_store(folder))]


def test_a_key_that_comes_late_answers_nothing_that_was_not_seen(tab, folder):
    desk, seen, *_ = tab.begin("Anna")
    _, then, *_ = tab.press["yes"](desk, seen)
    _, still, *screen = tab.press["no"](desk, seen)
    assert then != seen and still == then and "answered already" in "".join(map(str, screen))
    assert answers(folder) == [("Anna", "yes")]
    assert tab.undo(desk)[1] == seen
    assert answers(folder) == [("Anna", "yes"), ("Anna", None)]


def test_who_has_logged_in_is_the_annotator_whatever_is_typed(tab, folder):
    desk, seen, *_ = tab.begin("Bob", username="Anna")
    tab.press["skip"](desk, seen)
    assert answers(folder) == [("Anna", "skip")]


def test_a_clip_that_is_deleted_while_it_is_seen_is_one_sentence_and_the_next_one_comes(tab, folder):
    desk, seen, *_ = tab.begin("Anna")
    (folder / desk.sitting.task.clip).unlink()
    _, then, *screen = tab.press["yes"](desk, seen)
    assert then not in ("", seen) and "clips are gone and were passed over" in "".join(map(str, screen))
    assert answers(folder) == []


def test_a_store_that_cannot_be_written_to_is_one_sentence_and_the_clip_stays(tab, folder):
    desk, seen, *_ = tab.begin("Anna")
    (folder / "labels").write_text("a file where the folder should be")
    _, still, *screen = tab.press["yes"](desk, seen)
    assert still == seen and "is a file, not a folder" in "".join(map(str, screen))


def test_without_a_name_nothing_begins(tab):
    desk, seen, *screen = tab.begin("  ")
    assert desk is None and seen == "" and "type the name" in "".join(map(str, screen))
