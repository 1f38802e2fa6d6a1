"""Train the base generator of the embedded default: flow matching on motion latents, on one CPU thread.

The same folder of media, the same seed and the same machine type give the same bits.

Shape suffixes: B batch, C motion channels, F frames, L speech tokens, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.media.face import FaceMesher
from ft2ray.media.speech import FEATURE_WIDTH
from recipes.embedded.base_data import (
    Clip,
    Encoder,
    filmed_variants,
    fit_teacher,
    level_speakers,
    read_filmed,
    teacher_residuals,
    training_media,
)
from recipes.embedded.base_speech import blinking, labelled_speech, motion_bank, speech_segments
from recipes.embedded.base_teacher import LipTeacher

AUDIO_MARGIN = 8
TOKENS_PER_WINDOW = 3 + 2 * AUDIO_MARGIN


def base_architecture(channels: int) -> dict:
    """Arguments of the embedded default's transformer: 2.1 M parameters, one token per video frame."""
    return dict(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=channels,
        out_channels=channels,
        text_dim=8,
        freq_dim=64,
        ffn_dim=512,
        num_layers=6,
        audio_features=FEATURE_WIDTH,
        audio_dim=192,
        audio_stride=1,
        audio_margin=AUDIO_MARGIN,
        audio_places=TOKENS_PER_WINDOW,
    )


@dataclass(frozen=True)
class BaseTrainingConfig:
    """steps, batch: updates and clips per update; frames: shortest and longest crop; drop_audio: share of
    clips whose audio is dropped, for guidance; ema: decay of the averaged weights that are kept; variants:
    number of variants made of each filmed clip.
    """

    steps: int = 1000
    batch: int = 16
    frames: tuple[int, int] = (40, 80)
    learning_rate: float = 2e-3
    warmup: int = 60
    weight_decay: float = 0.01
    drop_audio: float = 0.15
    ema: float = 0.995
    variants: int = 24
    seed: int = 0


CONTINUED = BaseTrainingConfig(steps=350, learning_rate=1e-3)
"""Of a training that goes on from weights, as both packaged bases do (from those of the first release)."""


def build_dataset(
    folder: Path, encoder: Encoder, mesher: FaceMesher, basis: MotionBasis, config: BaseTrainingConfig
) -> tuple[list[Clip], LipTeacher]:
    """All training clips, filmed ones first, and the teacher that labelled the others."""
    rng = np.random.default_rng(config.seed)
    clip_paths, speech_paths = training_media(folder)
    filmed = level_speakers([read_filmed(path, mesher, basis) for path in clip_paths], basis)
    variants = filmed_variants(filmed, encoder, basis, config.variants, rng)
    teacher = fit_teacher(variants, basis)
    bank = motion_bank(filmed, teacher_residuals(variants, basis), basis)
    segments = speech_segments(speech_paths, rng)
    labelled = labelled_speech(segments, teacher, filmed, bank, encoder, basis, rng)
    labelled += [Clip(basis.mirror(clip.x_CF), clip.feat_LD, False) for clip in labelled]
    variants = [(name, blinking(clip, bank, basis, rng)) for name, clip in variants]
    return [clip for _, clip in variants] + labelled, teacher


def draw_batch(
    clips: list[Clip], config: BaseTrainingConfig, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Half filmed, half labelled clips, cut at random to one length: x_BCF and audio_BLD."""
    frames = int(rng.integers(config.frames[0], config.frames[1] + 1))
    motion, speech = [], []
    for number in range(config.batch):
        pool = [clip for clip in clips if clip.filmed == (number % 2 == 0) and clip.x_CF.shape[1] >= frames]
        clip = pool[rng.integers(len(pool))]
        start = int(rng.integers(clip.x_CF.shape[1] - frames + 1))
        motion.append(clip.x_CF[:, start : start + frames])
        speech.append(clip.feat_LD[2 * start : 2 * (start + frames)])
    return torch.from_numpy(np.stack(motion)), torch.from_numpy(np.stack(speech))


def new_transformer(channels: int, seed: int) -> AudioWanTransformer:
    """Fresh weights. The audio path starts small, not at zero: it is trained from scratch, not added."""
    torch.manual_seed(seed)
    transformer = AudioWanTransformer(**base_architecture(channels))
    for name, parameter in transformer.named_parameters():
        if name.endswith(("processor.k_proj.weight", "processor.v_proj.weight", "audio_place")):
            torch.nn.init.normal_(parameter, std=0.05)
    return transformer


def latent_scale(clips: list[Clip]) -> np.ndarray:
    """Standard deviation of each motion channel over the training clips: what the transformer's latents are
    in.
    """
    return np.concatenate([clip.x_CF for clip in clips], axis=1).std(axis=1)


def loss_weight(basis: MotionBasis) -> np.ndarray:
    """Weight of each channel in the loss, mean 1: lips matter most, and blinks are rare but must not wash
    out.
    """
    weight_C = np.ones(basis.channels, np.float32)
    weight_C[basis.mouth] = 1.5
    weight_C[basis.lid] = 6.0
    return weight_C / weight_C.mean()


def train(
    clips: list[Clip],
    scale_C: np.ndarray,
    weight_C: np.ndarray,
    config: BaseTrainingConfig,
    report: Callable[[int, float], None],
    start: AudioWanTransformer | None = None,
) -> AudioWanTransformer:
    """Flow matching, v = eps - x0 at x_t = (1 - t) x0 + t eps with logit-normal t.

    Args:
        clips: to learn from.
        scale_C: unit of the latents.
        weight_C: of each channel in the loss.
        config: how long and how fast.
        report: called with the number and the loss of every step.
        start: weights to go on from, None for fresh ones.

    Returns:
        The averaged weights.
    """
    rng = np.random.default_rng(config.seed)
    channels = clips[0].x_CF.shape[0]
    transformer = (start or new_transformer(channels, config.seed)).train()
    averaged = {name: value.clone() for name, value in transformer.state_dict().items()}
    optimizer = torch.optim.AdamW(
        transformer.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, config))
    generator = torch.Generator().manual_seed(config.seed)
    scale_C1 = torch.from_numpy(scale_C)[:, None]
    weight_C1 = torch.from_numpy(weight_C)[:, None]
    text_B1D = torch.zeros(config.batch, 1, transformer.config["text_dim"])
    for step in range(config.steps):
        x0_BCF, audio_BLD = draw_batch(clips, config, rng)
        x0_BCF = x0_BCF / scale_C1
        eps_BCF = torch.randn(x0_BCF.shape, generator=generator)
        t_B = torch.sigmoid(torch.randn(config.batch, generator=generator) * 1.2)
        heard_B = (torch.rand(config.batch, generator=generator) >= config.drop_audio).float()
        t_B11 = t_B[:, None, None]
        noisy_BCF = (1 - t_B11) * x0_BCF + t_B11 * eps_BCF
        v_BCF = transformer(
            noisy_BCF[..., None, None],
            1000 * t_B,
            text_B1D,
            audio=audio_BLD,
            audio_scale=heard_B,
            return_dict=False,
        )[0][..., 0, 0]
        loss = (weight_C1 * (v_BCF - (eps_BCF - x0_BCF)).square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        for name, value in transformer.state_dict().items():
            averaged[name].lerp_(value, 1 - decay)
        report(step, loss.item())
    transformer.load_state_dict(averaged)
    return transformer.eval()


def _rate(step: int, config: BaseTrainingConfig) -> float:
    """Linear warm-up, then a cosine down to 2 %."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
