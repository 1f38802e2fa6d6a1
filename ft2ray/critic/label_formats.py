"""Labels in two published layouts, row by row.

VideoAlign (KwaiVGI): pairs of clips, path_A, path_B, and who is better in VQ, MQ (and LS): A, B or same.
A preference says nothing of either clip alone; as Yes-or-No labels the better one of a pair counts as Yes and
the other as No, `same` as not known, and a clip that wins here and loses there as not known. TA (does the
clip fit its text) has no question here.

TRL and ms-swift: a chat, `messages` (or `prompt` and `completion`) with one of the critic's questions in each
user turn and Yes or No in each answer, its clip in `videos` or in the turn itself, a sound of its own in
`audios`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ft2ray.critic.labels import BadCell, Label, answer, text_of

COMPARED = {"VQ": "vq", "MQ": "mn", "LS": "ls"}
ANSWER_COLUMNS = ("answer", "solution", "response")  # where a chat ends with the question


def read_pairwise(row: Mapping[str, Any]) -> list[Label]:
    """Both clips of a VideoAlign row."""
    clips = [text_of(row, column) for column in ("path_A", "path_B")]
    answers: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for column, name in COMPARED.items():
        word = str(row.get(column) or "").strip().lower()
        if word in ("a", "b"):
            answers[0][name], answers[1][name] = float(word == "a"), float(word == "b")
        elif word not in ("", "same"):
            raise BadCell(column, f"{row[column]!r} is not a preference; write A, B or same")
    group = " | ".join(sorted(clips))
    return [Label(clip, said, group=group) for clip, said in zip(clips, answers, strict=True)]


def read_chat(row: Mapping[str, Any], questions: Mapping[str, str]) -> list[Label]:
    """The clip of one chat, with as many answers as it has questions."""
    messages = row.get("messages") or [*_turns(row, "prompt"), *_turns(row, "completion")]
    if not isinstance(messages, Sequence) or not all(isinstance(one, Mapping) for one in messages):
        raise BadCell("messages", "is not a list of turns with role and content")
    said = [(one.get("role"), _text(one.get("content")), one.get("content")) for one in messages]
    answers: dict[str, float] = {}
    asked: str | None = None
    for role, text, _ in [*said, *_answer_beside(row)]:
        if role == "user":
            asked = _dimension(text, questions)
        elif role == "assistant" and asked is not None:
            value = answer(text, "messages")
            if value is None:
                raise BadCell("messages", "has an empty answer")
            answers[asked], asked = value, None
    if not answers:
        raise BadCell("messages", "holds no question with an answer")
    videos = _media(row, "videos") or [path for *_, content in said for path in _inside(content, "video")]
    sounds = _media(row, "audios") or [path for *_, content in said for path in _inside(content, "audio")]
    if len(videos) != 1:
        raise BadCell("videos", f"names {len(videos)} clips; give one")
    if len(sounds) > 1:
        raise BadCell("audios", f"names {len(sounds)} sounds; give one at most")
    other = [sound for sound in sounds if sound != videos[0]]  # else it is the clip's own
    return [Label(videos[0], answers, other[0] if other else None)]


def _turns(row: Mapping[str, Any], column: str) -> Sequence[Any]:
    value = row.get(column) or []
    if isinstance(value, str):  # TRL's plain form of prompt and completion
        return [{"role": "user" if column == "prompt" else "assistant", "content": value}]
    if not isinstance(value, Sequence):
        raise BadCell(column, "is neither text nor a list of turns")
    return value


def _answer_beside(row: Mapping[str, Any]) -> list[tuple[str, str, None]]:
    return [("assistant", str(row[name]), None) for name in ANSWER_COLUMNS if row.get(name) is not None]


def _text(content: Any) -> str:
    """The words of a turn: a text with <video> and <audio> marks in it, or a list of typed parts."""
    if isinstance(content, str):
        return re.sub(r"<(video|audio|image)>", " ", content)
    if not isinstance(content, Sequence):
        raise BadCell("messages", "has a turn without content")
    return " ".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))


def _dimension(text: str, questions: Mapping[str, str]) -> str:
    """Which of the critic's questions a turn asks."""
    words = _plain(text)
    found = [name for name, question in questions.items() if _plain(question) in words]
    if len(found) != 1:
        raise BadCell(
            "messages", f"asks {len(found) or 'none'} of the critic's questions: {text.strip()[:80]!r}"
        )
    return found[0]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _media(row: Mapping[str, Any], column: str) -> list[str]:
    value = row.get(column)
    return [_path(one, column) for one in ([value] if isinstance(value, str) else value or [])]


def _inside(content: Any, kind: str) -> list[str]:
    """Paths in the typed parts of a turn; a part without one stands for an entry of the column."""
    if isinstance(content, str):
        return []
    parts = [part for part in content if isinstance(part, Mapping) and part.get("type") == kind]
    places = [part.get(kind) or part.get("path") or part.get("url") for part in parts]
    return [_path(place, "messages") for place in places if place]


def _path(value: Any, column: str) -> str:
    path = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(path, str) or not path.strip():
        raise BadCell(column, f"holds {str(value)[:60]!r}, not a path")
    return path.strip()
