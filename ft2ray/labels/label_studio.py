"""Answers that were given in Label Studio, from its JSON export.

A task names its clip in `data` (under `video`, or the only field with the name of a clip); each result of an
annotation names a dimension in `from_name` and says yes or no by its choice. Whose annotation it is says
`completed_by`. What cannot be used is named with its task; nothing is left out in silence.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ft2ray.errors import DataError
from ft2ray.labels.answers import NO, QUESTION, YES, Answer, Task, annotator_name
from ft2ray.labels.clips import PLAYABLE, Source
from ft2ray.records import content_id
from ft2ray.storage import base_name, exists, join, read_bytes
from ft2ray.texts import decoded, strict_json

SHOWN = 10  # faults in one message


class _Fault(Exception):
    """Why a task cannot be used."""


def read_label_studio(path: str, source: Source) -> list[Answer]:
    """The answers of an export about clips of `source`, which are found by their path or their file's name.

    Raises DataError that names every task that cannot be used.
    """
    if not exists(path):
        raise DataError(f"labels: there is no file {path}")
    try:
        tasks = strict_json(decoded(read_bytes(path)))
    except ValueError as error:
        raise DataError(f"labels: {path} is not valid JSON: {error}") from error
    if not isinstance(tasks, list):
        raise DataError(f"labels: {path} is not a list of tasks; export it as JSON (not JSON-MIN)")
    answers: list[Answer] = []
    faults = []
    for number, task in enumerate(tasks, 1):
        try:
            answers += _answers(task, source)
        except _Fault as fault:
            faults.append(f"task {number}: {fault}")
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"labels: {path} has tasks that cannot be used:\n  " + "\n  ".join(faults[:SHOWN]) + more
        )
    if not answers:
        raise DataError(f"labels: {path} holds not one answer")
    return answers


def _answers(task: Any, source: Source) -> Iterator[Answer]:
    if not isinstance(task, Mapping) or not isinstance(task.get("data"), Mapping):
        raise _Fault("it has no data; export it as JSON (not JSON-MIN)")
    clip = _clip(task["data"], source)
    clip_id = content_id(read_bytes(join(source.url, clip.path)))
    names = {dimension.name for dimension in source.dimensions}
    for annotation in task.get("annotations") or ():
        if annotation.get("was_cancelled"):
            continue
        person = _person(annotation.get("completed_by"))
        for result in annotation.get("result") or ():
            if result.get("from_name") not in names:
                raise _Fault(
                    f"it answers {str(result.get('from_name'))[:40]!r}; known are {', '.join(sorted(names))}"
                )
            asked = Task(QUESTION, person, result["from_name"], clip.path, group=clip.group)
            yield Answer(
                asked,
                _word(result.get("value")),
                revision=0,
                clip_id=clip_id,
                seconds=float(annotation.get("lead_time") or 0.0),
                answered=_moment(annotation.get("created_at")),
            )


def _clip(data: Mapping[str, Any], source: Source) -> Any:
    texts = [value for value in data.values() if isinstance(value, str)]
    named = [data["video"]] if isinstance(data.get("video"), str) else texts
    named = [text for text in named if text.lower().partition("?")[0].endswith(PLAYABLE) or "?d=" in text]
    if len(named) != 1:
        raise _Fault(f"its data names {len(named)} clips; it must name one")
    # Label Studio serves local files as /data/local-files/?d=folder/clip.mp4.
    path = urllib.parse.unquote(named[0].rpartition("?d=")[2])
    found = [clip for clip in source.clips if path == clip.path or path.endswith("/" + clip.path)]
    found = found or [clip for clip in source.clips if base_name(clip.path) == base_name(path)]
    if len(found) != 1:
        raise _Fault(f"{path[:80]} is {len(found) or 'none'} of the clips of {source.url}")
    return found[0]


def _person(completed_by: Any) -> str:
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("username") or completed_by.get("id")
    if completed_by is None:
        raise _Fault("an annotation says nothing of who completed it")
    return annotator_name(str(completed_by))


def _word(value: Any) -> str:
    choices = value.get("choices") if isinstance(value, Mapping) else None
    if not isinstance(choices, Sequence) or len(choices) != 1:
        raise _Fault(f"an answer holds {str(value)[:60]}, it must hold one choice")
    word = str(choices[0]).strip().lower().removesuffix(".")
    if word not in (YES, NO):
        raise _Fault(f"the choice {str(choices[0])[:40]!r} is neither Yes nor No")
    return word


def _moment(text: Any) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError as error:
        raise _Fault(
            f"its annotation was created at {str(text)[:40]!r}, which is not a date and time"
        ) from error
