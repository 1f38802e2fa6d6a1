"""FantasyTalking's audio cross-attention: every latent frame listens to its own window of speech.

The layer lives inside Wan's text/image cross-attention: it borrows the normalised query, brings its own key
and value projections, and its output is added before the shared output projection (FantasyTalking, arXiv
2504.04842, section 3.2, and its released inference code).

Shape suffixes: B batch, F latent frames, N latent tokens (frame-major), L audio tokens, W tokens per window,
D model width, A audio width, H heads, E width of one head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import nn

MARGIN_TOKENS = 4
"""Tokens by which FantasyTalking widens every window on both sides."""


@dataclass(frozen=True)
class AudioWindows:
    """Audio tokens that each latent frame may attend to.

    index_FW: token numbers, valid ones first, then padding (which points at token 0 and is masked).
    mask_FW: True where `index_FW` is a real token of the window.
    offset_FW: place of each token in its unclipped window, 0..W-1.
    """

    index_FW: torch.Tensor
    mask_FW: torch.Tensor
    offset_FW: torch.Tensor

    def to(self, device: torch.device) -> AudioWindows:
        """The same windows on another device."""
        return AudioWindows(self.index_FW.to(device), self.mask_FW.to(device), self.offset_FW.to(device))


def window_ranges(
    tokens: int, frames: int, stride: int, margin: int = MARGIN_TOKENS
) -> list[tuple[int, int]]:
    """First and last token (both inclusive, not clipped to the recording) of each latent frame's window.

    tokens: audio tokens of the clip; frames: video frames; stride: video frames per latent frame after the
    first one, which always stands for a single video frame (4 for Wan's causal VAE, 1 for the portrait
    codec). Rule of FantasyTalking's code: half = int(stride * tokens_per_frame / 2), the window of latent
    frame i >= 1 is centred on the middle of its video frames, the first window mirrors the second one,
    `margin` tokens more on both sides. Raises ValueError for sizes that no clip has.
    """
    if tokens < 1 or frames < 1 or stride < 1 or margin < 0:
        raise ValueError(
            f"audio windows need tokens >= 1, frames >= 1, stride >= 1 and margin >= 0, "
            f"got {tokens}, {frames}, {stride}, {margin}"
        )
    if (frames - 1) % stride:
        raise ValueError(
            f"{frames} video frames do not fill latent frames of {stride}: use {stride} * n + 1 frames"
        )
    per_frame = tokens / frames
    half = int(stride * per_frame / 2)
    latent_frames = 1 + (frames - 1) // stride
    centres = [
        int((per_frame * (stride * (i - 1) + 1) + per_frame * (stride * i + 1)) / 2) - 1
        for i in range(1, max(latent_frames, 2))
    ]
    ranges = [(centre - half, centre + half) for centre in centres]
    second_start = ranges[0][0]
    ranges = [(-(2 * half - second_start), second_start), *ranges][:latent_frames]
    return [(start - margin, end + margin) for start, end in ranges]


def audio_windows(tokens: int, frames: int, stride: int, margin: int = MARGIN_TOKENS) -> AudioWindows:
    """Windows of `window_ranges`, clipped to the recording and padded on the right to one common width."""
    ranges = window_ranges(tokens, frames, stride, margin)
    width = max(end - start + 1 for start, end in ranges)
    start_F1 = torch.tensor([[start] for start, _ in ranges])
    end_F1 = torch.tensor([[end] for _, end in ranges])
    first_F1 = start_F1.clamp(min=0)
    index_FW = first_F1 + torch.arange(width)[None]
    mask_FW = index_FW <= end_F1.clamp(max=tokens - 1)
    assert bool(mask_FW[:, 0].all()), "every window holds at least one token"
    offset_FW = (index_FW - start_F1).clamp(max=width - 1)
    return AudioWindows(torch.where(mask_FW, index_FW, 0), mask_FW, offset_FW)


@dataclass(frozen=True)
class CrossContext:
    """Everything that the cross-attention of a block listens to; passed through the blocks as one argument.

    text_BLD: text tokens; image_BLD: image tokens or None; audio_BLA: projected speech tokens or None, with
    their `windows` and, where the model knows places inside a window, place_WA (added to the keys); a model
    that adds speech to its tokens instead has one audio token per latent frame and no windows.
    audio_scale_B multiplies the audio output.
    """

    text_BLD: torch.Tensor
    image_BLD: torch.Tensor | None = None
    audio_BLA: torch.Tensor | None = None
    windows: AudioWindows | None = None
    place_WA: torch.Tensor | None = None
    audio_scale_B: torch.Tensor | None = None


class AudioProjection(nn.Module):
    """Speech-encoder features to the width of the audio keys and values: Linear (no bias), then LayerNorm."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(features, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, feat_BLD: torch.Tensor) -> torch.Tensor:
        """[B, L, features] -> [B, L, width]."""
        return self.norm(self.proj(feat_BLD))


