"""The Talking-Critic's network: the Qwen2.5-Omni thinker, asked K questions about one prefix.

The prompt is [still crops, video with its sound] + [question]. The first part is the same for
every question, so it runs through the towers and the language model once; its key-value cache
then answers all questions. Training and scoring share this one path.

Shapes: B clips (one layout each batch), S patches, E values in a patch, M mel bins, J mel
frames, L prefix tokens, N tokens of one modality, D width, K questions, Q question tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AttentionInterface,
    DynamicCache,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from ft2ray.critic.processor import ProcessorConfig, audio_token_count, sounding_video
from ft2ray.critic.questions import IMAGE, VIDEO, prefix_text, question_text

Thinker = Qwen2_5OmniThinkerForConditionalGeneration
_PACKED = "packed_flash_sdpa"  # "flash" in the name makes the towers hand over all segments in one call


def packed_sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention inside each of many packed segments, one batched call for each segment length.

    The library's own fallback loops over segments in Python: 38 of them for a three-second clip.

    Args:
        module: not used.
        query: [1, heads, tokens, head width], as key and value are.
        key: see query.
        value: see query.
        attention_mask: not used; segments take its place.
        scaling: of the logits.
        cu_seq_lens_q: where segments begin and end [segments + 1].

    Returns:
        [1, tokens, heads, head width] and None, as the attention interface wants.
    """
    assert cu_seq_lens_q is not None
    lengths = cu_seq_lens_q.diff()
    out = torch.empty_like(query)
    for length in lengths.unique().tolist():
        index = cu_seq_lens_q[:-1][lengths == length].long()[:, None] + torch.arange(
            length, device=query.device
        )
        own, keys, values = (tensor[0][:, index].transpose(0, 1) for tensor in (query, key, value))
        answer = F.scaled_dot_product_attention(own, keys, values, scale=scaling)
        out = out.index_copy(2, index.flatten(), answer.transpose(0, 1).flatten(1, 2)[None])
    return out.transpose(1, 2), None


AttentionInterface.register(_PACKED, packed_sdpa)


def build_model(config: Qwen2_5OmniThinkerConfig) -> Thinker:
    """A new thinker whose towers use packed attention; float32, training mode."""
    model = Thinker(config)
    for tower in (model.model.visual, model.model.audio_tower):
        tower.config._attn_implementation = _PACKED
    return model


