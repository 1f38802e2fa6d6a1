"""The generator that a configuration names, as shapes: built from its config.json without a single weight.

A pipeline of a Wan generator that is not on this machine is known by its hub name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from ft2ray.config import AlignConfig
from ft2ray.errors import UserError
from ft2ray.generator.checkpoint import CONFIG_FILE, read_config, read_portrait_config
from ft2ray.generator.portrait.generator import PACKAGED, TOKENS_PER_FRAME
from ft2ray.generator.sampler import window_starts
from ft2ray.generator.transformer import AudioWanTransformer, SpeechWanTransformer, cast_weights
from ft2ray.generator.wan.encoders import TEXT_TOKENS
from ft2ray.generator.wan.folder import read_architecture
from ft2ray.generator.wan.generator import BACKBONES, WanSettings
from ft2ray.media.video import FPS

_WAN = {"patch_size": (1, 2, 2), "attention_head_dim": 128, "out_channels": 16, "text_dim": 4096}
_I2V_14B = _WAN | {
    "num_attention_heads": 40,
    "in_channels": 36,
    "ffn_dim": 13824,
    "num_layers": 40,
    "image_dim": 1280,
    "added_kv_proj_dim": 5120,
}
# transformer/config.json of the published pipelines, where it differs from diffusers' defaults.
PIPELINES: dict[str, dict[str, Any]] = {
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": _I2V_14B,
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": _I2V_14B,
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _WAN
    | {"num_attention_heads": 12, "in_channels": 16, "ffn_dim": 8960, "num_layers": 30},
}
CLIP_TOKENS, TOKENS_PER_SECOND = 257, 50  # of ViT-H/14 at 224 pixels; of wav2vec2


@dataclass(frozen=True)
class GeneratorShape:
    """Everything about a generator that decides what it costs.

    latent_CFHW: of a clip, without what an image-to-video model stacks behind the noise; text, image, audio:
    tokens of its conditions, image 0 for none; window, overlap: latent frames, as the sampler takes them.
    """

    name: str
    backbone: type[SpeechWanTransformer]
    architecture: Mapping[str, Any]
    dtype: torch.dtype
    latent_CFHW: tuple[int, int, int, int]
    seconds: float
    text: int
    image: int
    audio: int
    window: int
    overlap: int
    wan: bool

    @property
    def layers(self) -> int:
        return self.architecture["num_layers"]

    @property
    def tokens(self) -> int:
        """Tokens of one clip in the transformer."""
        f, h, w = (n // p for n, p in zip(self.latent_CFHW[1:], self.architecture["patch_size"], strict=True))
        return f * h * w

    def one_window(self) -> tuple[GeneratorShape, int]:
        """What the sampler hands the transformer at once, and how many times for a clip."""
        channels, frames, height, width = self.latent_CFHW
        part = min(frames, self.window)
        window = replace(
            self, latent_CFHW=(channels, part, height, width), audio=-(-self.audio * part // frames)
        )
        return window, len(window_starts(frames, self.window, self.overlap))

    def transformer(self, layers: int | None = None) -> SpeechWanTransformer:
        """The transformer without data; `layers` other than its own for an extrapolation."""
        architecture = {**self.architecture, "num_layers": layers or self.layers}
        with torch.device("meta"):
            model = self.backbone(**architecture)
        cast_weights(model, self.dtype)
        return model.requires_grad_(False)

    def vae(self) -> AutoencoderKLWan:
        with torch.device("meta"):
            return AutoencoderKLWan().requires_grad_(False)  # its defaults are Wan 2.1's

    def encoders(self) -> dict[str, nn.Module]:
        """What encodes picture and speech beside the transformer (Wan only), without data."""
        if not self.wan:
            return {}
        with torch.device("meta"):
            # CLIP ViT-H/14 and wav2vec2-base-960h, as published.
            clip = CLIPVisionConfig(
                hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16,
                patch_size=14, projection_dim=1024,
            )  # fmt: skip
            encoders: dict[str, nn.Module] = {"speech encoder": Wav2Vec2Model(Wav2Vec2Config())}
            if self.image:
                encoders["picture encoder"] = CLIPVisionModel(clip)
        return encoders

    def text_encoder(self) -> nn.Module | None:
        """UMT5-XXL, which is on the card only while the fixed prompts are encoded."""
        if not self.wan:
            return None
        config = UMT5Config(
            vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        with torch.device("meta"):
            return UMT5EncoderModel(config).to(self.dtype)  # type: ignore[arg-type]


def generator_shape(config: AlignConfig) -> GeneratorShape:
    """The generator of `generator.weights`: a packaged one or a folder with a config.json, weights or not."""
    weights = config.generator.weights
    packaged = PACKAGED.get(weights)
    folder = Path(str(files("ft2ray") / "assets" / packaged)) if packaged else Path(weights)
    values = read_config(folder)
    if values["codec"] == "wan":
        return _wan_shape(folder, config.prompts.seconds)
    if values["codec"] != "portrait":
        raise UserError(
            f"plan: {folder / CONFIG_FILE} names the codec {values['codec']!r}, not portrait or wan"
        )
    architecture = read_portrait_config(folder)["transformer"]
    frames = round(config.prompts.seconds * FPS)
    return GeneratorShape(
        name=f"{weights} (portrait)",
        backbone=AudioWanTransformer,
        architecture=architecture,
        dtype=torch.float32,
        latent_CFHW=(architecture["out_channels"], frames, 1, 1),
        seconds=frames / FPS,
        text=1,
        image=0,
        audio=TOKENS_PER_FRAME * frames,
        window=config.generator.sampling.window,
        overlap=config.generator.sampling.overlap,
        wan=False,
    )


def _wan_shape(folder: Path, seconds: float) -> GeneratorShape:
    settings = WanSettings.read(folder)
    local = folder / settings.pipeline / "transformer"
    if (local / "config.json").is_file():
        architecture = read_architecture(local)
    elif settings.pipeline in PIPELINES:
        architecture = PIPELINES[settings.pipeline]
    else:
        raise UserError(
            f"plan: the pipeline {settings.pipeline} is neither below {folder} nor one that is known by name "
            f"({', '.join(PIPELINES)}); download its transformer/config.json"
        )
    frames = (int(seconds * settings.fps + 1e-6) - 1) // 4 * 4 + 1
    seconds, side = frames / settings.fps, settings.size // 8
    window = 1 + (settings.frames - 1) // 4
    return GeneratorShape(
        name=settings.pipeline,
        backbone=BACKBONES[settings.conditioning],
        architecture={**architecture, "audio_features": 768, "audio_dim": settings.audio_dim},
        dtype=getattr(torch, settings.dtype),
        latent_CFHW=(architecture["out_channels"], 1 + (frames - 1) // 4, side, side),
        seconds=seconds,
        text=TEXT_TOKENS,
        image=CLIP_TOKENS if architecture.get("image_dim") else 0,
        audio=int(TOKENS_PER_SECOND * seconds) - 1,  # wav2vec2's convolutions leave one token out
        window=window,
        overlap=max(1, window // 3),
        wan=True,
    )
