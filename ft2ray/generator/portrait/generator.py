"""A generator: speech encoder, transformer, sampler and codec behind four verbs (encode, sample, decode,
velocity).

Shape suffixes: B batch, C latent channels, F frames, H W latent grid, L tokens, D token width, T audio
samples, 3 rgb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from ft2ray.errors import MediaError, WeightsError
from ft2ray.generator.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_transformer, read_portrait_config
from ft2ray.generator.portrait.codec import Codec, PortraitCodec
from ft2ray.generator.sampler import Conditions, SamplerConfig, conditional_velocity, sample
from ft2ray.generator.transformer import SpeechWanTransformer
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.portrait import Portrait
from ft2ray.media.speech import SpeechEncoder
from ft2ray.media.video import FPS

FRAME_SAMPLES = SAMPLE_RATE // FPS
TOKENS_PER_FRAME = 2

_ASSETS = Path(str(files("ft2ray") / "assets"))

__all__ = ["Conditions", "Generator", "SamplerConfig", "speech_tokens"]


def speech_tokens(wav_T: np.ndarray, encoder: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Speech features of whole video frames, [2 * frames, D]; a frame that sounds for half or longer counts.

    The last token is repeated where the encoder gave fewer. Raises ValueError for less than one frame of
    sound.
    """
    frames = round(len(wav_T) / FRAME_SAMPLES)
    if frames < 1:
        raise MediaError(
            "too_short",
            f"speech: {len(wav_T)} samples are less than one video frame ({FRAME_SAMPLES} samples).",
        )
    feat_LD = encoder(wav_T)[: TOKENS_PER_FRAME * frames]
    return np.pad(feat_LD, ((0, TOKENS_PER_FRAME * frames - len(feat_LD)), (0, 0)), mode="edge")


class Generator:
    """Turns a portrait and speech into a clip. Build one per process; on the CPU everything repeats bitwise.

    Attributes:
        transformer: the frozen base; adapters hang on it.
        codec: between latents and pictures.
        scale_C: latents are the codec's numbers divided by this, so that every channel has unit variance.
        fingerprint: hash of configuration, weights and codec, 16 hex digits.
        fps: frames a second of the clips.
    """

    fps: float = FPS

    def __init__(
        self, transformer: SpeechWanTransformer, codec: Codec, scale_C: Sequence[float], fingerprint: str
    ) -> None:
        if len(scale_C) != codec.channels:
            raise WeightsError(f"generator: {len(scale_C)} latent scales for {codec.channels} codec channels")
        self.transformer = transformer.eval().requires_grad_(False)
        self.codec = codec
        self.scale_C111 = torch.tensor(list(scale_C), dtype=torch.float32)[:, None, None, None]
        self.fingerprint = fingerprint
        self._speech_encoder: SpeechEncoder | None = None

    @classmethod
    def load(cls, path: str | Path = "embedded") -> Generator:
        """A generator folder (config.json, model.safetensors); "embedded" is the package's own.

        Raises ValueError, naming the file and the key, for anything that does not fit.
        """
        folder = _folder(path)
        config = read_portrait_config(folder)
        if config["codec"] != "portrait":
            raise WeightsError(f"generator: {folder} wants the codec {config['codec']!r}, known: 'portrait'")
        fingerprint = cls.fingerprint_of(folder)
        return cls(load_transformer(folder), PortraitCodec(), config["latent_scale"], fingerprint)

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
        """Conditions of one clip; its length is that of the speech.

        wav_T: float32, 16 kHz mono. The portrait codec draws motion that fits any face, so only the speech
        counts.
        """
        self._speech_encoder = self._speech_encoder or SpeechEncoder()
        feat_LD = speech_tokens(wav_T, self._speech_encoder)
        return Conditions(None, torch.from_numpy(feat_LD), len(feat_LD) // TOKENS_PER_FRAME)

    def sample(self, cond: Conditions, seed: int, config: SamplerConfig) -> torch.Tensor:
        """One candidate: latent x_CFHW, float32 on the CPU."""
        return sample(self.transformer, cond, self.codec.latent_shape(cond.frames), seed, config).cpu()

    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        """Latent of `sample` -> uint8 RGB frames_FHW3 of this portrait."""
        return self.codec.decode(portrait, x_CFHW * self.scale_C111)

    def encode_video(self, frames_FHW3: np.ndarray) -> torch.Tensor:
        """Frames -> latent x_CFHW, the inverse of `decode` as far as the codec has one."""
        return self.codec.encode_video(frames_FHW3) / self.scale_C111

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        """1 where a latent value belongs to the mouth, else 0; one channel where all channels share it."""
        return self.codec.lip_mask(x_CFHW * self.scale_C111)

    def velocity(self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conds: Sequence[Conditions]) -> torch.Tensor:
        """Velocity with all conditions and without guidance, differentiable, for training.

        x_BCFHW: noisy latents; t_B in [0, 1]; conds: one per sample, all of the same length.
        """
        return conditional_velocity(self.transformer, x_BCFHW, t_B, conds)


def _folder(path: str | Path) -> Path:
    return _ASSETS / "base" if str(path) == "embedded" else Path(path)
