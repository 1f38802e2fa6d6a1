"""Generator and critics whose work is a sleep: what a GPU would do, on a machine that has none.

    generator.weights=fakes:SleepingGenerator critic.weights=fakes:BriefCritic

A sleep keeps no core busy, as work on a GPU does, so generation and training can overlap on two cores.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from ft2ray.critic.base import Critic
from ft2ray.critic.talking.view import ClipView
from ft2ray.generator.base import Generator
from ft2ray.generator.sampler import Conditions, OnStep
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.portrait import Portrait
from ft2ray.media.video import FPS

BATCH_SECONDS = 0.2
CHANNELS, TEXT = 2, 4


def latent(seed: int, frames: int) -> torch.Tensor:
    return torch.randn(CHANNELS, frames, 1, 1, generator=torch.Generator().manual_seed(seed))


class SleepingGenerator(Generator):
    """Moves the whole photo up and down; its transformer is the smallest that experts fit on."""

    fingerprint = "sleeping"
    sample_seconds, velocity_seconds = 2.0, 0.06
    heads, layers, ffn, freq = 1, 1, 12, 8

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.transformer = WanTransformer3DModel(
                patch_size=(1, 1, 1),
                num_attention_heads=self.heads,
                attention_head_dim=12,
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                text_dim=TEXT,
                freq_dim=self.freq,
                ffn_dim=self.ffn,
                num_layers=self.layers,
                cross_attn_norm=True,
            ).eval()
        self.transformer.requires_grad_(False)

    def encode_prompt(self, portrait: Portrait, wav_T: np.ndarray) -> Conditions:
        frames = round(len(wav_T) * FPS / SAMPLE_RATE)
        return Conditions(None, torch.zeros(2 * frames, TEXT), frames)

    def sample(
        self, cond: Conditions, seed: int, config: SamplerSettings, on_step: OnStep | None = None
    ) -> torch.Tensor:
        time.sleep(self.sample_seconds)
        return config.audio_scale * latent(seed, cond.frames)  # or one noise would be the same clip

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        nod_F = torch.round(2 * x_CFHW[0, :, 0, 0]).int().tolist()
        return np.stack([np.roll(portrait.image_HW3, nod, axis=0) for nod in nod_F])

    def velocity(self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conds: Sequence[Conditions]) -> torch.Tensor:
        time.sleep(self.velocity_seconds)
        text_BLD = torch.stack([cond.audio_LD for cond in conds])
        return self.transformer(x_BCFHW, 1000 * t_B, text_BLD, return_dict=False)[0]


class BriefCritic(Critic):
    """Has an opinion on every clip, out of its bytes."""

    dimensions = ("mn", "ls", "vq")
    fingerprint = "brief"

    def score(self, views: Sequence[ClipView]) -> np.ndarray:
        time.sleep(BATCH_SECONDS)
        hashes = [[zlib.crc32(view.video_WFHW3.tobytes(), k) for k in range(3)] for view in views]
        return np.array(hashes) / 2**32


class CountingCritic(BriefCritic):
    """Scores every clip with its share of its batch."""

    fingerprint = "counting"

    def score(self, views: Sequence[ClipView]) -> np.ndarray:
        time.sleep(BATCH_SECONDS)
        return np.full((len(views), 3), 1.0 / len(views))
