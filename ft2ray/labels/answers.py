"""Answers of people about clips: rows that are only ever added, each of which appears whole or not at all.

A task is what one annotator is asked of one clip, or of two side by side. Its answers are numbered by
revision, and the id of a row hashes task and revision: the same answer given twice (a double click, a page
that is open twice) is one row, and of two writers at once the first one stays. Taking an answer back is one
more revision, without an answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ft2ray.errors import UserError
from ft2ray.records import content_id
from ft2ray.storage import RowStore, join

QUESTION, PAIR, BLIND = "question", "pair", "blind"  # kinds of tasks; the last one is the blind test's
YES, NO, SKIP = "yes", "no", "skip"
FIRST, SECOND, TIE, BOTH_BAD = "a", "b", "tie", "bad"
WORDS = {
    QUESTION: (YES, NO, SKIP),
    PAIR: (FIRST, SECOND, TIE, BOTH_BAD, SKIP),
    BLIND: (FIRST, SECOND, TIE, SKIP),
}
REPEAT, WRONG_SOUND = "repeat", "wrong_sound"  # attention checks
MAX_NAME = 80

ANSWER = pa.schema(
    [
        ("answer_id", pa.string()),
        ("task_id", pa.string()),
        ("revision", pa.int32()),
        ("kind", pa.string()),
        ("annotator", pa.string()),
        ("dimension", pa.string()),
        ("clip", pa.string()),  # path below the labelled folder; of two the left one, which is called A
        ("other", pa.string()),  # the right one, B
        ("clip_id", pa.string()),  # content of the file that was seen
        ("other_id", pa.string()),
        ("group", pa.string()),  # clips of one group are never parted between tuning and test
        ("sound", pa.string()),  # the clip whose sound was played in place of the own one
        ("check", pa.string()),  # which attention check this is; null for none
        ("answer", pa.string()),  # one of WORDS; null where the answer before is taken back
        ("place", pa.int32()),  # how many answers the annotator had given before
        ("seconds", pa.float64()),  # from the moment the clip was shown
        ("answered", pa.float64()),  # seconds since 1970
    ]
)


@dataclass(frozen=True)
class Task:
    """What one annotator is asked; see the schema for the fields."""

    kind: str
    annotator: str
    dimension: str
    clip: str
    other: str | None = None
    group: str | None = None
    sound: str | None = None
    check: str | None = None

    @cached_property
    def task_id(self) -> str:
        """Identity: which of two clips stands on the left does not matter."""
        clips = sorted(filter(None, (self.clip, self.other)))
        return content_id(self.kind, self.annotator, self.dimension, clips, self.sound, self.check)


@dataclass(frozen=True)
class Answer:
    """One answer to a task; None takes the one before back."""

    task: Task
    answer: str | None
    revision: int
    clip_id: str
    other_id: str | None = None
    place: int = 0
    seconds: float = 0.0
    answered: float = 0.0

    def to_row(self) -> dict[str, Any]:
        row = dataclasses.asdict(self.task) | {
            name: getattr(self, name) for name in ANSWER.names if name in _OWN
        }
        row["task_id"] = self.task.task_id
        return row | {"answer_id": content_id(self.task.task_id, self.revision)}

    @staticmethod
    def from_row(row: dict[str, Any]) -> Answer:
        task = Task(**{field.name: row[field.name] for field in dataclasses.fields(Task)})
        return Answer(task, **{name: row[name] for name in _OWN})


_OWN = tuple(field.name for field in dataclasses.fields(Answer) if field.name != "task")


def answer_store(url: str | Path) -> RowStore:
    """Where the answers about the clips of a folder are, which may be a run's."""
    return RowStore(join(url, "labels"), ANSWER, "answer_id", what="an answer")


def read_answers(store: RowStore) -> list[Answer]:
    """All rows in the order in which they were given."""
    return sorted(map(Answer.from_row, store.rows()), key=lambda answer: (answer.answered, answer.revision))


def current(answers: Iterable[Answer]) -> list[Answer]:
    """The last revision of every task, in the order given; those that were taken back are left out."""
    newest: dict[str, Answer] = {}
    for answer in answers:
        before = newest.get(answer.task.task_id)
        if before is None or before.revision < answer.revision:
            newest.pop(answer.task.task_id, None)  # a later answer stands at a later place
            newest[answer.task.task_id] = answer
    return [answer for answer in newest.values() if answer.answer is not None]


def annotator_name(text: str) -> str:
    """A name as it is kept.

    Raises UserError where there is no name, or it is not a single line of text.
    """
    name = text.strip()
    if not name:
        raise UserError("annotator: the name is empty; type the name under which your answers are kept")
    if len(name) > MAX_NAME or not name.isprintable():
        raise UserError(
            f"annotator: a name is one line of at most {MAX_NAME} printable characters; take another one"
        )
    return name
