"""A clip that a generator has finished; light, since an HTTP front handles it without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GeneratedClip:
    """A finished clip and what made it; `policy` is "base" where no adapter was at work."""

    mp4: bytes
    frames: int
    seconds: float
    system: str
    policy: str
    generator: str
