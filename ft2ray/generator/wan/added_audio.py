"""A second way for speech into Wan, in the manner of OmniAvatar: packed features are *added* to the tokens.

The speech of the four video frames of a latent frame is packed into one narrow vector; every block of the
first half, except the first two, adds its own projection of that vector to all tokens of the latent frame
(OmniAvatar, arXiv 2506.18866, section 3.2, and its released inference code). Nothing attends to the speech.

What differs from OmniAvatar: its features are those of all wav2vec2 layers side by side (10,752 numbers),
brought to the frame rate inside wav2vec2; here any features are brought to the frame rate by linear
interpolation. Its release also retrains the patch embedding and has a LoRA on the base, which belong to the
base weights here.

Shape suffixes: B batch, F latent frames, V video frames, N latent tokens (frame-major), L audio tokens,
D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as nnf
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import nn

from ft2ray.generator.audio_attention import ContextCrossAttention, CrossContext
from ft2ray.generator.transformer import SpeechWanTransformer

FIRST_BLOCK = 2
"""The first two blocks, and the second half, get no speech."""


class AudioPack(nn.Module):
    """The speech features of `stride` video frames to one vector per latent frame: Linear, then LayerNorm.

    The first latent frame stands for one video frame, whose features are repeated.
    """

    def __init__(self, features: int, stride: int, width: int) -> None:
        super().__init__()
        self.stride = stride
        self.proj = nn.Linear(features * stride, width)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, feat_BLD: torch.Tensor, latent_frames: int) -> torch.Tensor:
        """[B, L, features] of exactly these frames -> [B, F, width]."""
        frames = self.stride * (latent_frames - 1) + 1
        feat_BDV = nnf.interpolate(feat_BLD.transpose(1, 2), size=frames, mode="linear")
        feat_BDV = nnf.pad(feat_BDV, (self.stride - 1, 0), mode="replicate")
        packed_BFD = feat_BDV.transpose(1, 2).unflatten(1, (latent_frames, self.stride)).flatten(2)
        return self.norm_out(self.proj(packed_BFD))


class AddingBlock(WanTransformerBlock):
    """Wan's block; where it has an `audio_add`, the projected speech is added to the tokens on the way in."""

    audio_add: nn.Linear | None

    def forward(  # type: ignore[override]  # a context where Wan has text tokens
        self, hidden_BND: torch.Tensor, context: CrossContext, temb: torch.Tensor, rotary: Any
    ) -> torch.Tensor:
        if self.audio_add is not None and context.audio_BLA is not None:
            assert context.audio_scale_B is not None
            add_BFD = self.audio_add(context.audio_BLA) * context.audio_scale_B[:, None, None]
            tokens = hidden_BND.shape[1] // add_BFD.shape[1]
            hidden_BND = hidden_BND + add_BFD.repeat_interleave(tokens, dim=1).type_as(hidden_BND)
        return super().forward(hidden_BND, context, temb, rotary)  # type: ignore[arg-type]


class AddedAudioTransformer(SpeechWanTransformer):
    """WanTransformer3DModel to whose tokens packed speech is added; the projections start at zero.

    audio_features: width of the speech features; audio_dim: width of the packed vector (32 in OmniAvatar);
    audio_stride: video frames per latent frame; `wan`: diffusers' own arguments.
    """

    AUDIO_PARTS = ("audio_pack.", ".audio_add.")

    def __init__(
        self, audio_features: int = 768, audio_dim: int = 32, audio_stride: int = 4, **wan: Any
    ) -> None:
        super().__init__(**wan)
        self.register_to_config(audio_features=audio_features, audio_dim=audio_dim, audio_stride=audio_stride)
        self.embed_context()
        self.audio_pack = AudioPack(audio_features, audio_stride, audio_dim)
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        for index, block in enumerate(self.blocks):
            assert isinstance(block, WanTransformerBlock)
            block.attn2.set_processor(ContextCrossAttention())  # type: ignore[arg-type]  # a closed list
            block.__class__ = AddingBlock  # its parameters and their names stay Wan's
            assert isinstance(block, AddingBlock)
            block.audio_add = None
            if FIRST_BLOCK <= index <= self.config["num_layers"] // 2:
                block.audio_add = nn.Linear(audio_dim, width)
                nn.init.zeros_(block.audio_add.weight)
                nn.init.zeros_(block.audio_add.bias)

    def with_audio(self, context: CrossContext, audio_BLD: torch.Tensor, latent_frames: int) -> CrossContext:
        return replace(context, audio_BLA=self.audio_pack(audio_BLD, latent_frames))
