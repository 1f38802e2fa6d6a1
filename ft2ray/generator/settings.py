"""Settings of the generator and its sampler."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ft2ray.settings import Settings, Text

GuidancePass = Literal["null", "text", "all"]
"""Without text and sound, without sound, with everything."""


class SamplerSettings(Settings):
    """How a clip is sampled."""

    steps: int = Field(10, ge=1, le=1000)  # Euler steps
    shift: float = Field(1.0, gt=0)  # Wan's timestep shift, t -> shift t / (1 + (shift - 1) t)
    # Guidance of FantasyTalking: v0 + text_scale (v_text - v0) + audio_scale (v_all - v_text).
    text_scale: float = 1.0
    audio_scale: float = 2.0
    # Standard deviation of the noise that sampling starts from, 1 in training; a larger one gives livelier
    # and less certain clips.
    noise_scale: float = Field(1.0, gt=0)
    window: int = Field(80, ge=2)  # latent frames of one window of a long clip
    overlap: int = Field(24, ge=1)  # latent frames in which neighbouring windows are cross-faded

    @model_validator(mode="after")
    def _overlap_fits(self) -> SamplerSettings:
        if self.overlap > self.window // 2:
            raise ValueError(f"overlap {self.overlap} must be at most half of the window {self.window}")
        return self


class GeneratorSettings(Settings):
    """Which generator makes clips, and how."""

    # Or a folder with config.json and model.safetensors, or package.module:Class.load.
    weights: Text = "embedded"
    size: int = Field(256, ge=64, le=4096, multiple_of=2)  # pixels of the square video
    sampling: SamplerSettings = SamplerSettings()  # of evaluation and `generate`; curation varies it
