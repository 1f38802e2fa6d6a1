"""What clips are judged by: one list, from which critic, pairs, experts, evaluation and report are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from ft2ray.settings import Settings

# Names of pools, systems and files beside those of the dimensions.
RESERVED = ("base", "sum", "full", "gate", "uniform", "dpo_sum", "tlpo", "real_video")


class Dimension(Settings):
    """One question that is asked of every clip, and what follows from it."""

    name: str = Field(pattern=r"^[A-Za-z]\w{0,31}$")  # of its scores, expert (expert_NAME) and columns
    title: str = Field(min_length=1)  # a few words for people
    question: str = Field(min_length=1)  # answered by Yes or No; Yes is good
    # Region of a clip that its expert is trained on (see tlpo/masks.py), and held to the base outside of.
    mask: Literal["all", "lips", "head", "shape"] = "all"
    # The figure of the evaluation that measures it; None: nothing does, and the report says so.
    metric: Literal["mn", "ls", "vq"] | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(f"{name} means something else; take another name than {', '.join(RESERVED)}")
        return name


DEFAULT_DIMENSIONS = (
    Dimension(
        name="mn",
        title="motion naturalness",
        question="Is the motion natural?",
        mask="head",
        metric="mn",
    ),
    Dimension(name="ls", title="lip-sync", question="Is the lip synchronized?", mask="lips", metric="ls"),
    Dimension(
        name="vq",
        title="visual quality",
        question="Is the visual quality good?",
        mask="shape",
        metric="vq",
    ),
)
"""The paper's (Talking-Critic); the masks of mn and vq are ours."""


def known(dimension: Any) -> Any:
    """A dimension as it is; for the name of a default one that one.

    Raises:
        ValueError: for a name that is not among them.
    """
    if not isinstance(dimension, str):
        return dimension
    for default in DEFAULT_DIMENSIONS:
        if default.name == dimension:
            return default
    raise ValueError(
        f"{dimension!r} is not one of {', '.join(d.name for d in DEFAULT_DIMENSIONS)}; give your own with "
        "its name, title and question"
    )


def questions(dimensions: Sequence[Dimension]) -> dict[str, str]:
    """The question of each name."""
    return {dimension.name: dimension.question for dimension in dimensions}


def masks(dimensions: Sequence[Dimension]) -> dict[str, str]:
    """The region of each name."""
    return {dimension.name: dimension.mask for dimension in dimensions}