class ContextCrossAttention(nn.Module):
    """Processor of one block's cross-attention on a `CrossContext`: text + image, one output projection.

    Diffusers' own finds the image by assuming 512 text tokens; here the two are kept apart.
    """

    _attention_backend = None
    _parallel_config = None

    def forward(
        self,
        attn: WanAttention,
        hidden_BND: torch.Tensor,
        context: CrossContext,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: object = None,
    ) -> torch.Tensor:
        """[B, N, D] -> [B, N, D]; `attn` is the diffusers WanAttention that holds the other projections."""
        assert attention_mask is None and rotary_emb is None, "Wan's cross-attention has neither"
        query_BNHE = attn.norm_q(attn.to_q(hidden_BND)).unflatten(2, (attn.heads, -1))
        return attn.to_out[1](attn.to_out[0](self.attend(attn, query_BNHE, context)))

    def attend(self, attn: WanAttention, query_BNHE: torch.Tensor, context: CrossContext) -> torch.Tensor:
        """What the queries find in the context: [B, N, H, E] -> [B, N, D]."""
        text = context.text_BLD
        out_BND = self._attend(query_BNHE, attn.norm_k(attn.to_k(text)), attn.to_v(text))
        if context.image_BLD is not None:
            image = context.image_BLD
            key_BLD = attn.norm_added_k(attn.add_k_proj(image))  # type: ignore[misc]
            value_BLD = attn.add_v_proj(image)  # type: ignore[misc]  # declared as None in diffusers
            out_BND = out_BND + self._attend(query_BNHE, key_BLD, value_BLD)
        return out_BND

    def _attend(
        self, query_BNHE: torch.Tensor, key_BLD: torch.Tensor, value_BLD: torch.Tensor
    ) -> torch.Tensor:
        heads = query_BNHE.shape[2]
        key, value = key_BLD.unflatten(2, (heads, -1)), value_BLD.unflatten(2, (heads, -1))
        out = dispatch_attention_fn(query_BNHE, key, value, backend=self._attention_backend)
        return out.flatten(2, 3).type_as(query_BNHE)


class AudioCrossAttention(ContextCrossAttention):
    """The same with speech: text + image + audio_scale * audio, one output projection.

    Key and value of the audio start at zero, so a fresh layer leaves the plain Wan output as it is, to the
    bit.
    """

    def __init__(self, width: int, audio_width: int) -> None:
        super().__init__()
        self.k_proj = nn.Linear(audio_width, width, bias=False)
        self.v_proj = nn.Linear(audio_width, width, bias=False)
        nn.init.zeros_(self.k_proj.weight)
        nn.init.zeros_(self.v_proj.weight)

    def attend(self, attn: WanAttention, query_BNHE: torch.Tensor, context: CrossContext) -> torch.Tensor:
        out_BND = super().attend(attn, query_BNHE, context)
        if context.audio_BLA is None:
            return out_BND
        assert context.audio_scale_B is not None
        audio_BND = self.listen(query_BNHE, context).type_as(out_BND)
        return out_BND + audio_BND * context.audio_scale_B[:, None, None].type_as(out_BND)

    def listen(self, query_BNHE: torch.Tensor, context: CrossContext) -> torch.Tensor:
        """Each latent frame's queries attend to the audio window of that frame: [B, N, H, E] -> [B, N, D]."""
        audio_BLA, windows = context.audio_BLA, context.windows
        assert audio_BLA is not None and windows is not None
        heads = query_BNHE.shape[2]
        key_BLHE = self.k_proj(audio_BLA).unflatten(-1, (heads, -1))
        value_BLHE = self.v_proj(audio_BLA).unflatten(-1, (heads, -1))
        place_WHE = None
        if context.place_WA is not None:
            # k_proj is linear without bias: projecting token and place apart and adding is the same, and
            # cheaper.
            place_WHE = self.k_proj(context.place_WA).unflatten(-1, (heads, -1))
        if query_BNHE.shape[1] == windows.index_FW.shape[0]:
            return _listen_one_token_per_frame(query_BNHE, key_BLHE, value_BLHE, windows, place_WHE)
        frames, width = windows.index_FW.shape
        query = query_BNHE.unflatten(1, (frames, -1)).flatten(0, 1)  # [B*F, N/F, H, E]
        key, value = (
            tensor.index_select(1, windows.index_FW.flatten()).unflatten(1, (frames, width))
            for tensor in (key_BLHE, value_BLHE)
        )  # [B, F, W, H, E]
        if place_WHE is not None:
            key = key + place_WHE[windows.offset_FW]
        mask = windows.mask_FW[None, :, None, None].expand(len(audio_BLA), -1, -1, -1, -1).flatten(0, 1)
        out = dispatch_attention_fn(
            query, key.flatten(0, 1), value.flatten(0, 1), attn_mask=mask, backend=self._attention_backend
        )
        return out.flatten(2).unflatten(0, (-1, frames)).flatten(1, 2)


def _listen_one_token_per_frame(
    query_BFHE: torch.Tensor,
    key_BLHE: torch.Tensor,
    value_BLHE: torch.Tensor,
    windows: AudioWindows,
    place_WHE: torch.Tensor | None,
) -> torch.Tensor:
    """The same attention where a frame is a single query (portrait codec).

    One dense product over all tokens and a gather of scores beats a gather of keys and values: on one CPU
    thread the whole transformer runs two to three times faster.
    """
    query_BHFE, key_BHLE, value_BHLE = (x.transpose(1, 2) for x in (query_BFHE, key_BLHE, value_BLHE))
    scores_BHFL = query_BHFE @ key_BHLE.transpose(2, 3)
    index = windows.index_FW.expand(*scores_BHFL.shape[:2], -1, -1)  # [B, H, F, W]
    scores = scores_BHFL.gather(3, index)
    if place_WHE is not None:
        place_scores = query_BHFE @ place_WHE.permute(1, 2, 0)
        scores = scores + place_scores.gather(3, windows.offset_FW.expand_as(index))
    scores = (scores / math.sqrt(query_BFHE.shape[-1])).masked_fill(~windows.mask_FW, -math.inf)
    weight_BHFL = torch.zeros_like(scores_BHFL).scatter_add(3, index, scores.softmax(dim=3))
    return (weight_BHFL @ value_BHLE).transpose(1, 2).flatten(2)
