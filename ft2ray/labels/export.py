"""Answers of several people as one table, in every layout that `ft2ray.critic.labels` reads.

    table   a row for each clip: clip, the dimensions (yes, no or nothing), group (.csv, .jsonl, .parquet)
    pairs   a row for each two clips that were compared: path_A, path_B and A, B or same by dimension
    chat    a row for each answer: a question about a clip, and Yes. or No. (.jsonl, .parquet)

What most people said counts; where they are divided equally the answer is not known. Attention checks are no
labels. A clip that is gone, or not the one any more that was seen, is left out and named.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft2ray.dimensions import Dimension
from ft2ray.errors import DataError
from ft2ray.labels.answers import FIRST, NO, PAIR, QUESTION, SECOND, TIE, YES, Answer
from ft2ray.records import content_id
from ft2ray.storage import exists, join, read_bytes, write_atomically

LAYOUTS = ("table", "pairs", "chat")
COMPARED = {"vq": "VQ", "mn": "MQ", "ls": "LS"}  # dimension -> column of a pair


@dataclass(frozen=True)
class Exported:
    """What was written, and what was not."""

    rows: int
    divided: int  # answers on which people are divided equally
    left_out: list[str]  # clips that are gone or are others than those that were seen


def export(
    out: str, answers: Iterable[Answer], root: str, dimensions: Sequence[Dimension], layout: str = "table"
) -> Exported:
    """Write the answers about the clips below `root` to one file, whole or not at all.

    `answers`: the current ones.

    Raises DataError where there is no answer or no such layout, or the file's ending does not fit it.
    """
    if layout not in LAYOUTS:
        raise DataError(f"labels: layout {layout!r} is unknown; take one of {', '.join(LAYOUTS)}")
    kind = Path(out).suffix.lower()
    allowed = (".jsonl", ".parquet") if layout == "chat" else tuple(WRITERS)
    if kind not in allowed:
        raise DataError(f"labels: {out} must end in {', '.join(allowed)} to hold the layout {layout}")
    wanted = PAIR if layout == "pairs" else QUESTION
    given = [a for a in answers if a.task.kind == wanted and a.task.check is None]
    there = _Unchanged(root)
    kept = [a for a in given if there(a.task.clip, a.clip_id) and there(a.task.other, a.other_id)]
    if layout == "pairs":
        rows, divided = _pair_rows(kept, root)
    else:
        rows, divided = _clip_rows(kept, root, [dimension.name for dimension in dimensions])
    if layout == "chat":
        rows = _chat_rows(rows, dimensions)
    if not rows:
        raise DataError(f"labels: {root} holds no answer yet that could be exported as {layout}")
    write_atomically(out, WRITERS[kind](rows))
    return Exported(len(rows), divided, sorted(there.left_out))


class _Unchanged:
    """Whether a clip is still the one that was seen; every file is read once."""

    def __init__(self, root: str):
        self.root, self.known, self.left_out = root, dict[str, str | None](), set[str]()

    def __call__(self, clip: str | None, seen: str | None) -> bool:
        if clip is None:
            return True
        if clip not in self.known:
            url = join(self.root, clip)
            self.known[clip] = content_id(read_bytes(url)) if exists(url) else None
        if self.known[clip] != seen:
            self.left_out.add(clip)
        return self.known[clip] == seen


def majority(words: Iterable[str]) -> str | None:
    """What most said; None where two answers were given equally often."""
    counts = Counter(words).most_common(2)
    return None if len(counts) > 1 and counts[0][1] == counts[1][1] else counts[0][0]


def _clip_rows(
    answers: Iterable[Answer], root: str, names: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    said: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    groups: dict[str, str | None] = {}
    for answer in answers:
        if answer.answer in (YES, NO):
            said[answer.task.clip][answer.task.dimension].append(answer.answer)
            groups[answer.task.clip] = answer.task.group
    rows, divided = [], 0
    for clip, by_dimension in sorted(said.items()):
        agreed = {name: majority(words) for name, words in by_dimension.items()}
        divided += sum(word is None for word in agreed.values())
        known = {name: agreed.get(name) or "" for name in names}
        rows.append({"clip": join(root, clip), **known, "group": groups[clip] or ""})
    return rows, divided


def _pair_rows(answers: Iterable[Answer], root: str) -> tuple[list[dict[str, Any]], int]:
    """Two bad ones are of one kind; a clip's side differs from person to person."""
    said: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        task = answer.task
        if task.dimension not in COMPARED or task.other is None or answer.answer is None:
            continue
        a, b = sorted((task.clip, task.other))
        words = {FIRST: "A", SECOND: "B"} if task.clip == a else {FIRST: "B", SECOND: "A"}
        if answer.answer in (*words, TIE, "bad"):
            said[a, b][task.dimension].append(words.get(answer.answer, "same"))
    rows, divided = [], 0
    for (a, b), by_dimension in sorted(said.items()):
        agreed = {name: majority(words) for name, words in by_dimension.items()}
        divided += sum(word is None for word in agreed.values())
        columns = {column: agreed.get(name) or "" for name, column in COMPARED.items()}
        rows.append({"path_A": join(root, a), "path_B": join(root, b), **columns})
    return rows, divided


def _chat_rows(rows: Iterable[dict[str, Any]], dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"<video>{dimension.question}"},
                {"role": "assistant", "content": f"{row[dimension.name].capitalize()}."},
            ],
            "videos": [row["clip"]],
        }
        for row in rows
        for dimension in dimensions
        if row[dimension.name]
    ]


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _jsonl(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[Sequence[dict[str, Any]]], bytes]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}
