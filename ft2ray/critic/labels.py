"""People's answers about clips, from files: what a critic is tuned on and measured with.

A table (.csv, .jsonl or .parquet) has a row for each clip:

    clip    path or s3:// URL, from the table's own folder on
    mn ls vq (the critic's dimensions)    yes no 1 0 true false, empty for not known
    sound   optional: a file whose sound takes the place of the clip's own
    group   optional: clips of one group (one portrait, one prompt) are never parted between tuning and test

Capitals in these names do not matter; commas, semicolons and tabs may separate the fields of a CSV.

Two published layouts are known by their columns and imported, see `label_formats`. Every row that cannot be
used is named with its reason; none is left out in silence.

Shapes: N labels, K dimensions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft2ray.critic.omni.clip_file import header_fault
from ft2ray.errors import DataError
from ft2ray.records import content_id
from ft2ray.storage import exists, join, local_copy, local_path
from ft2ray.texts import decoded, strict_json

SHOWN = 20  # bad rows in one message
YES, NO = ("yes", "1", "true", "1.0"), ("no", "0", "false", "0.0")
UNKNOWN = float("nan")
SEPARATORS = ",;\t"


class BadCell(Exception):
    """One column of one row that cannot be used."""

    def __init__(self, column: str, reason: str):
        super().__init__(reason)
        self.column = column


@dataclass(frozen=True)
class Label:
    """What people said of one clip: 1 is yes, 0 no; a dimension that is not in `answers` is not known."""

    clip: str
    answers: dict[str, float]
    sound: str | None = None
    group: str | None = None

    def row(self, dimensions: Sequence[str]) -> np.ndarray:
        """label_K float64: 1, 0, or NaN where not known."""
        return np.array([self.answers.get(name, UNKNOWN) for name in dimensions])


@dataclass
class Table:
    """The rows of one file with their numbers, and what is wrong with any of them."""

    path: str
    columns: tuple[str, ...] = ()
    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    problems: list[tuple[int, str, str]] = field(default_factory=list)

    def complain(self) -> None:
        """ValueError that names the bad rows, if there are any: file, row, column, reason."""
        if not self.problems:
            return
        problems = sorted(self.problems)
        lines = [
            f"row {row}, column {column}: {reason}" if column else f"row {row}: {reason}"
            for row, column, reason in problems[:SHOWN]
        ]
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise DataError(
            f"labels: {self.path} has {len(problems)} cells or rows that cannot be used:\n  "
            + "\n  ".join(lines)
            + more
        )


def read_labels(path: str | Path, questions: Mapping[str, str]) -> list[Label]:
    """The labels of a file, in the order of their first rows; rows about one clip are put together.

    questions: of the critic, by dimension. Raises ValueError that names file, row, column and reason of
    everything that cannot be used.
    """
    from ft2ray.critic.label_formats import read_chat, read_pairwise  # they are built on this module

    table = read_table(str(path))
    read: Callable[[Mapping[str, Any]], list[Label]]
    if {"path_A", "path_B"} <= set(table.columns):
        read = read_pairwise
    elif {"messages", "prompt"} & set(table.columns):
        read = lambda row: read_chat(row, questions)  # noqa: E731
    else:
        table = _under_known_names(table, ("clip", "sound", "group", *questions))
        missing = [name for name in ("clip", *questions) if name not in table.columns]
        if missing:
            raise DataError(
                f"labels: {path} lacks the column {', '.join(missing)}; it has {', '.join(table.columns)} "
                "(a dimension of which nothing is known is an empty column)"
            )
        read = lambda row: [read_row(row, tuple(questions))]  # noqa: E731
    found: list[tuple[int, Label]] = []
    for number, row in table.rows:
        try:
            found += [(number, _located(label, str(path))) for label in read(row)]
        except BadCell as bad:
            table.problems.append((number, bad.column, str(bad)))
    labels = _merged(found, table, contradictions_are_unknown=read is read_pairwise)
    table.complain()
    if not any(label.answers for label in labels):
        raise DataError(f"labels: {path} holds not one answer")
    return labels


def _under_known_names(table: Table, known: Sequence[str]) -> Table:
    """The table with the known columns under their names, however these are written in the file."""
    there = set(table.columns)
    names = {
        column: next((n for n in known if n.lower() == column.lower() and n not in there), column)
        for column in table.columns
    }
    rows = [(number, {names[key]: value for key, value in row.items()}) for number, row in table.rows]
    return Table(table.path, tuple(names.values()), rows, table.problems)


def read_row(row: Mapping[str, Any], dimensions: Sequence[str]) -> Label:
    """One row of a plain table; BadCell where it cannot be used."""
    answers = {name: answer(row.get(name), name) for name in dimensions}
    return Label(
        text_of(row, "clip"),
        {name: value for name, value in answers.items() if value is not None},
        optional_text(row, "sound"),
        optional_text(row, "group"),
    )


def answer(value: Any, column: str) -> float | None:
    """1.0 for a yes, 0.0 for a no, None for nothing; BadCell for anything else."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    word = str(value).strip().lower().removesuffix(".")
    if not word:
        return None
    if word in YES or word in NO:
        return float(word in YES)
    raise BadCell(
        column, f"{str(value)[:60]!r} is not an answer; write yes, no, 1, 0, true, false or nothing"
    )


