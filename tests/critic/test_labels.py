"""Labels from files: what is written comes back, and what cannot be used is named."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.critic.labels import Label, check_clips, parted, read_labels
from ft2ray.critic.questions import QUESTIONS
from ft2ray.errors import DataError
from ft2ray.media.video import write_video

DIMENSIONS = tuple(QUESTIONS)
WORDS = {
    1.0: ("yes", "Yes.", "1", "true", "TRUE", " yes "),
    0.0: ("no", "No", "0", "false", "0.0"),
    None: ("", "  "),
}
ROWS = st.lists(
    st.tuples(*[st.sampled_from([1.0, 0.0, None]) for _ in DIMENSIONS]).filter(any), min_size=1, max_size=6
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where tables lie beside eight clips."""
    folder = tmp_path_factory.mktemp("labels")
    for n in range(8):
        (folder / f"{n}.mp4").write_bytes(b"")
    return folder


def write(folder, name, rows) -> str:
    path = folder / name
    if name.endswith("csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["clip", *DIMENSIONS])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["a.csv", "a.jsonl", "a.parquet"]), st.randoms(use_true_random=False))
def test_what_is_written_comes_back(folder, answers, name, random):
    rows = [
        {"clip": f"{n}.mp4"} | {d: random.choice(WORDS[v]) for d, v in zip(DIMENSIONS, row, strict=True)}
        for n, row in enumerate(answers)
    ]
    expected = [
        Label(f"{folder}/{n}.mp4", {d: v for d, v in zip(DIMENSIONS, row, strict=True) if v is not None})
        for n, row in enumerate(answers)
    ]
    assert read_labels(write(folder, name, rows), QUESTIONS) == expected


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["b.csv", "b.jsonl", "b.parquet"]), st.data())
def test_every_bad_cell_is_named_with_its_row(folder, answers, name, data):
    rows = [
        {"clip": f"{n}.mp4"} | {d: "" if v is None else str(v) for d, v in zip(DIMENSIONS, row, strict=True)}
        for n, row in enumerate(answers)
    ]
    bad = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
    for n in bad:
        column = data.draw(st.sampled_from(DIMENSIONS))
        rows[n][column] = "maybe"
    first = 2 if name == "b.csv" else 1  # the first line of a CSV is its header
    with pytest.raises(ValueError) as caught:
        read_labels(write(folder, name, rows), QUESTIONS)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(",")[0].strip() for line in lines] == [f"row {n + first}" for n in sorted(bad)]
    assert all("'maybe' is not an answer" in line for line in lines) and name in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(folder):
    path = folder / "wrong.csv"
    path.write_text("clip,mn,ls,vq\n0.mp4,yes,no,\n,yes,no,yes\nnone.mp4,1,0,1\n1.mp4,yes,no\n0.mp4,no,,\n")
    with pytest.raises(ValueError) as caught:
        read_labels(path, QUESTIONS)
    assert [line.strip().replace(f"{folder}/", "") for line in str(caught.value).splitlines()[1:]] == [
        "row 3, column clip: is empty",
        "row 4, column clip: there is no file none.mp4",
        "row 5: has not the 4 fields of the first line",
        "row 6, column mn: says the opposite of row 2 about 0.mp4",
    ]


def test_twenty_bad_rows_are_shown_and_the_rest_counted(folder):
    rows = [{"clip": "0.mp4", "mn": "perhaps", "ls": "", "vq": ""}] * 30
    with pytest.raises(ValueError, match="30 cells or rows") as caught:
        read_labels(write(folder, "many.csv", rows), QUESTIONS)
    lines = str(caught.value).splitlines()
    assert len(lines) == 22 and lines[-1].strip() == "and 10 more"


