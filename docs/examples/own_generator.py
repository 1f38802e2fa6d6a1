"""A generator of your own: it moves the photo up and down, as a small transformer hears the speech.

    PYTHONPATH=docs/examples ft2ray align generator.weights=own_generator:NodGenerator ...

Shape suffixes: B batch, C latent channels, F frames, H W grid or picture, L D features, T samples, 3 rgb.
"""

from dataclasses import replace

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from ft2ray import Conditions, Generator
from ft2ray.generator.sampler import integrate

BANDS = 8  # numbers that stand for a video frame of speech
SIZES = {"patch_size": (1, 1, 1), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 1,
         "out_channels": 1, "text_dim": BANDS, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2}  # fmt: skip


class NodGenerator(Generator):
    fingerprint = "nod-1"  # another one whenever a seed gives another clip

    def __init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # yours reads its weights here
            self.transformer = WanTransformer3DModel(**SIZES).eval()

    def encode_prompt(self, portrait, wav_T):
        frames = int(len(wav_T) * self.fps / 16000)
        loud_FD = np.abs(wav_T[: frames * 640]).reshape(frames, BANDS, -1).mean(axis=2)
        return Conditions(None, torch.from_numpy(loud_FD).float(), frames)

    def velocity(self, x_BCFHW, t_B, conds):
        heard_BLD = torch.stack([cond.audio_LD for cond in conds])
        return self.transformer(x_BCFHW, 1000 * t_B, heard_BLD, return_dict=False)[0]

    @torch.no_grad()
    def sample(self, cond, seed, config, on_step=None):
        loud = replace(cond, audio_LD=config.audio_scale * cond.audio_LD)
        noise = torch.randn(1, cond.frames, 1, 1, generator=torch.Generator().manual_seed(seed))

        def velocity(x_CFHW, t):
            return self.velocity(x_CFHW[None], torch.tensor([t]), [loud])[0]

        return integrate(velocity, config.noise_scale * noise, config, on_step)

    def decode(self, portrait, x_CFHW):
        nods = (4 * x_CFHW[0, :, 0, 0]).round().int().tolist()
        return np.stack([np.roll(portrait.image_HW3, nod, axis=0) for nod in nods])