def text_of(row: Mapping[str, Any], column: str) -> str:
    """A text that must be there."""
    text = optional_text(row, column)
    if text is None:
        raise BadCell(column, "is empty")
    return text


def optional_text(row: Mapping[str, Any], column: str) -> str | None:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise BadCell(column, f"holds {value!r}, not a text")
    return (value or "").strip() or None


def _located(label: Label, table: str) -> Label:
    """The label with its paths from the table's folder on; BadCell where there is no such file."""
    root = table.rpartition("/")[0] or "."

    def locate(name: str, column: str) -> str:
        place = name if local_path(name) is None or Path(name).is_absolute() else join(root, name)
        if not exists(place):
            raise BadCell(column, f"there is no file {place}")
        return place

    sound = None if label.sound is None else locate(label.sound, "sound")
    return Label(locate(label.clip, "clip"), label.answers, sound, label.group)


def _merged(
    found: Sequence[tuple[int, Label]], table: Table, contradictions_are_unknown: bool
) -> list[Label]:
    """One label for each clip and sound. Contradicting rows are bad, or leave the answer unknown."""
    first: dict[tuple[str, str | None], Label] = {}
    said: dict[tuple[str, str | None, str], int] = {}
    unknown: set[tuple[str, str | None, str]] = set()
    for number, label in found:
        key = label.clip, label.sound
        kept = first.setdefault(key, Label(label.clip, {}, label.sound, label.group))
        for name, value in label.answers.items():
            place = (*key, name)
            row = said.setdefault(place, number)
            if kept.answers.setdefault(name, value) == value:
                continue
            if contradictions_are_unknown:
                unknown.add(place)
            else:
                table.problems.append((number, name, f"says the opposite of row {row} about {label.clip}"))
    for clip, sound, name in unknown:
        del first[clip, sound].answers[name]
    return list(first.values())


def read_table(path: str) -> Table:
    """Rows and columns of a .csv, .jsonl or .parquet file; a CSV's rows are numbered by their lines."""
    if not exists(path):
        raise DataError(f"labels: there is no file {path}")
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    kind = Path(path).suffix.lower()
    if kind not in readers:
        raise DataError(f"labels: {path} is not a {', '.join(readers)} file")
    table = Table(path)
    try:
        readers[kind](local_copy(path), table)
    except UnicodeDecodeError as error:
        raise DataError(f"labels: {path} is not {error.encoding} text; save it as UTF-8") from error
    except (csv.Error, pa.ArrowException) as error:
        raise DataError(f"labels: {path} cannot be read as {kind[1:]}: {error}") from error
    if not table.rows:
        table.complain()
        raise DataError(f"labels: {path} holds no rows")
    return table


def _read_csv(file: Path, table: Table) -> None:
    text = decoded(file.read_bytes())
    first, _, rest = text.partition("\n")
    separator = max(SEPARATORS, key=first.count)
    skipped = first.strip().lower().startswith("sep=")  # a line for Excel
    if skipped:
        text, separator = rest, first.strip()[4:5] or ","
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    table.columns = _once(table.path, [name.strip() for name in next(reader, [])])
    for row in filter(None, reader):
        number = reader.line_num + skipped
        if len(row) != len(table.columns):
            table.problems.append((number, "", f"has not the {len(table.columns)} fields of the first line"))
        else:
            table.rows.append((number, dict(zip(table.columns, row, strict=True))))


def _once(path: str, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns; those of a name that occurs twice would hide each other."""
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise DataError(f"labels: {path} has the column {', '.join(twice)} twice; delete or rename one")
    return tuple(columns)


def _read_jsonl(file: Path, table: Table) -> None:
    columns: dict[str, None] = {}
    for number, line in enumerate(io.StringIO(decoded(file.read_bytes()), newline=None), 1):
        if not line.strip():
            continue
        try:
            row = strict_json(line)
        except ValueError as error:
            table.problems.append((number, "", f"is not valid JSON: {error}"))
            continue
        if not isinstance(row, dict):
            table.problems.append((number, "", "is not a JSON object"))
            continue
        columns |= dict.fromkeys(row)
        table.rows.append((number, row))
    table.columns = tuple(columns)


def _read_parquet(file: Path, table: Table) -> None:
    table.columns = _once(table.path, pq.read_schema(file).names)
    table.rows = list(enumerate(pq.read_table(file).to_pylist(), 1))


def check_clips(labels: Sequence[Label]) -> None:
    """ValueError that names clips that cannot be used, by their headers; those on S3 are not asked."""
    local = [label for label in labels if local_path(label.clip) is not None]
    faults = [(label.clip, header_fault(label.clip, label.sound is None)) for label in local]
    bad = [f"{clip} {fault}" for clip, fault in faults if fault is not None]
    if bad:
        more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise DataError("labels: clips that cannot be used:\n  " + "\n  ".join(bad[:SHOWN]) + more)


def parted(labels: Sequence[Label], share: float, seed: int = 0) -> tuple[list[Label], list[Label]]:
    """Labels to tune on and held-out ones: about `share` of the groups (clips without one), by hash."""
    held_out = [label for label in labels if in_part(label, share, seed)]
    return [label for label in labels if not in_part(label, share, seed)], held_out


def in_part(label: Label, share: float, seed: int = 0) -> bool:
    """Whether the label's group (its clip without one) is in a part of about `share`, by hash."""
    return int(content_id(seed, label.group or Path(label.clip).name)[:8], 16) < share * 16**8
