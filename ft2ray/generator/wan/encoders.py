"""What Wan is conditioned on, encoded as its pipeline and FantasyTalking encode it: text, picture, speech.

Shape suffixes: L tokens, D token width, T audio samples, H W picture size, 3 rgb.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from ft2ray.errors import WeightsError
from ft2ray.generator.wan.folder import load_part
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.weights import first_line

TEXT_TOKENS = 512
"""Wan reads this many text tokens; behind a shorter text it was trained to see zeros."""


@torch.no_grad()
def encode_texts(
    pipeline: Path, texts: Sequence[str], dtype: torch.dtype, device: torch.device | str
) -> list[torch.Tensor]:
    """UMT5's tokens of each text, text_LD without padding, float32 on the CPU.

    The encoder (5.7 B parameters at full size) is let go afterwards.
    """
    tokenizer = load_processor(AutoTokenizer, pipeline / "tokenizer")
    encoder = load_part(UMT5EncoderModel, pipeline / "text_encoder", dtype=dtype).to(device)
    encoded = []
    for text in texts:
        tokens = tokenizer(
            " ".join(text.split()), truncation=True, max_length=TEXT_TOKENS, return_tensors="pt"
        )
        mask_1L = tokens.attention_mask.to(device)
        encoded.append(encoder(tokens.input_ids.to(device), mask_1L).last_hidden_state[0].float().cpu())
    return encoded


def pad_text(text_LD: torch.Tensor) -> torch.Tensor:
    """Zeros behind the text up to `TEXT_TOKENS`."""
    return torch.nn.functional.pad(text_LD, (0, 0, 0, TEXT_TOKENS - len(text_LD)))


class PictureEncoder:
    """CLIP's tokens of the portrait (257 of 1280 numbers at full size): the last layer but one, as in Wan."""

    def __init__(self, pipeline: Path, device: torch.device | str) -> None:
        self._processor = load_processor(CLIPImageProcessorPil, pipeline / "image_processor")
        self._model = load_part(CLIPVisionModel, pipeline / "image_encoder", dtype=torch.float32).to(device)
        self.width = int(self._model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, image_HW3: np.ndarray) -> torch.Tensor:
        """uint8 RGB -> image_LD, float32 on the CPU."""
        pixels = self._processor(images=Image.fromarray(image_HW3), return_tensors="pt").pixel_values
        states = self._model(pixels.to(self._model.device), output_hidden_states=True).hidden_states
        return states[-2][0].float().cpu()


class Wav2Vec2Features:
    """Speech features: the last hidden state of wav2vec2-base-960h, 768 numbers about 50 times a second."""

    def __init__(self, folder: Path, device: torch.device | str) -> None:
        self._extractor = load_processor(Wav2Vec2FeatureExtractor, folder)
        # masked_spec_embed is for pre-training; the published checkpoint has none.
        self._model = load_part(Wav2Vec2Model, folder, ("masked_spec_embed",), dtype=torch.float32).to(device)
        self.width = int(self._model.config.hidden_size)

    @torch.no_grad()
    def __call__(self, wav_T: np.ndarray) -> torch.Tensor:
        """16 kHz mono -> feat_LD, float32 on the CPU."""
        values_1T = self._extractor(wav_T, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        return self._model(values_1T.to(self._model.device)).last_hidden_state[0].float().cpu()


def load_processor(kind, folder: Path):
    """A tokenizer, image processor or feature extractor; ValueError where the folder holds none."""
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"wan: {folder} cannot be read as {kind.__name__}: {first_line(error)}") from error
