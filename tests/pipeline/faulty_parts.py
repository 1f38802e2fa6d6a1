"""A generator and critics that cost next to nothing, for tests of what happens around them; some hang.

`critic.weights=tests.pipeline.faulty_parts:HangsOnce`; what they answer is a pure function of the clip.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from ft2ray.critic.talking.view import SHORTEST_FRAMES, ClipView
from ft2ray.generator.sampler import Conditions, SamplerConfig
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.portrait import Portrait
from ft2ray.media.video import FPS

FOLDER = "FT2RAY_TEST_FAULTS"  # names a folder that all processes share


def latent(seed: int, frames: int) -> np.ndarray:
    return torch.randn(2, frames, 1, 1, generator=torch.Generator().manual_seed(seed)).numpy()


class TrainableGenerator:
    """Moves the whole photo up and down; its transformer learns something, which the clips do not show."""

    fingerprint = "trainable"
    fps = FPS
    sample_seconds = 0.5  # of work that keeps no core busy

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.transformer = WanTransformer3DModel(
                patch_size=(1, 1, 1),
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=2,
                out_channels=2,
                text_dim=4,
                freq_dim=16,
                ffn_dim=32,
                num_layers=2,
                cross_attn_norm=True,
            ).eval()
        self.transformer.requires_grad_(False)

    def encode_prompt(self, portrait: Portrait, wav_T: np.ndarray) -> Conditions:
        frames = round(len(wav_T) * FPS / SAMPLE_RATE)
        return Conditions(None, torch.zeros(2 * frames, 4), frames)

    def sample(self, cond: Conditions, seed: int, config: SamplerConfig) -> torch.Tensor:
        time.sleep(self.sample_seconds)
        return config.audio_scale * torch.from_numpy(latent(seed, cond.frames))

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        nod_F = torch.round(2 * x_CFHW[0, :, 0, 0]).int().tolist()
        return np.stack([np.roll(portrait.image_HW3, nod, axis=0) for nod in nod_F])

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(x_CFHW)

    def velocity(
        self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conditions: list[Conditions]
    ) -> torch.Tensor:
        audio_BLD = torch.stack([condition.audio_LD for condition in conditions])
        return self.transformer(x_BCFHW, 1000 * t_B, audio_BLD, return_dict=False)[0]


class SlowGenerator(TrainableGenerator):
    """Slow enough for nodes to come meanwhile."""

    sample_seconds = 2.0


class DiscerningCritic:
    """Another score for every clip."""

    dimensions = ("mn", "ls", "vq")
    fingerprint = "discerning"

    def score(self, views: list[ClipView]) -> np.ndarray:
        digests = [
            hashlib.blake2b(v.video_WFHW3.tobytes() + v.mel_WMJ.tobytes(), digest_size=6).digest()
            for v in views
        ]
        return np.array([np.frombuffer(digest, np.uint16) for digest in digests]) / 65535


class HangsOnce(DiscerningCritic):
    """The first clip that any process of this run asks about is never answered."""

    def score(self, views: list[ClipView]) -> np.ndarray:
        if asked(views):
            try:
                (Path(os.environ[FOLDER]) / "hung").touch(exist_ok=False)
            except FileExistsError:
                return super().score(views)
            time.sleep(3600)
        return super().score(views)


class AlwaysHangs(DiscerningCritic):
    """Answers the probe of the health check, and nothing else."""

    def score(self, views: list[ClipView]) -> np.ndarray:
        if asked(views):
            time.sleep(3600)
        return super().score(views)


def asked(views: list[ClipView]) -> bool:
    """Whether this is about clips of the run: they are longer than the service's own probe."""
    return any(view.video_WFHW3.shape[1] > SHORTEST_FRAMES for view in views)
