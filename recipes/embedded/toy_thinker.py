"""The packaged critic before it learns anything: Qwen2.5-Omni's thinker at toy width, and its tokenizer."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerConfig

from ft2ray.critic.processor import ProcessorConfig
from ft2ray.critic.questions import (
    AUDIO,
    AUDIO_BOS,
    AUDIO_EOS,
    END,
    IMAGE,
    NO,
    QUESTIONS,
    TURN_END,
    TURN_START,
    VIDEO,
    VISION_BOS,
    VISION_EOS,
    YES,
)

SPECIAL_TOKENS = [
    END,
    TURN_START,
    TURN_END,
    AUDIO,
    AUDIO_BOS,
    AUDIO_EOS,
    VISION_BOS,
    VISION_EOS,
    IMAGE,
    VIDEO,
]
INITIAL_SPREAD = 0.06  # of weights: about 1 / sqrt(width), as the large models' 0.02 is for their widths
# Four frames in a patch halve the vision tokens of 25-fps video; one chunk holds a whole window, so
# all pictures come before all sound and several sounds can be tried on pictures that are read once.
TOY_PROCESSOR = ProcessorConfig(temporal_patch_size=4, seconds_per_chunk=4)


def toy_config(
    tokenizer: PreTrainedTokenizerFast, processor: ProcessorConfig, width: int = 96
) -> Qwen2_5OmniThinkerConfig:
    """Qwen2.5-Omni's thinker at about 0.9 M parameters, for one CPU core."""
    token = tokenizer.convert_tokens_to_ids
    heads = 4
    third = width // heads // 2 // 3
    settings: dict[str, Any] = {
        "audio_config": {
            "initializer_range": INITIAL_SPREAD,
            "num_mel_bins": processor.mel_bins,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 288,
            "d_model": 96,
            "output_dim": width,
            "n_window": 150,  # one chunk of three seconds: a whole window of the view
        },
        "vision_config": {
            "initializer_range": INITIAL_SPREAD,
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": width,
            "fullatt_block_indexes": [0, 1],
            "patch_size": processor.patch_size,
            "temporal_patch_size": processor.temporal_patch_size,
            "spatial_merge_size": processor.merge_size,
        },
        "text_config": {
            "initializer_range": INITIAL_SPREAD,
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 4,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [width // heads // 2 - 2 * third, third, third],
            },
        },
        "initializer_range": INITIAL_SPREAD,
        "image_token_id": token(IMAGE),
        "video_token_id": token(VIDEO),
        "audio_token_id": token(AUDIO),
        "vision_start_token_id": token(VISION_BOS),
        "audio_start_token_id": token(AUDIO_BOS),
        "audio_end_token_id": tokenizer.audio_eos_token_id,
        "position_id_per_seconds": processor.position_id_per_seconds,
        "seconds_per_chunk": processor.seconds_per_chunk,
        "tie_word_embeddings": False,
    }
    return Qwen2_5OmniThinkerConfig(**settings)


def build_tokenizer(questions: dict[str, str] = QUESTIONS, vocabulary: int = 320) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens, small enough for a toy model.

    Merges come from the questions and the prompt frame, so their words are single tokens;
    every other text falls back to bytes. The result serves the real Qwen2.5-Omni processor
    as well as ours.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*questions.values(), f"{YES}.", f"{NO}.", "user\n", "\nassistant\n"]
    tokenizer.train_from_iterator(texts * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END,
        extra_special_tokens={
            "image_token": IMAGE,
            "audio_token": AUDIO,
            "video_token": VIDEO,
            "vision_bos_token": VISION_BOS,
            "vision_eos_token": VISION_EOS,
            "audio_bos_token": AUDIO_BOS,
            "audio_eos_token": AUDIO_EOS,
        },
    )