def test_broken_lines_of_jsonl_are_named(folder):
    path = folder / "broken.jsonl"
    path.write_text('{"clip": "0.mp4", "mn": true, "ls": null, "vq": 0}\n\n{"clip"\n[1]\n')
    with pytest.raises(ValueError, match="row 3: is not valid JSON[^\n]*\n  row 4: is not a JSON object"):
        read_labels(path, QUESTIONS)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.csv", "clip,mn,vq\n0.mp4,1,1\n", "lacks the column ls; it has clip, mn, vq"),
        ("x.csv", "clip,mn,ls,vq\n", "holds no rows"),
        ("x.csv", "clip,mn,ls,vq\n0.mp4,,,\n", "holds not one answer"),
        ("x.csv", "clip,mn,ls,vq,mn\n0.mp4,yes,no,1,no\n", "has the column mn twice"),
        ("x.csv", "clip,mn,ls,vq\n0.mp4,yes,no\n", "row 2: has not the 4 fields of the first line"),
        ("x.csv", "sep=;\nclip;mn;ls;vq\n0.mp4;yes;no\n", "row 3: has not the 4 fields"),
        ("x.csv", b"clip,mn,ls,vq\n0.mp4,y\xe9s,,\n", "x.csv is not utf-8 text; save it as UTF-8"),
        (
            "x.jsonl",
            '{"clip": "0.mp4", "mn": 1, "mn": 0}\n',
            "row 1: is not valid JSON: the key 'mn' occurs twice",
        ),
        ("x.jsonl", "[" * 100_000, "row 1: is not valid JSON: it is nested too deep"),
        ("x.xlsx", "", "is not a .csv, .jsonl, .parquet file"),
        ("x.parquet", "PAR1 nothing", "cannot be read as parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused(folder, name, content, message):
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError, match=message):
        read_labels(folder / name, QUESTIONS)
    with pytest.raises(ValueError, match="there is no file"):
        read_labels(folder / "absent.csv", QUESTIONS)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("clip,mn,ls,vq\n0.mp4,yes,no,1\n", "utf-8"),
        ("clip,mn,ls,vq\r\n0.mp4,yes,no,1\r\n", "utf-8-sig"),
        ("clip,mn,ls,vq\n0.mp4,yes,no,1\n", "utf-16"),
        ("clip;mn;ls;vq\n0.mp4;yes;no;1\n", "utf-8"),
        ("sep=;\r\nclip;mn;ls;vq\r\n0.mp4;yes;no;1\r\n", "utf-8-sig"),
        ("clip\tmn\tls\tvq\n0.mp4\tyes\tno\t1\n", "utf-8"),
        ("Clip, MN, LS, VQ\n0.mp4, yes, no, 1\n", "utf-8"),
        ('"clip","mn","ls","vq",\n"0.mp4","yes","no","1",\n', "utf-8"),
    ],
)
def test_tables_of_spreadsheets_are_read_as_they_are_saved(folder, text, encoding):
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    (label,) = read_labels(folder / "labels.csv", QUESTIONS)
    assert label.clip.endswith("0.mp4") and label.answers == {"mn": 1.0, "ls": 0.0, "vq": 1.0}


def test_a_column_of_a_parquet_file_that_occurs_twice_is_refused(folder):
    columns = [pa.array([value]) for value in ("0.mp4", "yes", "no", "no", "no")]
    table = pa.Table.from_arrays(columns, names=["clip", "mn", "mn", "ls", "vq"])
    pq.write_table(table, folder / "labels.parquet")
    with pytest.raises(DataError, match="has the column mn twice"):
        read_labels(folder / "labels.parquet", QUESTIONS)


def test_pairs_in_the_manner_of_videoalign(folder):
    """Columns as in the README of its training data."""
    path = folder / "pairs.csv"
    path.write_text(
        "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B\n"
        "./0.mp4,./1.mp4,a woman speaks,A,same,B,25,75,25,75\n"
        "./2.mp4,./0.mp4,a woman speaks,A,B,A,25,75,25,75\n"
    )
    first, second, third = read_labels(path, QUESTIONS)
    assert first.answers == {"mn": 1.0}  # better than one, worse than the other: its quality is not known
    assert second.answers == {"vq": 0.0} and third.answers == {"vq": 1.0, "mn": 0.0}
    path.write_text(path.read_text().replace("A,same,B,", "A,both,B,"))
    with pytest.raises(ValueError, match="row 2, column MQ: 'both' is not a preference"):
        read_labels(path, QUESTIONS)


