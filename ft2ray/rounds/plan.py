"""What a run works on, once its media are checked: prompts of both splits, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass

from ft2ray.records import Prompt


@dataclass(frozen=True)
class Quarantined:
    """A file that is left out, and why."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True)
class Plan:
    """Prompts of the two splits, and what was refused."""

    curation: list[Prompt]
    evaluation: list[Prompt]
    quarantined: list[Quarantined]
