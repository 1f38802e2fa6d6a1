"""What the generator's front and its replicas say to each other; light, since the front needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from ft2ray.media.generated_clip import GeneratedClip
from ft2ray.serving.refusal import Refusal

if TYPE_CHECKING:
    from ft2ray.media.portrait import Portrait


@dataclass(frozen=True)
class ClipRequest:
    """What a front asks for; portrait and recording are decoded and checked (T: 16 kHz samples)."""

    portrait: Portrait
    wav_T: np.ndarray
    seed: int
    system: str | None
    weights: dict[str, float] | None
    steps: int | None
    audio_scale: float | None


class State(BaseModel):
    """What a replica serves."""

    policy: str = Field(
        description="fingerprint of the policy at work, or base", examples=["c0ffee0123456789"]
    )
    refused: str | None = Field(description="why the run's current policy is not the one at work")


# (state, share of it that is done), and in the end the clip, or why there is none
Event = tuple[str, float] | GeneratedClip | Refusal
