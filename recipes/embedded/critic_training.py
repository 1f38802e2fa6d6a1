"""Training the toy critic: Yes/No on three questions, and what makes lip-sync learnable beside it.

Cross-entropy on the answers alone leaves lip-sync at chance in a small model. The auxiliary
heads below are used in training only: they make the towers see lips and hear which lips a sound
asks for, in one common space and one clock, and make the language model bring both together.

Shapes: B clips, S sounds of each clip (its own, a wrong one), K questions, F frames, G lip or
motion channels, N tokens, D width, U steps of one vision patch in time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerFast

from ft2ray.critic.processor import ProcessorConfig
from ft2ray.critic.questions import answer_token_ids
from ft2ray.critic.talking.model import (
    Layout,
    Thinker,
    answer_logits,
    audio_tokens,
    prefix_layout,
    question_token_ids,
    read_prefix,
    still_tokens,
    video_tokens,
)
from recipes.embedded.dataset import ClipData, SoundMix, TrainingBatch
from recipes.embedded.synthesis import LIP_CHANNELS


@dataclass(frozen=True)
class TrainingConfig:
    """A run is its seed and its number of steps: the same again gives the same weights on one thread."""

    steps: int = 2600
    batch: int = 16  # clips; each meets two sounds
    learning_rate: float = 1.5e-3
    warm_up: float = 0.03  # share of the run
    tower_share: float = 0.10  # of the run: towers alone, before the language model joins
    speech_batch: int = 32  # windows of sound alone in each step of the towers
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    lips: float = 1.0
    contrast: float = 0.3
    token_answers: float = 1.0
    ranking: float = 0.5
    tower_answers: float = 0.3
    validate_every: int = 250  # steps
    seed: int = 0


class AuxiliaryHeads(nn.Module):
    """Heads that exist in training only."""

    def __init__(self, width: int, tokens_per_step: int, step: int, targets: int, shared: int = 48) -> None:
        super().__init__()
        self.step = step  # frames, and so sound tokens, of a vision step
        self.seen = nn.Linear(tokens_per_step * width, step * targets)
        self.heard = nn.Linear(width, LIP_CHANNELS)
        self.joined = nn.Linear(width, 2 * LIP_CHANNELS)
        self.fits = nn.Linear(width, 1)
        self.video_key = nn.Conv1d(tokens_per_step * width, shared, 3, padding=1)
        self.audio_key = nn.Conv1d(step * width, shared, 3, padding=1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.quality = nn.Linear(width, 1)
        self.motion = nn.Sequential(
            nn.Conv1d(tokens_per_step * width, shared, 5, padding=2), nn.GELU(), nn.Conv1d(shared, 1, 1)
        )


@dataclass(frozen=True, eq=False)
class Setup:
    """What stays the same in all steps."""

    model: Thinker
    heads: AuxiliaryHeads
    tokenizer: PreTrainedTokenizerFast
    processor: ProcessorConfig
    questions: dict[str, str]

    def layout(self, batch: TrainingBatch) -> Layout:
        return prefix_layout(self.model, self.tokenizer, self.processor, batch.clips)


def by_step(video_BND: torch.Tensor, steps: int) -> torch.Tensor:
    """Vision tokens of each step in time side by side: [B, U, tokens * D]."""
    return video_BND.unflatten(1, (steps, -1)).flatten(2)


def tower_losses(
    setup: Setup,
    batch: TrainingBatch,
    video_BND: torch.Tensor,
    stills_BND: torch.Tensor,
    own_BND: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Lips and motion seen in the video, lips asked for by the sound, both in one space.

    Naturalness and quality are asked of the vision tokens as well.
    The contrast pairs each step of a clip with the same moment of its own sound, against all
    other moments and clips of the batch; only clips whose lips fit take part.
    """
    heads, steps = setup.heads, batch.clips.video_grid[0]
    video_BUE = by_step(video_BND, steps)
    frames = batch.target_BFG.shape[1]
    seen_BFG = heads.seen(video_BUE).unflatten(2, (heads.step, -1)).flatten(1, 2)[:, :frames]
    losses = {"seen": F.smooth_l1_loss(seen_BFG, batch.target_BFG)}
    losses["heard"] = F.smooth_l1_loss(heads.heard(own_BND), batch.heard_SBFG[0])

    motion_B = heads.motion(video_BUE.transpose(1, 2)).mean(dim=(1, 2))
    losses["tower_answers"] = masked_bce(motion_B, batch.label_SBK[0, :, 0]) + masked_bce(
        heads.quality(stills_BND.mean(dim=1))[:, 0], batch.label_SBK[0, :, 2]
    )

    fits = batch.label_SBK[0, :, 1] == 1
    if int(fits.sum()) >= 2:
        pairs = own_BND.shape[1] // heads.step
        sound_BPE = own_BND[:, : heads.step * pairs].unflatten(1, (pairs, heads.step)).flatten(2)
        seen_key = heads.video_key(video_BUE[fits, :pairs].transpose(1, 2)).transpose(1, 2).flatten(0, 1)
        heard_key = heads.audio_key(sound_BPE[fits].transpose(1, 2)).transpose(1, 2).flatten(0, 1)
        similar = F.normalize(seen_key, dim=1) @ F.normalize(heard_key, dim=1).T * heads.log_scale.exp()
        own = torch.arange(len(similar))
        losses["contrast"] = (F.cross_entropy(similar, own) + F.cross_entropy(similar.T, own)) / 2
    return losses