@dataclass(frozen=True)
class ClipBatch:
    """B clips of one layout.

    video_BSE, stills_BSE: normalised patches; mel_BMJ: log-mel without padding.
    video_grid: [t, h, w] of each clip; still_grids: [k][1, h, w].
    """

    video_BSE: torch.Tensor
    video_grid: tuple[int, int, int]
    stills_BSE: torch.Tensor
    still_grids: tuple[tuple[int, int, int], ...]
    mel_BMJ: torch.Tensor

    def __len__(self) -> int:
        return len(self.video_BSE)


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the prefix of a batch: the same for all of its clips."""

    ids_L: torch.Tensor
    position_3L: torch.Tensor

    @property
    def next_position(self) -> int:
        return int(self.position_3L.max()) + 1

    def first_sound(self, model: Thinker) -> int:
        """Index of the first sound token; no picture may come after it."""
        sound = torch.where(self.ids_L == model.config.audio_token_id)[0][0]
        assert not (self.ids_L[sound:] == model.config.video_token_id).any(), "pictures and sound alternate"
        return int(sound)


def prefix_layout(
    model: Thinker, tokenizer: PreTrainedTokenizerFast, processor: ProcessorConfig, batch: ClipBatch
) -> Layout:
    """Token ids and three-axis rotary positions of the prefix of `batch`."""
    frames = batch.mel_BMJ.shape[2]
    parts = prefix_text(len(batch.still_grids)).split(IMAGE)
    for index, grid in enumerate(batch.still_grids):
        parts[index + 1] = IMAGE * (grid[1] * grid[2] // processor.merge_size**2) + parts[index + 1]
    video = sounding_video(batch.video_grid, audio_token_count(frames), processor)
    ids = torch.tensor([tokenizer.encode("".join(parts).replace(VIDEO, video), add_special_tokens=False)])
    position, _ = model.model.get_rope_index(
        ids,
        image_grid_thw=torch.tensor(batch.still_grids) if batch.still_grids else None,
        video_grid_thw=torch.tensor([batch.video_grid]),
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=True,
        audio_seqlens=torch.tensor([frames]),
        second_per_grids=torch.tensor([processor.temporal_patch_size / processor.fps]),
    )
    return Layout(ids[0], position[:, 0])


def video_tokens(model: Thinker, batch: ClipBatch) -> torch.Tensor:
    """Vision tower on the videos: [B, N, D], time-major."""
    grid = torch.tensor([batch.video_grid] * len(batch))
    return model.model.visual(batch.video_BSE.flatten(0, 1), grid_thw=grid).pooler_output.unflatten(
        0, (len(batch), -1)
    )


def still_tokens(model: Thinker, batch: ClipBatch) -> torch.Tensor:
    """Vision tower on the still crops: [B, N, D]; N is 0 without stills."""
    if not batch.still_grids:
        return batch.mel_BMJ.new_zeros(len(batch), 0, model.lm_head.in_features)
    grid = torch.tensor(batch.still_grids).repeat(len(batch), 1)
    return model.model.visual(batch.stills_BSE.flatten(0, 1), grid_thw=grid).pooler_output.unflatten(
        0, (len(batch), -1)
    )


def audio_tokens(model: Thinker, mel_BMJ: torch.Tensor) -> torch.Tensor:
    """Audio tower on the sounds: [B, N, D] at 25 tokens a second."""
    lengths = torch.full((len(mel_BMJ),), mel_BMJ.shape[2])
    packed = mel_BMJ.transpose(0, 1).flatten(1)
    return model.model.audio_tower(packed, feature_lens=lengths).last_hidden_state.unflatten(
        0, (len(mel_BMJ), -1)
    )


def read_prefix(
    model: Thinker, layout: Layout, video_BND: torch.Tensor, stills_BND: torch.Tensor, audio_BND: torch.Tensor
) -> tuple[torch.Tensor, DynamicCache]:
    """Run the shared prefix through the language model once.

    The sounds may be a multiple S * B of the B clips (sound-major): each clip's pictures are then
    read once for all S, which needs a layout with all pictures before the first sound token.

    Returns:
        Hidden states before the last layer, which is what a question can still read, at the sound
        tokens and what follows [S * B, L', D] (of the whole prefix if S is 1), and the key-value
        cache that answers the questions.
    """
    clips, repeats = len(video_BND), len(audio_BND) // len(video_BND)
    kinds = ((model.config.video_token_id, video_BND), (model.config.image_token_id, stills_BND))
    cache = DynamicCache(config=model.config.get_text_config())
    if repeats == 1:
        whole = slice(0, len(layout.ids_L))
        return _read(
            model, layout, whole, (*kinds, (model.config.audio_token_id, audio_BND)), clips, cache
        ), cache
    first_sound = layout.first_sound(model)
    _read(model, layout, slice(0, first_sound), kinds, clips, cache)
    layers: list[Any] = cache.layers
    for layer in layers:
        layer.keys, layer.values = (kept.repeat(repeats, 1, 1, 1) for kept in (layer.keys, layer.values))
    rest = slice(first_sound, len(layout.ids_L))
    sound = ((model.config.audio_token_id, audio_BND),)
    return _read(model, layout, rest, sound, len(audio_BND), cache), cache


def _read(
    model: Thinker,
    layout: Layout,
    part: slice,
    features: Sequence[tuple[int, torch.Tensor]],
    count: int,
    cache: DynamicCache,
) -> torch.Tensor:
    """Read a part of the prefix behind what the cache holds: last layer's input [count, L', D]."""
    ids_L = layout.ids_L[part]
    embeds = model.get_input_embeddings()(ids_L).repeat(count, 1, 1)
    for token, tokens_BND in features:
        where = torch.where(ids_L == token)[0]
        assert len(where) == tokens_BND.shape[1], (token, len(where), tokens_BND.shape)
        embeds = embeds.index_copy(1, where, tokens_BND)
    out = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=layout.position_3L[:, None, part].expand(-1, count, -1),
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=True,
    )
    return out.hidden_states[-2]


def answer_logits(
    model: Thinker,
    layout: Layout,
    cache: DynamicCache,
    question_ids: Sequence[Sequence[int]],
    answer_ids: tuple[int, int],
) -> torch.Tensor:
    """Logits of Yes and No after each question: [B, K, 2]. The cache is used up.

    Questions are padded on the right, where causal attention cannot see the padding.
    """
    longest, count = max(map(len, question_ids)), len(question_ids)
    layers: list[Any] = cache.layers
    clips = layers[0].keys.shape[0]
    ids_KQ = torch.tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in question_ids])
    cache.batch_repeat_interleave(count)
    position_Q = layout.next_position + torch.arange(longest)
    hidden = model.model.language_model(
        inputs_embeds=model.get_input_embeddings()(ids_KQ).repeat(clips, 1, 1),
        position_ids=position_Q.expand(3, clips * count, -1),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state.unflatten(0, (clips, count))
    last = torch.tensor([len(ids) - 1 for ids in question_ids])
    hidden_BKD = hidden[:, torch.arange(count), last]
    return F.linear(hidden_BKD, model.lm_head.weight[list(answer_ids)])


def question_token_ids(tokenizer: PreTrainedTokenizerFast, questions: dict[str, str]) -> list[list[int]]:
    """Token ids of what follows the prefix, one list for each question."""
    return [tokenizer.encode(question_text(text), add_special_tokens=False) for text in questions.values()]
