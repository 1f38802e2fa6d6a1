"""The video transformer of the platform: diffusers' Wan with FantasyTalking's audio cross-attention.

Nothing is left on the module between calls: text, image and audio travel through the blocks as one
argument, so gradient checkpointing, several threads and batched guidance all see exactly what was passed
in.

Shape suffixes: B batch, C latent channels, F latent frames, H W latent grid, L tokens, D width of tokens.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import (
    WanTimeTextImageEmbedding,
    WanTransformer3DModel,
    WanTransformerBlock,
)
from torch import nn

from ft2ray.generator.audio_attention import (
    MARGIN_TOKENS,
    AudioCrossAttention,
    AudioProjection,
    CrossContext,
    audio_windows,
)


class ContextEmbedder(WanTimeTextImageEmbedding):
    """Wan's condition embedder for a `CrossContext`: embeds its text and image and hands the context on."""

    def forward(  # type: ignore[override]  # a context is embedded where diffusers embeds text
        self,
        timestep: torch.Tensor,
        encoder_hidden_states: CrossContext,
        encoder_hidden_states_image: None = None,
        timestep_seq_len: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, CrossContext, None]:
        """As in diffusers, except that the image tokens stay apart from the text inside the context."""
        context = encoder_hidden_states
        temb, projected, text_BLD, image_BLD = super().forward(
            timestep, context.text_BLD, context.image_BLD, timestep_seq_len
        )
        return temb, projected, replace(context, text_BLD=text_BLD, image_BLD=image_BLD), None


class SpeechWanTransformer(WanTransformer3DModel):
    """Wan whose blocks are handed a `CrossContext`; subclasses say how speech gets into it and out again.

    The configuration of a subclass has `audio_features`, the width of the speech encoder's features, and
    `audio_stride`, the video frames per latent frame (4 for Wan's VAE, 1 for the portrait codec).
    """

    AUDIO_PARTS: tuple[str, ...]
    """What the names of the parameters that speech adds to Wan contain; all others are Wan's own."""

    def embed_context(self) -> None:
        """Put the embedder that knows `CrossContext` in place of Wan's; to be called while constructing."""
        config = self.config
        width = config["num_attention_heads"] * config["attention_head_dim"]
        self.condition_embedder = ContextEmbedder(
            dim=width,
            time_freq_dim=config["freq_dim"],
            time_proj_dim=width * 6,
            text_embed_dim=config["text_dim"],
            image_embed_dim=config["image_dim"],
            pos_embed_seq_len=config["pos_embed_seq_len"],
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        encoder_hidden_states_image: torch.Tensor | None = None,
        audio: torch.Tensor | None = None,
        audio_scale: float | torch.Tensor = 1.0,
        return_dict: bool = True,
        attention_kwargs: dict | None = None,
    ):
        """Velocity of the flow.

        hidden_states [B, C, F, H, W] (for I2V with mask and image latents stacked behind the noise);
        timestep [B] = 1000 * t; encoder_hidden_states [B, L, text_dim]; encoder_hidden_states_image
        [B, L, image_dim] or None; audio [B, L, audio_features], the speech of exactly these frames, or None;
        audio_scale a number or one per sample [B], 0 = without audio.
        Returns ([B, C, F, H, W],) or diffusers' output object.
        Raises ValueError where the audio does not fit the batch.
        """
        context = CrossContext(encoder_hidden_states, encoder_hidden_states_image)
        if audio is not None:
            batch, features = hidden_states.shape[0], self.config["audio_features"]
            if audio.ndim != 3 or audio.shape[0] != batch or audio.shape[2] != features:
                raise ValueError(f"audio must be [{batch}, tokens, {features}], got {tuple(audio.shape)}")
            scale_B = torch.as_tensor(audio_scale, dtype=hidden_states.dtype, device=hidden_states.device)
            latent_frames = hidden_states.shape[2] // self.config["patch_size"][0]
            context = self.with_audio(context, audio, latent_frames)
            context = replace(context, audio_scale_B=scale_B.expand(batch))
        return super().forward(
            hidden_states,
            timestep,
            context,
            return_dict=return_dict,
            attention_kwargs=attention_kwargs,
        )

    def with_audio(self, context: CrossContext, audio_BLD: torch.Tensor, latent_frames: int) -> CrossContext:
        """The context with what the blocks need of the speech of so many latent frames."""
        raise NotImplementedError

    def timestep_embedding(self, timestep_B: torch.Tensor) -> torch.Tensor:
        """tau of the gate: Wan's timestep embedding before the block projections, [B] = 1000 t -> [B, D]."""
        embedder = self.condition_embedder
        frequencies = embedder.timesteps_proj(timestep_B)
        return embedder.time_embedder(frequencies.to(next(embedder.time_embedder.parameters()).dtype))

    def audio_keys(self) -> set[str]:
        """Names of the parameters that speech adds to Wan."""
        return {key for key in self.state_dict() if any(part in key for part in self.AUDIO_PARTS)}


def cast_weights(model: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Put the weights into `dtype`, in place; those that diffusers keeps in float32 become or stay that."""
    keep = set(model._keep_in_fp32_modules or [])
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if keep & set(name.split(".")) else dtype)


class AudioWanTransformer(SpeechWanTransformer):
    """WanTransformer3DModel that also listens to speech in every block, as in FantasyTalking.

    New arguments beside diffusers' own:
    audio_features: width of the speech encoder's features (wav2vec2-base 768, Whisper tiny 384).
    audio_dim: width of the audio keys' and values' input (2048 in FantasyTalking).
    audio_stride: video frames per latent frame (4 for Wan's VAE, 1 for the portrait codec).
    audio_margin: tokens added on both sides of a window.
    audio_places: tokens per window, to learn a vector for each place in it. FantasyTalking has no such term
        (None); with one token per video frame the transformer cannot tell early from late without it.
    """

    AUDIO_PARTS = ("audio_proj.", ".attn2.processor.", "audio_place")

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 16,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        audio_features: int = 768,
        audio_dim: int = 2048,
        audio_stride: int = 4,
        audio_margin: int = MARGIN_TOKENS,
        audio_places: int | None = None,
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        width = num_attention_heads * attention_head_dim
        self.embed_context()
        self.audio_proj = AudioProjection(audio_features, audio_dim)
        self.audio_place = nn.Parameter(torch.zeros(audio_places, audio_dim)) if audio_places else None
        for block in self.blocks:
            assert isinstance(block, WanTransformerBlock)
            processor = AudioCrossAttention(width, audio_dim)
            block.attn2.set_processor(processor)  # type: ignore[arg-type]  # a closed list of theirs

    def with_audio(self, context: CrossContext, audio_BLD: torch.Tensor, latent_frames: int) -> CrossContext:
        frames = self.config["audio_stride"] * (latent_frames - 1) + 1
        windows = audio_windows(
            audio_BLD.shape[1], frames, self.config["audio_stride"], self.config["audio_margin"]
        )
        if self.audio_place is not None and windows.index_FW.shape[1] != self.audio_place.shape[0]:
            raise ValueError(
                f"{audio_BLD.shape[1]} audio tokens for {frames} frames make windows of "
                f"{windows.index_FW.shape[1]} tokens, this model was made for {self.audio_place.shape[0]}: "
                f"pass the speech features of exactly these frames"
            )
        return replace(
            context,
            audio_BLA=self.audio_proj(audio_BLD),
            windows=windows.to(audio_BLD.device),
            place_WA=self.audio_place,
        )
