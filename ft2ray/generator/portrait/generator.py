"""The packaged generator: speech drives the motion of a face, and the portrait photo is warped after it.

Shape suffixes: C latent channels, F frames, H W latent grid, L tokens, D token width, T audio samples, 3 rgb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from ft2ray.errors import WeightsError
from ft2ray.generator.base import Generator
from ft2ray.generator.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_transformer, read_portrait_config
from ft2ray.generator.portrait.codec import PortraitCodec
from ft2ray.generator.sampler import Conditions, OnStep, sample
from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.transformer import SpeechWanTransformer
from ft2ray.media.portrait import Portrait
from ft2ray.media.speech import TOKENS_PER_FRAME, encode_speech, speech_tokens

PACKAGED = {"embedded": "base", "embedded-uncurated": "base-uncurated"}
"""Weights in the package by the name that settings give them: of curated clips, and of a broad mixture."""

OPENING_COMPONENTS = 2
"""Mouth components that open and stretch the lips; those after them say what shape the lower face has."""

_ASSETS = Path(str(files("ft2ray") / "assets"))


class PortraitGenerator(Generator):
    """Build one per process; on the CPU everything repeats bitwise.

    Args:
        transformer: the base.
        codec: between latents and pictures.
        scale_C: standard deviation of each channel of the codec.
        fingerprint: of the weights.
        channel_weights: weight of each channel in the errors of a training; None: all count alike.

    Attributes:
        codec: between latents and pictures.
        scale_C111: latents are the codec's numbers divided by this: every channel has unit variance.
    """

    def __init__(
        self,
        transformer: SpeechWanTransformer,
        codec: PortraitCodec,
        scale_C: Sequence[float],
        fingerprint: str,
        channel_weights: Sequence[float] | None = None,
    ) -> None:
        for name, of in (("latent scales", scale_C), ("channel weights", channel_weights)):
            if of is not None and len(of) != codec.channels:
                raise WeightsError(f"generator: {len(of)} {name} for {codec.channels} codec channels")
        if channel_weights is not None:
            self.channel_weights = torch.tensor(list(channel_weights), dtype=torch.float32)
            if not (self.channel_weights > 0).all():
                raise WeightsError("generator: every channel weight must be above 0; correct config.json")
        self.transformer = transformer.eval().requires_grad_(False)
        self.codec = codec
        self.scale_C111 = torch.tensor(list(scale_C), dtype=torch.float32)[:, None, None, None]
        self.fingerprint = fingerprint

    @classmethod
    def load(cls, path: str | Path = "embedded") -> PortraitGenerator:
        """A generator folder (config.json, model.safetensors); a name in PACKAGED is the package's own.

        Raises ValueError, naming the file and the key, for anything that does not fit.
        """
        folder = _folder(path)
        config = read_portrait_config(folder)
        if config["codec"] != "portrait":
            raise WeightsError(f"generator: {folder} wants the codec {config['codec']!r}, known: 'portrait'")
        fingerprint = cls.fingerprint_of(folder)
        scale_C, weights_C = config["latent_scale"], config.get("channel_weights")
        return cls(load_transformer(folder), PortraitCodec(), scale_C, fingerprint, weights_C)

    @classmethod
    def fingerprint_of(cls, path: str | Path) -> str:
        """The fingerprint of `load(path)` from the files alone."""
        folder, digest = _folder(path), hashlib.sha256()
        for file in (folder / CONFIG_FILE, folder / WEIGHTS_FILE, _ASSETS / "motion_basis.safetensors"):
            if not file.is_file():
                raise WeightsError(f"generator: no {file}")
            digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def encode_prompt(self, portrait: Portrait, wav_T: np.ndarray) -> Conditions:
        """Encode the speech; the codec's motion fits any face, so the portrait does not count."""
        feat_LD = speech_tokens(wav_T, encode_speech)
        return Conditions(None, torch.from_numpy(feat_LD), len(feat_LD) // TOKENS_PER_FRAME)

    def sample(
        self, cond: Conditions, seed: int, config: SamplerSettings, on_step: OnStep | None = None
    ) -> torch.Tensor:
        return sample(self.transformer, cond, self.codec.latent_shape(cond.frames), seed, config, on_step)

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        return self.codec.decode(portrait, x_CFHW * self.scale_C111)

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        return self.codec.lip_mask(x_CFHW * self.scale_C111)

    @property
    def regions(self) -> Mapping[str, torch.Tensor]:
        """head: pose and lids. shape: mouth components from the third on (the first two open and stretch the
        lips), brows and forehead; it shares channels with the lips.
        """
        basis, masks = self.codec.basis, {}
        mouth = range(basis.mouth.start + OPENING_COMPONENTS, basis.mouth.stop)
        shape = [*mouth, *range(basis.lid + 1, basis.upper.stop)]
        for name, chosen in (
            ("head", [basis.lid, *range(basis.pose.start, basis.pose.stop)]),
            ("shape", shape),
        ):
            masks[name] = torch.zeros(basis.channels)
            masks[name][chosen] = 1.0
        return masks


def _folder(path: str | Path) -> Path:
    return _ASSETS / PACKAGED[str(path)] if str(path) in PACKAGED else Path(path)
