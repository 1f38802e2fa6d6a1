"""FantasyTalking's audio checkpoint as it was published, made from (or put on) a transformer of ours."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ft2ray.generator.checkpoint import from_fantasytalking
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.weights import check_fit

FROM_OURS = (
    (r"^audio_proj\.(proj|norm)\.(weight|bias)$", r"proj_model.\1.\2"),
    (
        r"^blocks\.(\d+)\.attn2\.processor\.(k_proj|v_proj)\.weight$",
        r"audio_processor.blocks.\1.cross_attn.processor.\2.weight",
    ),
)


def audio_tensors(transformer: AudioWanTransformer) -> dict[str, torch.Tensor]:
    """The parameters that FantasyTalking adds to Wan, under the names of `AudioWanTransformer`."""
    keys = transformer.audio_keys()
    return {key: value for key, value in transformer.state_dict().items() if key in keys}


def to_fantasytalking(transformer: AudioWanTransformer) -> dict[str, torch.Tensor]:
    published = {}
    for key, value in audio_tensors(transformer).items():
        ((pattern, name),) = [rule for rule in FROM_OURS if re.match(rule[0], key)]
        published[re.sub(pattern, name, key)] = value
    return published


def load_fantasytalking(transformer: AudioWanTransformer, tensors: Mapping[str, Any]) -> None:
    audio = from_fantasytalking(tensors)
    check_fit(audio_tensors(transformer), audio, "FantasyTalking's audio checkpoint")
    transformer.load_state_dict(audio, strict=False)
