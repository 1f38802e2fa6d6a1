"""A generator and a critic that cost next to nothing, for tests of what happens around them.

`generator.weights=tests.pipeline.stand_ins:NoddingGenerator`; everything is a pure function of its arguments.
"""

import time

import numpy as np
import torch

from ft2ray.generator.sampler import Conditions, SamplerConfig
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.portrait import Portrait
from ft2ray.media.video import FPS

SAMPLE_SECONDS = 2.0  # of work that keeps no core busy


def latent(seed: int, frames: int) -> np.ndarray:
    return torch.randn(2, frames, 1, 1, generator=torch.Generator().manual_seed(seed)).numpy()


class NoddingGenerator:
    """Moves the whole photo up and down."""

    fingerprint = "nodding"
    fps = FPS

    def encode_prompt(self, portrait: Portrait, wav_T: np.ndarray) -> Conditions:
        frames = round(len(wav_T) * FPS / SAMPLE_RATE)
        return Conditions(None, torch.zeros(2 * frames, 4), frames)

    def sample(self, cond: Conditions, seed: int, config: SamplerConfig) -> torch.Tensor:
        time.sleep(SAMPLE_SECONDS)
        return torch.from_numpy(latent(seed, cond.frames))

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        nod_F = torch.round(2 * x_CFHW[0, :, 0, 0]).int().tolist()
        return np.stack([np.roll(portrait.image_HW3, nod, axis=0) for nod in nod_F])

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x_CFHW)


class IndifferentCritic:
    """Finds everything equally good."""

    dimensions = ("mn", "ls", "vq")
    fingerprint = "indifferent"

    def score(self, views: list) -> np.ndarray:
        return np.full((len(views), len(self.dimensions)), 0.5)
