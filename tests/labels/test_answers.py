"""Answers: none is lost, none is there twice, whoever writes and dies."""

import multiprocessing
import os
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.errors import StoreRefused, UserError
from ft2ray.labels.answers import Answer, Task, annotator_name, answer_store, current, read_answers


def test_an_answer_comes_back_as_it_was_given(tmp_path, said):
    store = answer_store(tmp_path)
    one = said("Anna", "a.mp4", "yes", group="p", seconds=2.5, answered=7.0, place=3)
    two = said("Bob", "a.mp4", "a", kind="pair", other="b.mp4", other_id="x", answered=8.0)
    for answer in (one, two):
        assert store.commit_once([answer.to_row()])
    assert read_answers(answer_store(tmp_path)) == [one, two]


def test_which_clip_stands_on_the_left_does_not_make_another_task():
    assert (
        Task("pair", "Anna", "ls", "a", "b").task_id
        == Task("pair", "Anna", "ls", "b", "a", group="g").task_id
        != Task("pair", "Bob", "ls", "a", "b").task_id
    )


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["yes", "no", None])), max_size=20))
@settings(max_examples=50)
def test_the_last_revision_counts_and_an_answer_taken_back_does_not(history):
    """Against a plain model: a dictionary that is written to."""
    model: dict[str, str | None] = {}
    rows = []
    for moment, (clip, word) in enumerate(history):
        task = Task("question", "Anna", "ls", str(clip))
        revision = sum(row.task == task for row in rows)
        rows.append(Answer(task, word, revision, "id", answered=float(moment)))
        model[str(clip)] = word
    expected = {clip: word for clip, word in model.items() if word is not None}
    assert {answer.task.clip: answer.answer for answer in current(rows)} == expected
    assert current(reversed(rows)) is not None and len(current(reversed(rows))) == len(expected)


def test_the_same_answer_twice_is_one_row_and_the_first_one_stays(tmp_path, said):
    assert answer_store(tmp_path).commit_once([said("Anna", "a.mp4", "yes").to_row()])
    assert not answer_store(tmp_path).commit_once([said("Anna", "a.mp4", "no").to_row()])
    assert [answer.answer for answer in read_answers(answer_store(tmp_path))] == ["yes"]


def _write(root, name, start, count):
    start.wait()
    store = answer_store(root)
    for n in range(count):
        task = Task("question", name, "ls", f"{n}.mp4")
        store.commit_once([Answer(task, "yes", 0, "id", answered=time.time()).to_row()])


@pytest.mark.slow
def test_of_two_writers_at_once_one_of_which_is_killed_nothing_is_lost_and_nothing_twice(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    count = 150
    writers = [
        context.Process(target=_write, args=(tmp_path, name, start, count)) for name in ("Anna", "Bob")
    ]
    for writer in writers:
        writer.start()
    start.wait(60)
    store = answer_store(tmp_path)
    while sum(answer.task.annotator == "Bob" for answer in read_answers(store)) < 20:
        time.sleep(0.01)
    os.kill(writers[1].pid, signal.SIGKILL)
    for writer in writers:
        writer.join(120)
    assert writers[0].exitcode == 0 and writers[1].exitcode == -signal.SIGKILL
    answers = read_answers(answer_store(tmp_path))
    clips = {name: [a.task.clip for a in answers if a.task.annotator == name] for name in ("Anna", "Bob")}
    assert sorted(clips["Anna"]) == sorted(f"{n}.mp4" for n in range(count))
    kept = len(clips["Bob"])
    assert 20 <= kept < count, "the writer was to be killed in the middle"
    assert sorted(clips["Bob"]) == sorted(f"{n}.mp4" for n in range(kept))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_may_not_be_written_to_says_so(tmp_path, said):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels").chmod(0o500)
    with pytest.raises(StoreRefused, match="permission denied"):
        answer_store(tmp_path).commit_once([said("Anna", "a.mp4", "yes").to_row()])


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 81, "\x00"])
def test_a_name_that_cannot_be_kept_is_refused(name):
    with pytest.raises(UserError, match="annotator"):
        annotator_name(name)


def test_a_hostile_name_is_kept_as_it_is(tmp_path, said):
    name = "<script>alert(1)</script> ../../x"
    store = answer_store(tmp_path)
    store.commit_once([said(annotator_name(name), "a.mp4", "yes").to_row()])
    assert read_answers(store)[0].task.annotator == name