def chat(question, said, **more):
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    } | more


def asked(name):
    return {"role": "user", "content": f"<video>{QUESTIONS[name]}"}


def test_chats_in_the_manner_of_ms_swift_and_trl(folder):
    (folder / "other.wav").write_bytes(b"")
    path = folder / "chat.jsonl"
    video = {"type": "video", "video": "1.mp4"}
    rows = [
        chat("<video>Is the motion natural?", "Yes.", videos=["0.mp4"]),
        chat(
            "<video><audio>\nIs the lip synchronized? Answer yes or no.",
            "no",
            videos=["0.mp4"],
            audios=["0.mp4"],
        ),
        chat("<video>Is the visual quality good?", "Yes", videos=["0.mp4"], audios=["other.wav"]),
        {
            "prompt": [{"role": "user", "content": [video, {"type": "text", "text": QUESTIONS["ls"]}]}],
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": "Yes."}]}],
        },
        {
            "messages": [{"role": "user", "content": f"<video>{QUESTIONS['vq']}"}],
            "videos": ["2.mp4"],
            "solution": "No",
        },
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_labels(path, QUESTIONS) == [
        Label(f"{folder}/0.mp4", {"mn": 1.0, "ls": 0.0}),
        Label(f"{folder}/0.mp4", {"vq": 1.0}, sound=f"{folder}/other.wav"),
        Label(f"{folder}/1.mp4", {"ls": 1.0}),
        Label(f"{folder}/2.mp4", {"vq": 0.0}),
    ]


@pytest.mark.parametrize(
    "row, message",
    [
        (
            chat("<video>Is it art?", "Yes.", videos=["0.mp4"]),
            "column messages: asks none of the critic's questions",
        ),
        (
            chat(QUESTIONS["mn"], "It depends.", videos=["0.mp4"]),
            "column messages: 'It depends.' is not an answer",
        ),
        (chat(QUESTIONS["mn"], "Yes.", videos=[]), "column videos: names 0 clips"),
        (chat(QUESTIONS["mn"], "Yes.", videos=["0.mp4", "1.mp4"]), "column videos: names 2 clips"),
        (chat(QUESTIONS["mn"], "Yes.", videos=[{"bytes": "AAA"}]), "column videos: .* not a path"),
        (
            {"messages": [{"role": "user", "content": QUESTIONS["mn"]}], "videos": ["0.mp4"]},
            "no question with an answer",
        ),
        ({"messages": "hello", "videos": ["0.mp4"]}, "is not a list of turns"),
    ],
)
def test_chats_that_can_not_be_used_are_named(folder, row, message):
    path = folder / "bad chat.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=f"row 1, {message}" if message.startswith("column") else message):
        read_labels(path, QUESTIONS)


def test_clips_whose_headers_say_no_are_named(folder):
    silent = write_video(folder / "silent.mp4", np.zeros((5, 16, 16, 3), np.uint8), 25, None)
    other = Label(str(silent), {"mn": 1.0}, sound="other.wav")
    check_clips([other])
    with pytest.raises(ValueError, match="silent.mp4 has no sound\n  .*0.mp4 is not a readable video"):
        check_clips([other, Label(str(silent), {"mn": 1.0}), Label(f"{folder}/0.mp4", {"mn": 1.0})])


def test_groups_are_never_parted():
    labels = [Label(f"{n}.mp4", {"mn": 1.0}, group=f"portrait {n % 10}") for n in range(200)]
    rest, held_out = parted(labels, 0.3)
    assert not {label.group for label in rest} & {label.group for label in held_out}
    assert len(rest) + len(held_out) == 200 and rest and held_out
    assert parted(labels, 0.3) == (rest, held_out) and parted(labels, 0.3, seed=1) != (rest, held_out)
    assert parted(labels, 0.0) == (labels, [])
