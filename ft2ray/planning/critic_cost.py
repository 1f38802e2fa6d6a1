"""What it costs to score a clip with the Qwen2.5-Omni thinker: the prefix once, then all questions.

The language model runs under `trace`. The towers decide by their inputs' values what attends to what, which
tensors without data cannot tell, so they are formulas: matrix products and attention inside segments.

Shapes: S patches, E values of a patch, M mel bins, J mel frames, L tokens, D width.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache, Qwen2_5OmniThinkerConfig

from ft2ray.critic.omni.card import CARD
from ft2ray.critic.omni.critic import question_mask
from ft2ray.critic.omni.whole_clip import FPS, PIXELS, check_fps
from ft2ray.critic.processor import audio_token_count
from ft2ray.critic.questions import QUESTIONS
from ft2ray.critic.talking.model import Thinker, build_model
from ft2ray.critic.talking.view import FACE_PIXELS, MOUTH_SIZE
from ft2ray.critic.talking.view import FPS as VIEW_FPS
from ft2ray.errors import UserError
from ft2ray.planning.trace import Cost, extrapolated, trace
from ft2ray.weights import read_json

_VISION = {"hidden_size": 1280}
# thinker_config of the published config.json, where it differs from the defaults of transformers.
THINKERS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-Omni-7B": {"vision_config": _VISION},
    "Qwen/Qwen2.5-Omni-3B": {
        "vision_config": _VISION | {"out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
        "text_config": {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
    },
}
PROMPT_TOKENS, QUESTION_TOKENS = 24, 24  # chat template; one question with its template
MEL_PER_SECOND = 100


@dataclass(frozen=True)
class CriticShape:
    """A thinker, and one clip as it takes it: pictures of `grid` patches (t, h, w), and sound."""

    name: str
    config: Qwen2_5OmniThinkerConfig
    dtype: torch.dtype
    grid: tuple[int, int, int]
    mel_frames: int
    questions: int
    whole: bool  # sees whole pictures: a full-size critic

    @property
    def prefix_tokens(self) -> int:
        t, h, w = self.grid
        vision: Any = self.config.vision_config
        merge = vision.spatial_merge_size
        return PROMPT_TOKENS + t * h * w // merge**2 + audio_token_count(self.mel_frames)

    def thinker(self, layers: int | None = None, device: str = "meta") -> Thinker:
        """The thinker, without data unless another device is asked for."""
        config: Any = copy.deepcopy(self.config)
        if layers is not None:
            config.text_config.num_hidden_layers = layers
            config.text_config.layer_types = config.text_config.layer_types[:1] * layers
        with torch.device(device):
            return build_model(config).to(self.dtype).eval().requires_grad_(False)  # type: ignore[arg-type]


def critic_shape(
    weights: str, seconds: float, fps: float | None, pixels: int | None, questions: int
) -> CriticShape:
    """The critic that `critic.weights` names: a folder, "embedded", or a published thinker by hub name.

    A full-size thinker, in bf16, sees square pictures of `pixels` at `fps` (None: as it was tuned) and hears
    everything. (Of the view that this package's own critics have, the two still crops are not counted, of a
    tuned critic its LoRA.)
    """
    card, asked = Path(weights) / CARD, dict(QUESTIONS)
    if card.is_file():
        tuned = read_json(card, "a tuned critic")
        base, fps, pixels, asked = (tuned[key] for key in ("base", "fps", "pixels", "questions"))
        weights = base if base in THINKERS else str(card.parent / str(base))
    fps, pixels = fps or FPS, pixels or PIXELS
    values = copy.deepcopy(THINKERS[weights]) if weights in THINKERS else _read_config(weights)
    height, width, dtype = pixels, pixels, torch.bfloat16
    whole = values.pop("talking_critic", None) is None
    if not whole:  # a critic of this package has a view of its own
        dtype = torch.float32
        fps, height, width = VIEW_FPS, FACE_PIXELS + MOUTH_SIZE[1], FACE_PIXELS
    else:
        check_fps(fps, asked)
    config = Qwen2_5OmniThinkerConfig.from_dict(values)
    vision: Any = config.vision_config
    merge, patch = vision.spatial_merge_size, vision.patch_size
    rows, columns = (n // (patch * merge) * merge for n in (height, width))
    if not rows:
        raise UserError(f"critic.pixels: {pixels} is less than one patch of {weights} ({patch * merge})")
    frames = -(-round(seconds * fps) // vision.temporal_patch_size)
    return CriticShape(
        weights, config, dtype, (frames, rows, columns), round(seconds * MEL_PER_SECOND), questions, whole
    )


def scoring_cost(shape: CriticShape) -> Cost:
    """One clip, all questions."""

    def cost(layers: int) -> Cost:
        thinker = shape.thinker(layers)
        with torch.no_grad():
            return trace(lambda: read_and_answer(shape, thinker))

    text: Any = shape.config.text_config
    language = extrapolated(cost, text.num_hidden_layers)
    return language + vision_cost(shape) + audio_cost(shape)


def read_and_answer(shape: CriticShape, thinker: Thinker) -> object:
    """The language model's part on zeros: the prefix once, and all questions.

    A full-size critic reads all in one pass (`OmniCritic`), the packaged one answers on the prefix's cache.
    """
    if shape.whole:
        return _read_at_once(shape, thinker)
    cache = DynamicCache(config=thinker.config.get_text_config())
    prefix = _read(thinker, cache, 1, shape.prefix_tokens, 0)
    cache.batch_repeat_interleave(shape.questions)
    return prefix, _read(thinker, cache, shape.questions, QUESTION_TOKENS, shape.prefix_tokens)


def _read_at_once(shape: CriticShape, thinker: Thinker) -> object:
    owners = [0] * shape.prefix_tokens
    owners += [k for k in range(1, shape.questions + 1) for _ in range(QUESTION_TOKENS)]
    width, device = thinker.config.get_text_config().hidden_size, thinker.device
    return thinker.model.language_model(
        inputs_embeds=torch.zeros(1, len(owners), width, dtype=thinker.dtype, device=device),
        position_ids=torch.arange(len(owners), device=device).expand(3, 1, -1),
        attention_mask=question_mask(torch.tensor(owners, device=device)),
        use_cache=False,
    )


def _read(thinker: Thinker, cache: DynamicCache, batch: int, tokens: int, start: int) -> object:
    width = thinker.config.get_text_config().hidden_size
    embeds = torch.zeros(batch, tokens, width, dtype=thinker.dtype, device=thinker.device)
    positions = torch.arange(tokens, device=thinker.device).expand(3, batch, -1) + start
    return thinker.model.language_model(
        inputs_embeds=embeds,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=start == 0,  # as the critic reads a prefix
    )


def tower_inputs(shape: CriticShape, device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """One clip of zeros as the vision tower and the audio tower take it."""
    vision: Any = shape.config.vision_config
    audio: Any = shape.config.audio_config
    t, h, w = shape.grid
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pictures_SE = torch.zeros(t * h * w, values, dtype=shape.dtype, device=device)
    sound_MJ = torch.zeros(audio.num_mel_bins, shape.mel_frames, dtype=shape.dtype, device=device)
    return (
        {"hidden_states": pictures_SE, "grid_thw": torch.tensor([shape.grid], device=device)},
        {"input_features": sound_MJ, "feature_lens": torch.tensor([shape.mel_frames], device=device)},
    )


def vision_cost(shape: CriticShape) -> Cost:
    """Vision tower on the clip's pictures; bytes are those of its widest layer."""
    vision: Any = shape.config.vision_config
    t, h, w = shape.grid
    patches, width, merge = t * h * w, vision.hidden_size, vision.spatial_merge_size
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    linear = 4 * width**2 + 3 * width * vision.intermediate_size
    window = (vision.window_size // vision.patch_size) ** 2
    full = len([layer for layer in vision.fullatt_block_indexes if layer < vision.depth])
    attention = 2 * width * (full * h * w + (vision.depth - full) * min(window, h * w))
    merger = (merge**2 * width) ** 2 + merge**2 * width * vision.out_hidden_size
    products = patches * (values * width + vision.depth * linear + attention) + patches / merge**2 * merger
    return Cost(2.0 * products, patches * (4 * width + 3 * vision.intermediate_size) * shape.dtype.itemsize)


def audio_cost(shape: CriticShape) -> Cost:
    """Audio tower on the clip's sound."""
    audio: Any = shape.config.audio_config
    mel, width, tokens = shape.mel_frames, audio.d_model, (shape.mel_frames + 1) // 2
    convolutions = mel * 3 * audio.num_mel_bins * width + tokens * 3 * width**2
    linear = 4 * width**2 + 2 * width * audio.encoder_ffn_dim
    attention = 2 * width * min(tokens, audio.n_window)
    products = convolutions + tokens * audio.encoder_layers * (linear + attention)
    products += audio_token_count(mel) * width * audio.output_dim
    return Cost(2.0 * products, tokens * (4 * width + 2 * audio.encoder_ffn_dim) * shape.dtype.itemsize)


def _read_config(weights: str) -> dict[str, Any]:
    folder = Path(str(files("ft2ray") / "assets" / "critic")) if weights == "embedded" else Path(weights)
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(
            f"plan: critic.weights {weights} is neither a folder with a config.json nor a known name "
            f"({', '.join(THINKERS)})"
        )
    try:
        values = json.loads(file.read_text())
        return dict(values.get("thinker_config", values))
    except (ValueError, AttributeError) as error:
        raise UserError(f"plan: {file} is not a JSON object: {error}") from error
