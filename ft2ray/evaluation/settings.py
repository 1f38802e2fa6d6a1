"""Settings of the evaluation."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, field_validator

from ft2ray.settings import Settings, Text
from ft2ray.systems import BASE


class EvaluationSettings(Settings):
    """What is compared on held-out prompts."""

    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), min_length=1)
    systems: tuple[str, ...] | None = None  # None: the base and everything that the policy can be run as
    reference_clips: Text | None = None  # folder of real talking clips; None: the package's own judge
    bootstrap: int = Field(2000, ge=1, le=1_000_000)  # resamples of the confidence intervals
    report_videos: int = Field(2, ge=0)  # prompts whose videos go into the report

    @field_validator("systems")
    @classmethod
    def _has_base(cls, systems: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if systems is not None and BASE not in systems:
            raise ValueError("must be a list with base in it: it is the reference")
        return systems

    @field_validator("seeds", "systems")
    @classmethod
    def _once(cls, values: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError(f"{list(values)} holds a value twice: its clips would count twice")
        return values