def answer_losses(
    setup: Setup,
    batch: TrainingBatch,
    layout: Layout,
    video_BND: torch.Tensor,
    stills_BND: torch.Tensor,
    own_BND: torch.Tensor,
    wrong_BND: torch.Tensor,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Yes/No on every question for both sounds, and what the language model knows at each sound token.

    Returns:
        losses, and logits Yes - No as [S, B, K].
    """
    model, heads = setup.model, setup.heads
    hidden, cache = read_prefix(
        model,
        layout,
        video_BND,
        stills_BND,
        torch.cat([own_BND, wrong_BND]),
    )
    at_sound = F.rms_norm(hidden[:, : own_BND.shape[1]], hidden.shape[-1:])
    frames = min(at_sound.shape[1], batch.target_BFG.shape[1])
    lips_BFG = batch.target_BFG[:, :frames, :LIP_CHANNELS]
    wanted = torch.cat([lips_BFG.repeat(2, 1, 1), batch.heard_SBFG.flatten(0, 1)[:, :frames]], dim=2)
    losses = {"joined": F.smooth_l1_loss(heads.joined(at_sound[:, :frames]), wanted)}

    answers = answer_logits(
        model,
        layout,
        cache,
        question_token_ids(setup.tokenizer, setup.questions),
        answer_token_ids(setup.tokenizer),
    )
    margin_SBK = (answers[..., 0] - answers[..., 1]).unflatten(0, (2, -1))
    losses["answers"] = masked_bce(margin_SBK, batch.label_SBK)
    fits = batch.label_SBK[0, :, 1] == 1
    if fits.any():  # the same pictures with the right and with a wrong sound: only their fit differs
        losses["ranking"] = F.softplus(margin_SBK[1, fits, 1] - margin_SBK[0, fits, 1]).mean()

    later = slice(frames // 4, None)  # the first tokens have heard too little to know
    token_margin = heads.fits(at_sound[:, later]).squeeze(-1).unflatten(0, (2, -1))
    label = batch.label_SBK[..., 1:2].expand_as(token_margin)
    losses["token_answers"] = masked_bce(token_margin, label)
    return losses, margin_SBK


def masked_bce(margin: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of Yes/No over the labels that are known (not NaN).

    With the logits of Yes and No alone, their softmax cross-entropy is the logistic loss of the margin.
    """
    known = ~torch.isnan(label)
    return F.binary_cross_entropy_with_logits(margin[known], label[known])


def training_step(
    setup: Setup, config: TrainingConfig, batch: TrainingBatch, data: ClipData, rng, towers_only
):
    """Loss and metrics of one batch."""
    model = setup.model
    video_BND = video_tokens(model, batch.clips)
    own_BND = audio_tokens(model, batch.clips.mel_BMJ)
    stills_BND = still_tokens(model, batch.clips)
    losses = tower_losses(setup, batch, video_BND, stills_BND, own_BND)
    if towers_only:
        mel_BMJ, heard_BFG = data.speech(rng, config.speech_batch)
        losses["speech"] = F.smooth_l1_loss(setup.heads.heard(audio_tokens(model, mel_BMJ)), heard_BFG)
    else:
        wrong_BND = audio_tokens(model, batch.wrong_mel_BMJ)
        wrong_heard = setup.heads.heard(wrong_BND)
        losses["speech"] = F.smooth_l1_loss(wrong_heard, batch.heard_SBFG[1])
        more, _ = answer_losses(setup, batch, setup.layout(batch), video_BND, stills_BND, own_BND, wrong_BND)
        losses |= more
    weights = {
        "seen": config.lips,
        "heard": config.lips,
        "speech": config.lips,
        "joined": config.lips,
        "contrast": config.contrast,
        "token_answers": config.token_answers,
        "tower_answers": config.tower_answers,
        "ranking": config.ranking,
        "answers": 1.0,
    }
    total = sum(weights[name] * value for name, value in losses.items())
    return total, {name: float(value.detach()) for name, value in losses.items()}


@torch.no_grad()
def judge(setup: Setup, data: ClipData, batch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits Yes - No of all clips, each with its own and with a wrong sound, and their labels: [N, K]."""
    setup.model.eval()
    rng, margins, labels = np.random.default_rng(seed), [], []
    for start in range(0, len(data), batch):
        index = np.arange(start, min(start + batch, len(data)))
        drawn = data.batch(index, rng, SoundMix(), augment=False)
        clips, model = drawn.clips, setup.model
        _, margin = answer_losses(
            setup,
            drawn,
            setup.layout(drawn),
            video_tokens(model, clips),
            still_tokens(model, clips),
            audio_tokens(model, clips.mel_BMJ),
            audio_tokens(model, drawn.wrong_mel_BMJ),
        )
        margins.append(margin)
        labels.append(drawn.label_SBK)
    setup.model.train()
    return torch.cat(margins, 1).flatten(0, 1).numpy(), torch.cat(labels, 1).flatten(0, 1).numpy()


def figures(margin_NK: np.ndarray, label_NK: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Balanced accuracy and area under the curve of each question."""
    out = {}
    for k, name in enumerate(names):
        good, bad = margin_NK[label_NK[:, k] == 1, k], margin_NK[label_NK[:, k] == 0, k]
        out[f"{name}_accuracy"] = float(((good > 0).mean() + (bad <= 0).mean()) / 2)
        out[f"{name}_auc"] = float((good[:, None] > bad[None]).mean())
    return out


def train(
    setup: Setup,
    config: TrainingConfig,
    training: ClipData,
    validation: ClipData,
    save: Callable[[np.ndarray, np.ndarray], None],
    log: Path,
) -> None:
    """Train for `config.steps`; every so often validate, write the curve and save the weights.

    Args:
        save: called with the newest validation margins and labels.
        log: JSON lines, one for each validation.
    """
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    parameters = [*setup.model.parameters(), *setup.heads.parameters()]
    optimiser = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98)
    )
    log.write_text(json.dumps({"config": asdict(config)}) + "\n")
    setup.model.train()
    began, recent = time.monotonic(), []
    batches = training.batches(rng, config.batch, SoundMix())
    for step in range(1, config.steps + 1):
        done = (step - 1) / config.steps
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_share(done, config.warm_up)
        total, losses = training_step(
            setup, config, next(batches), training, rng, towers_only=done < config.tower_share
        )
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimiser.step()
        recent.append(losses)
        if step % config.validate_every and step < config.steps:
            continue
        judged = judge(setup, validation, config.batch, seed=1)
        means = {
            name: float(np.mean([losses[name] for losses in recent if name in losses]))
            for name in sorted({name for losses in recent for name in losses})
        }
        line = {"step": step, "seconds": round(time.monotonic() - began)}
        line |= means | figures(*judged, list(setup.questions))
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in line.items()}, flush=True)
        save(*judged)
        recent = []


def learning_rate_share(done: float, warm_up: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if done < warm_up:
        return max(done / warm_up, 0.02)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))
