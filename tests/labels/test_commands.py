"""The twins of the page in the terminal."""

import io
import json

import pytest

from ft2ray.cli import main
from ft2ray.labels.answers import answer_store, current, read_answers


@pytest.fixture
def typed(monkeypatch):
    """Type lines, then run a command."""

    def run(lines, *arguments):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        return main([str(argument) for argument in arguments])

    return run


def test_two_people_answer_in_the_terminal_and_their_agreement_and_labels_come_out(
    folder, tmp_path, typed, capsys
):
    assert typed(["y"] * 20, "annotate", folder, "--name", "Anna", "--dimension", "ls") == 0
    assert "That was all." in capsys.readouterr().out
    assert typed(["y", "maybe", "no", "u", "yes", "q"], "annotate", folder, "--name", "Bob") == 0
    out = capsys.readouterr().out
    assert "'maybe' is none of them" in out and "person" not in out, "names of clips tell too much"
    said = current(read_answers(answer_store(folder)))
    assert [a.answer for a in said if a.task.annotator == "Bob"] == ["yes", "yes"]
    assert typed([], "agree", folder, "--out", tmp_path / "labels.csv") == 0
    out = capsys.readouterr().out
    assert "ls: 6 clips" in out and "Anna: " in out and "labels.csv: " in out
    assert (tmp_path / "labels.csv").read_text().startswith("clip,mn,ls,vq,group\n")


def test_answers_of_label_studio_are_taken_over_once(folder, tmp_path, typed, capsys):
    task = {
        "data": {"video": "person0/0.mp4"},
        "annotations": [
            {
                "completed_by": 1,
                "created_at": "2026-05-04T10:00:00Z",
                "result": [{"from_name": "ls", "value": {"choices": ["No"]}}],
            }
        ],
    }
    (tmp_path / "x.json").write_text(json.dumps([task]))
    for new in (1, 0):
        assert typed([], "agree", folder, "--import", tmp_path / "x.json") == 0
        assert f"{new} of 1 answers are new" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("agree",), "holds no answers yet"),
        (("annotate", "--name", " "), "the name is empty"),
        (("annotate", "--name", "Anna", "--dimension", "smell"), "no dimension smell; there are mn, ls, vq"),
        (("blind-test",), "is not a run folder"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, typed, capsys, arguments, said):
    assert typed([], arguments[0], folder, *arguments[1:]) == 2
    assert said in capsys.readouterr().err
