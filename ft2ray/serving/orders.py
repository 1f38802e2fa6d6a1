"""What the generator's front and its replicas say to each other; light, since the front needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from ft2ray.serving.refusal import Refusal


@dataclass(frozen=True)
class Order:
    """What a front asks for; the media as the bytes of their files, each with the file's ending."""

    portrait: tuple[bytes, str]
    audio: tuple[bytes, str]
    seed: int
    system: str | None
    weights: dict[str, float] | None
    steps: int | None
    audio_scale: float | None


class Made(TypedDict):
    """A finished clip: the fields of ft2ray.animator.Clip."""

    mp4: bytes
    frames: int
    seconds: float
    system: str
    policy: str
    generator: str


# (state, share of it that is done), and in the end the clip, or why there is none
Event = tuple[str, float] | Made | Refusal
