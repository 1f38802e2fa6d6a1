"""A Qwen2.5-Omni folder as published (or as `save_pretrained` writes it): the thinker in it, of any width.

The whole model or the thinker alone; names with `thinker.` before them or without; the talker is not read.
Every name and shape is compared with config.json before a tensor is read, and the tensors are then streamed
to their device one at a time. Only safetensors are read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerConfig

from ft2ray.critic.processor import ProcessorConfig
from ft2ray.critic.questions import AUDIO, AUDIO_BOS, VIDEO, VISION_BOS, VISION_EOS
from ft2ray.critic.talking.model import Thinker, build_model
from ft2ray.errors import WeightsError
from ft2ray.records import content_id
from ft2ray.storage import local_folder, local_path
from ft2ray.weights import content_digest, find, first_line, read_json, stream_into, weight_files

CONFIG, STEM = "config.json", "model"
KINDS = ("qwen2_5_omni", "qwen2_5_omni_thinker")
PATTERNS = ("*.json", "*.jinja", "*.txt", "*.safetensors")  # of a hub repository
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_SPEAKING = re.compile(r"(talker|token2wav)\.")  # the other half of the whole model
_TO_OURS = (
    (re.compile(r"^thinker\."), ""),
    (re.compile(r"^(?=(audio_tower|visual)\.)"), "model."),
    (re.compile(r"^model\.(?!(audio_tower|visual|language_model)\.)"), "model.language_model."),
)


@dataclass(frozen=True)
class PromptTemplate:
    """The folder's chat template around one clip: what all questions share, and each question's own end."""

    prefix: str
    endings: tuple[str, ...]


def find_omni(weights: str | Path, base: Path = Path(), patterns: tuple[str, ...] = PATTERNS) -> Path:
    """The folder that a path (from `base` on), an s3:// URL or a hub name stands for; ValueError if none.

    patterns: the files of a hub repository that are wanted.
    """
    if local_path(weights) is None:
        return local_folder(weights)
    return find(str(weights), base, "critic.weights", patterns)


def read_thinker_config(folder: Path) -> tuple[Qwen2_5OmniThinkerConfig, torch.dtype]:
    """The thinker's architecture and the type of its numbers; ValueError where it is another model's."""
    values = read_json(folder / CONFIG, "a Qwen2.5-Omni folder")
    if values.get("model_type") not in KINDS:
        raise WeightsError(f"critic: {folder} holds a {values.get('model_type')}; give a Qwen2.5-Omni")
    own = values.get("thinker_config", values)
    dtype = own.get("dtype") or own.get("torch_dtype") or values.get("torch_dtype") or "float32"
    if dtype not in DTYPES:
        raise WeightsError(
            f"critic: {folder / CONFIG} wants numbers of type {dtype}; known: {', '.join(DTYPES)}"
        )
    try:
        return Qwen2_5OmniThinkerConfig.from_dict(dict(own)), DTYPES[dtype]
    except Exception as error:  # transformers checks values with errors of many kinds
        raise WeightsError(f"critic: {folder / CONFIG} is not a thinker's: {first_line(error)}") from error


def load_thinker(folder: Path, device: torch.device | str) -> Thinker:
    """The thinker of `folder` on `device`, frozen, in evaluation mode.

    Raises ValueError that names what is missing, unknown, misshapen or damaged; then no tensor has been read.
    """
    config, dtype = read_thinker_config(folder)
    with init_empty_weights():
        model: Any = build_model(config)
    wanted = dict(model.state_dict())
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    files = weight_files(folder, STEM)
    stream_into(model, files, wanted, _ours, lambda _: dtype, device)
    if config.tie_word_embeddings:
        model.tie_weights()
    return model.to(device).eval().requires_grad_(False)  # to: the tables of the rotary embedding


def _ours(key: str) -> str | None:
    """The name under which transformers' classes hold a published tensor, None if it is not the thinker's."""
    if _SPEAKING.match(key):
        return None
    for pattern, replacement in _TO_OURS:
        key = pattern.sub(replacement, key)
    return key


def load_tokenizer(folder: Path, config: Qwen2_5OmniThinkerConfig) -> PreTrainedTokenizerFast:
    """The tokenizer with the folder's chat template; ValueError where it is missing or another model's."""
    if not (folder / "tokenizer.json").is_file():
        raise WeightsError(f"critic: {folder} lacks tokenizer.json; the download is incomplete")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        raise WeightsError(
            f"critic: the tokenizer in {folder} cannot be read: {first_line(error)}"
        ) from error
    wanted = {
        VIDEO: config.video_token_id,
        AUDIO: config.audio_token_id,
        VISION_BOS: getattr(config, "vision_start_token_id", None),
        AUDIO_BOS: config.audio_start_token_id,
    }
    for token, number in wanted.items():
        if tokenizer.convert_tokens_to_ids(token) != number:
            raise WeightsError(
                f"critic: the tokenizer in {folder} is another model's: {token} is "
                f"{tokenizer.convert_tokens_to_ids(token)} there and {number} in {CONFIG}"
            )
    legacy = folder / "chat_template.json"
    if tokenizer.chat_template is None and legacy.is_file():
        tokenizer.chat_template = read_json(legacy, "a chat template").get("chat_template")
    if not isinstance(tokenizer.chat_template, str):
        raise WeightsError(f"critic: {folder} lacks chat_template.json; copy the folder as a whole")
    return tokenizer


def read_prompt(tokenizer: PreTrainedTokenizerFast, questions: dict[str, str]) -> PromptTemplate:
    """The text around a clip, by the tokenizer's chat template; ValueError where it holds no single video."""
    prefixes, endings = set(), []
    for question in questions.values():
        parts = [{"type": "video", "video": "clip"}, {"type": "text", "text": question}]
        chat: Any = [{"role": "user", "content": parts}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prefix, mark, ending = str(text).partition(VIDEO + VISION_EOS)
        if not mark or question not in ending or VIDEO in prefix + ending:
            raise WeightsError("critic: the chat template does not put one video before the question")
        prefixes.add(prefix + mark)
        endings.append(ending)
    if len(prefixes) != 1:
        raise WeightsError("critic: the chat template changes the text before the video with the question")
    return PromptTemplate(prefixes.pop(), tuple(endings))


def processor_of(config: Any, fps: float) -> ProcessorConfig:
    """What the clip's tensors depend on, for this thinker at `fps` pictures a second."""
    vision = config.vision_config
    return ProcessorConfig(
        patch_size=vision.patch_size,
        temporal_patch_size=vision.temporal_patch_size,
        merge_size=vision.spatial_merge_size,
        mel_bins=config.audio_config.num_mel_bins,
        padded_seconds=300,  # chunk_length of the published feature extractor
        position_id_per_seconds=config.position_id_per_seconds,
        seconds_per_chunk=config.seconds_per_chunk,
        fps=fps,
    )


def base_fingerprint(folder: Path) -> str:
    """Identity of thinker, tokenizer and template, wherever they lie; reads all of the weights."""
    names = ("tokenizer.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")
    texts = [content_digest(folder / name) for name in names if (folder / name).is_file()]
    config = read_json(folder / CONFIG, "a Qwen2.5-Omni folder")
    shards = [content_digest(file) for file in weight_files(folder, STEM)]
    return content_id(config.get("thinker_config", config), texts, shards)
