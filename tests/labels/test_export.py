"""Every layout comes back through the reader that critics are tuned with."""

import json

import pytest

from ft2ray.critic.labels import read_labels
from ft2ray.dimensions import DEFAULT_DIMENSIONS, questions
from ft2ray.errors import DataError
from ft2ray.labels.clips import open_source
from ft2ray.labels.export import export, majority
from ft2ray.labels.label_studio import read_label_studio
from ft2ray.records import content_id

QUESTIONS = questions(DEFAULT_DIMENSIONS)
A, B, C = "person0/0.mp4", "person0/1.mp4", "person1/0.mp4"


@pytest.fixture
def given(folder, said):
    """An answer about a clip as it is on the disk."""

    def make(annotator, clip, word, dimension="ls", **more):
        ids = {"clip_id": content_id((folder / clip).read_bytes())}
        if "other" in more:
            ids["other_id"] = content_id((folder / more["other"]).read_bytes())
        return said(annotator, clip, word, dimension, group=clip.partition("/")[0], **ids, **more)

    return make


def people(given):
    answers = [given(name, A, "yes") for name in ("Anna", "Bob")]
    answers += [given("Eve", A, "no"), given("Anna", A, "no", "vq")]
    answers += [given("Anna", B, "yes"), given("Bob", B, "no"), given("Anna", B, "skip", "vq")]
    answers += [given("Anna", C, "no", "mn"), given("Bob", C, "yes", "ls", check="wrong_sound", sound=A)]
    return answers


@pytest.mark.parametrize(
    "name, layout",
    [(f"x.{kind}", layout) for layout in ("table", "chat") for kind in ("csv", "jsonl", "parquet")][:3]
    + [("x.jsonl", "chat"), ("x.parquet", "chat")],
)
def test_answers_come_back_as_labels(tmp_path, folder, given, name, layout):
    out = tmp_path / name
    done = export(str(out), people(given), str(folder), DEFAULT_DIMENSIONS, layout)
    labels = {label.clip.removeprefix(f"{folder}/"): label for label in read_labels(out, QUESTIONS)}
    assert {clip: label.answers for clip, label in labels.items() if label.answers} == {
        A: {"ls": 1.0, "vq": 0.0},
        C: {"mn": 0.0},
    }
    assert done.divided == 1 and done.left_out == []
    if layout == "table":
        assert labels[A].group == "person0" and done.rows == 3


def test_pairs_come_back_whichever_side_a_clip_stood_on(tmp_path, folder, given):
    out = tmp_path / "pairs.csv"
    answers = [
        given("Anna", A, "a", kind="pair", other=B),
        given("Bob", B, "b", kind="pair", other=A),
        given("Eve", A, "b", kind="pair", other=B),
        given("Anna", B, "tie", "vq", kind="pair", other=A),
    ]
    export(str(out), answers, str(folder), DEFAULT_DIMENSIONS, "pairs")
    answered = {label.clip.removeprefix(f"{folder}/"): label.answers for label in read_labels(out, QUESTIONS)}
    assert answered == {A: {"ls": 1.0}, B: {"ls": 0.0}}


def test_a_clip_that_is_gone_or_another_one_now_is_left_out_and_named(tmp_path, folder, given):
    answers = people(given)
    (folder / A).write_bytes(b"another clip")
    (folder / B).unlink()
    done = export(str(tmp_path / "x.csv"), answers, str(folder), DEFAULT_DIMENSIONS)
    assert done.left_out == [A, B]
    assert [label.clip for label in read_labels(tmp_path / "x.csv", QUESTIONS)] == [str(folder / C)]


def test_a_layout_in_a_file_that_cannot_hold_it_and_no_answer_at_all_are_refused(tmp_path, folder, given):
    with pytest.raises(DataError, match="must end in .jsonl, .parquet"):
        export(str(tmp_path / "x.csv"), people(given), str(folder), DEFAULT_DIMENSIONS, "chat")
    with pytest.raises(DataError, match="no answer yet"):
        export(str(tmp_path / "x.csv"), [], str(folder), DEFAULT_DIMENSIONS)
    with pytest.raises(DataError, match="take one of table, pairs, chat"):
        export(str(tmp_path / "x.csv"), people(given), str(folder), DEFAULT_DIMENSIONS, "rows")


def test_who_is_divided_equally_knows_nothing():
    assert majority(["yes", "no"]) is None and majority(["yes", "no", "no"]) == "no"


def label_studio(video, choice="Yes", dimension="ls", person=3, **annotation):
    return {
        "data": {"video": video},
        "annotations": [
            {
                "completed_by": person,
                "created_at": "2026-05-04T10:00:00.5Z",
                "lead_time": 4.2,
                "result": [{"from_name": dimension, "type": "choices", "value": {"choices": [choice]}}],
            }
            | annotation
        ],
    }


@pytest.fixture
def imported(tmp_path, folder):
    def read(tasks):
        (tmp_path / "export.json").write_text(json.dumps(tasks))
        return read_label_studio(str(tmp_path / "export.json"), open_source(folder))

    return read


def test_label_studio_is_read_with_its_people_and_times(imported, folder):
    answers = imported(
        [
            label_studio(f"/data/local-files/?d=clips/{A}"),
            label_studio(f"/data/local-files/?d=clips/{B}", "No", "vq", {"email": "eve@example.org"}),
            label_studio(f"s3://bucket/{C}", was_cancelled=True),
        ]
    )
    assert [(a.task.clip, a.task.dimension, a.task.annotator, a.answer) for a in answers] == [
        (A, "ls", "3", "yes"),
        (B, "vq", "eve@example.org", "no"),
    ]
    assert answers[0].seconds == 4.2 and answers[0].answered == 1777888800.5
    assert answers[0].clip_id == content_id((folder / A).read_bytes())


@pytest.mark.parametrize(
    "task, said",
    [
        (label_studio("elsewhere/9.mp4"), "is none of the clips"),
        (label_studio("0.mp4"), "is 3 of the clips"),
        (label_studio(A, "Maybe"), "neither Yes nor No"),
        (label_studio(A, dimension="smell"), "answers 'smell'"),
        (label_studio(A, person=None), "who completed it"),
        (label_studio(A, created_at="yesterday"), "not a date and time"),
        ({"id": 1}, "it has no data"),
    ],
)
def test_a_task_that_cannot_be_used_is_named(imported, task, said):
    with pytest.raises(DataError, match=f"task 2: .*{said}"):
        imported([label_studio(A), task])
