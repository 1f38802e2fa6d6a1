"""What the critic is asked, and in which words.

A question is answered by "Yes." or "No."; any text can be tokenised.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ft2ray.dimensions import DEFAULT_DIMENSIONS, questions

QUESTIONS = questions(DEFAULT_DIMENSIONS)
YES, NO = "Yes", "No"

IMAGE, AUDIO, VIDEO = "<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>"
VISION_BOS, VISION_EOS = "<|vision_bos|>", "<|vision_eos|>"
AUDIO_BOS, AUDIO_EOS = "<|audio_bos|>", "<|audio_eos|>"
END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
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


def prefix_text(images: int) -> str:
    """The part of the prompt that all questions share: still crops, then the video with its sound."""
    still = f"{VISION_BOS}{IMAGE}{VISION_EOS}" * images
    return f"{TURN_START}user\n{still}{VISION_BOS}{VIDEO}{VISION_EOS}"


def question_text(question: str) -> str:
    """The part of the prompt that differs: the question, up to where the answer begins."""
    return f"{question}{TURN_END}\n{TURN_START}assistant\n"


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


def answer_token_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Ids of the first tokens of "Yes." and "No.".

    Raises:
        ValueError: if both answers begin with the same token, so that no score exists.
    """
    yes, no = (tokenizer.encode(f"{word}.", add_special_tokens=False)[0] for word in (YES, NO))
    if yes == no:
        raise ValueError(
            "the tokenizer begins 'Yes.' and 'No.' with the same token; "
            "train it on both answers (build_tokenizer does)"
        )
    return yes, no
