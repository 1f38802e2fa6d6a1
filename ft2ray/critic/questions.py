"""What the critic is asked, and in which words.

A question is answered by "Yes." or "No."; any text can be tokenised.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from ft2ray.dimensions import DEFAULT_DIMENSIONS, questions

QUESTIONS = questions(DEFAULT_DIMENSIONS)
YES, NO = "Yes", "No"

IMAGE, AUDIO, VIDEO = "<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>"
VISION_BOS, VISION_EOS = "<|vision_bos|>", "<|vision_eos|>"
AUDIO_BOS, AUDIO_EOS = "<|audio_bos|>", "<|audio_eos|>"
END, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"


def prefix_text(images: int) -> str:
    """The part of the prompt that all questions share: still crops, then the video with its sound."""
    still = f"{VISION_BOS}{IMAGE}{VISION_EOS}" * images
    return f"{TURN_START}user\n{still}{VISION_BOS}{VIDEO}{VISION_EOS}"


def question_text(question: str) -> str:
    """The part of the prompt that differs: the question, up to where the answer begins."""
    return f"{question}{TURN_END}\n{TURN_START}assistant\n"


def answer_token_ids(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Ids of the first tokens of "Yes." and "No.".

    Raises:
        ValueError: if both answers begin with the same token, so that no score exists.
    """
    yes, no = (tokenizer.encode(f"{word}.", add_special_tokens=False)[0] for word in (YES, NO))
    if yes == no:
        raise ValueError(
            "the tokenizer begins 'Yes.' and 'No.' with the same token; train it on both answers"
        )
    return yes, no
