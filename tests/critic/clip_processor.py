"""One clip as `Qwen2_5OmniProcessor` prepares it, from the package's own pieces: for whole forwards.

Shapes: F frames, H W 3 pixels, M mel bins, J mel frames, T audio samples, S patches, E values in a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ft2ray.critic.processor import (
    SAMPLE_RATE,
    ProcessorConfig,
    audio_token_count,
    log_mel_with_tail,
    patches,
    sounding_video,
)
from ft2ray.critic.questions import IMAGE, VIDEO


@dataclass(frozen=True)
class ClipProcessor:
    """Prompt text, stills, video and sound of one clip -> the model's keyword arguments."""

    tokenizer: PreTrainedTokenizerFast
    config: ProcessorConfig = field(default_factory=ProcessorConfig)

    def __call__(
        self, text: str, stills: Sequence[np.ndarray], video_FHW3: np.ndarray, wav_T: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """Equal to `Qwen2_5OmniProcessor(text=..., images=..., videos=..., audio=...)` for one clip.

        Args:
            text: a prompt with one image placeholder for each still and one video placeholder.
            stills: uint8 RGB pictures [H, W, 3].
            video_FHW3: uint8 RGB frames at `config.fps`.
            wav_T: the video's own sound, 16 kHz mono.

        Raises:
            ValueError: if placeholders and media do not match.
        """
        if text.count(IMAGE) != len(stills) or text.count(VIDEO) != 1:
            raise ValueError(
                f"the prompt holds {text.count(IMAGE)} image and {text.count(VIDEO)} video placeholders "
                f"for {len(stills)} stills and one video"
            )
        cut_stills = [patches(still[None], self.config, still=True) for still in stills]
        video_SE, video_grid = patches(video_FHW3, self.config, still=False)
        mel_MJ = log_mel_with_tail(wav_T, self.config)
        frames = -(-len(wav_T) // self.config.hop_samples)

        parts = text.split(IMAGE)
        for index, (_, grid) in enumerate(cut_stills):
            tokens = grid[1] * grid[2] // self.config.merge_size**2
            parts[index + 1] = IMAGE * tokens + parts[index + 1]
        expanded = "".join(parts).replace(
            VIDEO, sounding_video(video_grid, audio_token_count(frames), self.config)
        )
        ids = torch.tensor([self.tokenizer.encode(expanded, add_special_tokens=False)])

        padded = self.config.padded_seconds * SAMPLE_RATE // self.config.hop_samples
        silence = max((-10.0 + 4.0) / 4.0, float(mel_MJ.max()) - 2.0)
        features = torch.full((1, self.config.mel_bins, padded), silence)
        features[0, :, : mel_MJ.shape[1]] = torch.from_numpy(mel_MJ)
        mask = torch.zeros(1, padded, dtype=torch.int32)
        mask[0, :frames] = 1
        tensors = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "pixel_values_videos": video_SE,
            "video_grid_thw": torch.tensor([video_grid]),
            "video_second_per_grid": torch.tensor([self.config.temporal_patch_size / self.config.fps]),
            "input_features": features,
            "feature_attention_mask": mask,
        }
        if cut_stills:
            tensors["pixel_values"] = torch.cat([cut for cut, _ in cut_stills])
            tensors["image_grid_thw"] = torch.tensor([grid for _, grid in cut_stills])
        return tensors
