"""The tensors of the Qwen2.5-Omni processor, made without torchvision.

`transformers`' own video processor imports torchvision, which a CPU-only torch cannot
load. Its work on clips that already have the right size is small: normalise, cut into
patches, log-mel, and expand the placeholders of the prompt. This module does the same
from numpy arrays; a test compares every tensor with the real processor's.

Shapes: N pictures or frames, H W 3 pixels, M mel bins, J mel frames, T audio samples,
L tokens, S patches, E values in a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from ft2ray.critic.questions import AUDIO, AUDIO_BOS, AUDIO_EOS, VIDEO

SAMPLE_RATE = 16000
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ProcessorConfig:
    """Sizes that the tensors depend on; the defaults are Qwen2.5-Omni's, except the mel bins.

    temporal_patch_size: frames in one patch.
    seconds_per_chunk: video and sound tokens alternate in chunks of this length.
    """

    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    mel_bins: int = 80
    fft_samples: int = 400
    hop_samples: int = 160
    padded_seconds: int = 30
    position_id_per_seconds: int = 25
    seconds_per_chunk: int = 2
    fps: float = 25.0


def audio_token_count(mel_frames: int) -> int:
    """Tokens of the audio tower for `mel_frames` frames: a stride-2 convolution, then pairs."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


def log_mel(wav_T: np.ndarray, config: ProcessorConfig) -> np.ndarray:
    """Whisper's log-mel spectrogram of a sound, as if padded with silence to 30 s.

    Args:
        wav_T: mono float32 sound at 16 kHz, at most `padded_seconds` long.
        config: of the processor.

    Returns:
        mel_MJ: float32 [mel_bins, ceil(T / hop)].

    Raises:
        ValueError: if the sound is empty, longer than the padding, or not finite.
    """
    return log_mel_with_tail(wav_T, config)[:, : -(-len(wav_T) // config.hop_samples)]


def log_mel_with_tail(wav_T: np.ndarray, config: ProcessorConfig) -> np.ndarray:
    """`log_mel` plus the frames after the end whose window still touches the sound."""
    samples, longest = len(wav_T), config.padded_seconds * SAMPLE_RATE
    if not 0 < samples <= longest:
        raise ValueError(
            f"the critic's sound has {samples} samples; it takes 1 to {longest}: cut it into windows first"
        )
    if not np.isfinite(wav_T).all():
        raise ValueError("the critic's sound holds NaN or infinite samples; decode it again")
    # The real extractor pads with zeros before its STFT: the end reflects only at full length.
    wav = torch.from_numpy(np.ascontiguousarray(wav_T, dtype=np.float32))
    wav = torch.nn.functional.pad(wav, (0, min(2 * config.fft_samples, longest - samples)))
    window = torch.hann_window(config.fft_samples)
    stft = torch.stft(wav, config.fft_samples, config.hop_samples, window=window, return_complex=True)
    power = stft[:, :-1].abs().square().contiguous()
    log = torch.clamp(_mel_filters(config) @ power, min=1e-10).log10()
    return ((torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0).numpy()


@lru_cache(maxsize=4)
def _mel_filters(config: ProcessorConfig) -> torch.Tensor:
    filters = mel_filter_bank(
        num_frequency_bins=1 + config.fft_samples // 2,
        num_mel_filters=config.mel_bins,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters.T).to(torch.float32).contiguous()


def patches(
    frames_NHW3: np.ndarray, config: ProcessorConfig, still: bool
) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Cut a video (or one still picture) into normalised patches, merge-block by merge-block.

    Args:
        frames_NHW3: uint8 RGB; H and W multiples of patch_size * merge_size.
        config: of the processor.
        still: a single picture, repeated over the temporal patch.

    Returns:
        patches_SE float32 and its grid (t, h, w) in patches. An odd number of frames is
        completed by repeating the last one.

    Raises:
        ValueError: if the size does not fit the grid.
    """
    count, height, width, _ = frames_NHW3.shape
    block = config.patch_size * config.merge_size
    if height % block or width % block:
        raise ValueError(f"critic pictures are {height}x{width}; both must be multiples of {block} pixels")
    p, m, t = config.patch_size, config.merge_size, config.temporal_patch_size
    if still:
        if count != 1:
            raise ValueError(f"a still picture is one frame, not {count}")
        frames_NHW3 = np.repeat(frames_NHW3, t, axis=0)
    elif missing := -count % t:
        frames_NHW3 = np.concatenate([frames_NHW3, np.repeat(frames_NHW3[-1:], missing, axis=0)])
    grid = (len(frames_NHW3) // t, height // p, width // p)
    pixels = torch.from_numpy(np.ascontiguousarray(frames_NHW3))
    blocks = pixels.view(grid[0], t, grid[1] // m, m, p, grid[2] // m, m, p, 3)
    # Reordered as bytes, normalised afterwards: a quarter of the memory traffic.
    blocks = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(grid[0] * grid[1] * grid[2], 3, t * p * p)
    mean, std = (255.0 * torch.tensor(values)[:, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return blocks.to(torch.float32).sub_(mean).div_(std).flatten(1), grid


def chunk_bounds(positions: np.ndarray, per_chunk: int) -> list[tuple[int, int]]:
    """Split rising token positions into runs, one for each `per_chunk` positions (start, end)."""
    bounds, start, chunk = [], 0, 1
    for index, position in enumerate(positions):
        if position >= chunk * per_chunk:
            bounds.append((start, index))
            start, chunk = index, chunk + 1
    return [*bounds, (start, len(positions))]


def sounding_video(grid_thw: Sequence[int], audio_tokens: int, config: ProcessorConfig) -> str:
    """Placeholders of a video with its sound: chunks of video and of audio tokens in turn."""
    per_step = grid_thw[1] * grid_thw[2] // config.merge_size**2
    seconds = config.temporal_patch_size / config.fps
    video = np.repeat(np.arange(grid_thw[0]), per_step) * seconds * config.position_id_per_seconds
    per_chunk = int(config.position_id_per_seconds * config.seconds_per_chunk)
    video_runs = chunk_bounds(video, per_chunk)
    audio_runs = chunk_bounds(np.arange(audio_tokens), per_chunk)
    text = AUDIO_BOS
    for index in range(max(len(video_runs), len(audio_runs))):
        if index < len(video_runs):
            text += VIDEO * (video_runs[index][1] - video_runs[index][0])
        if index < len(audio_runs):
            text += AUDIO * (audio_runs[index][1] - audio_runs[index][0])
    return text + AUDIO_EOS
