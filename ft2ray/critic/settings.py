"""Settings of the critic."""

from __future__ import annotations

from pydantic import Field

from ft2ray.settings import Settings, Text


class CriticSettings(Settings):
    """Which critic scores clips, and how long a run waits for it."""

    weights: Text = "embedded"  # or a folder, a Qwen2.5-Omni hub name, openai:MODEL@URL, package.module:Class
    # What a full-size critic sees: frames a second (8 to 12), and the largest area, pixels x pixels. None: as
    # it was tuned, 10 and 448 for one that was not. The packaged critic has a view of its own.
    fps: float | None = Field(None, gt=0)
    pixels: int | None = Field(None, ge=1)
    batch: int = Field(8, ge=1)  # clips that a replica scores at once
    timeout_seconds: float = Field(60.0, gt=0)  # a replica that takes longer for a batch is replaced
    retries: int = Field(1, ge=0)  # a failed call is repeated this often, then the score is null
