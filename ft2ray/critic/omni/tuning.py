"""Tuning a full-size critic on people's answers: a LoRA, cross-entropy on the answer token.

Every worker draws the same batches of clips and takes its share; gradients are averaged over the workers, so
one or several give the same critic. A batch is a pure function of seed and step, the LoRA has no dropout:
what is saved after step n goes on as if it had never stopped.

Shapes: N clips, K questions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ft2ray.critic.calibration import calibrate
from ft2ray.critic.labels import Label
from ft2ray.critic.omni.card import OmniCard
from ft2ray.critic.omni.critic import OmniCritic, Reader, answer_loss
from ft2ray.critic.omni.lora import add_adapter, save_tuned
from ft2ray.critic.omni.whole_clip import WholeClip, WholeClipViewer
from ft2ray.errors import MediaError, NonFiniteError, UserError
from ft2ray.training import average_over_workers, update

STATE, COUNTER = "state.safetensors", "state.json"


@dataclass(frozen=True)
class TuningConfig:
    rank: int = 64
    alpha: float = 128.0
    learning_rate: float = 2e-5
    warm_up: float = 0.05  # share of all steps
    epochs: float = 2.0
    batch: int = 8  # clips a step, over all workers
    clip_norm: float = 1.0
    checkpointing: bool = True  # activations of the language model are computed again: a third slower
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"tuning: {name} {getattr(self, name):g} must be a number above 0")

    def steps(self, clips: int) -> int:
        return max(1, math.ceil(self.epochs * clips / self.batch))


class Tuning:
    """One tuning, on worker `rank` of `workers`."""

    def __init__(
        self,
        reader: Reader,
        card: OmniCard,
        labels: Sequence[Label],
        config: TuningConfig,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self.reader, self.card, self.config = reader, card, config
        self.rank, self.workers, self.step = rank, workers, 0
        self.label_NK = np.stack([label.row(tuple(card.questions)) for label in labels])
        known = ~np.isnan(self.label_NK).all(axis=1)
        self.labels = [label for label, keep in zip(labels, known, strict=True) if keep]
        self.label_NK = self.label_NK[known]
        if not self.labels:
            raise UserError(f"tuning: no label answers any of {', '.join(card.questions)}")
        torch.manual_seed(config.seed)  # of the LoRA, the same on every worker
        add_adapter(reader.model, config.rank, config.alpha)
        self.parameters = [p for name, p in reader.model.named_parameters() if "lora_" in name]
        self.optimizer = torch.optim.AdamW(
            self.parameters, config.learning_rate, betas=(0.9, 0.999), weight_decay=0.0
        )
        self.last_step = config.steps(len(self.labels))
        if config.checkpointing:
            reader.model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})

    def batch(self, step: int) -> list[int]:
        """Indices of the clips of a step: every epoch in an order of its own."""
        places = range(step * self.config.batch, (step + 1) * self.config.batch)
        count = len(self.labels)
        orders = {
            epoch: np.random.default_rng((self.config.seed, epoch)).permutation(count)
            for epoch in {place // count for place in places}
        }
        return [int(orders[place // count][place % count]) for place in places]

    def train_step(self) -> dict[str, float]:
        """One update; returns the loss, over all workers, and the learning rate."""
        drawn = self.batch(self.step)
        answers = int((~np.isnan(self.label_NK[drawn])).sum())
        share = drawn[self.rank :: self.workers]
        self.reader.model.model.language_model.train()  # checkpointing works in training mode only
        gradient = [torch.zeros_like(parameter) for parameter in self.parameters]
        total = torch.zeros((), device=self.reader.model.device)
        with ThreadPoolExecutor(1) as ahead:  # reads the next clip while the model works on this one
            for index, clip in zip(share, ahead.map(self._read, share), strict=True):
                label_K = self.label_NK[index]
                weight = self.workers * int((~np.isnan(label_K)).sum()) / answers
                loss = weight * answer_loss(self.reader, clip, label_K)
                for kept, new in zip(gradient, torch.autograd.grad(loss, self.parameters), strict=True):
                    kept += new
                total += loss.detach()
        *averaged, total = average_over_workers([*gradient, total])
        for parameter, new in zip(self.parameters, averaged, strict=True):
            parameter.grad = new
        rate = self.config.learning_rate * learning_rate_share(self.step, self.last_step, self.config.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = update(self.optimizer, self.config.clip_norm)
        if not math.isfinite(float(total) + norm):
            raise NonFiniteError(
                f"tuning: the loss or its gradient at step {self.step} is NaN or infinite; nothing of it is "
                "kept. Lower the learning rate"
            )
        self.step += 1
        return {"step": self.step, "loss": float(total), "learning_rate": rate}

    def _read(self, index: int) -> WholeClip:
        return read_labelled(self.card.viewer, self.labels[index])

    def save(self, folder: Path) -> None:
        """Everything to go on from here: safetensors and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"lora/{n}": p.detach().cpu().contiguous() for n, p in enumerate(self.parameters)}
        for n, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"{key}/{n}": value.detach().cpu().contiguous() for key, value in moments.items()}
        save_file(tensors, folder / STATE)
        (folder / COUNTER).write_text(json.dumps({"step": self.step}))

    def restore(self, folder: Path) -> None:
        tensors = load_file(folder / STATE)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            kind, n = key.split("/")
            if kind == "lora":
                self.parameters[int(n)].data.copy_(value)
            else:
                state.setdefault(int(n), {})[kind] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step = json.loads((folder / COUNTER).read_text())["step"]

    def margins(self, labels: Sequence[Label]) -> np.ndarray:
        """Yes minus No of this worker's share of `labels` (every `workers`-th), unscaled: float64 [N, K]."""
        self.reader.model.eval()
        critic = OmniCritic(self.reader, self.card)
        share = labels[self.rank :: self.workers]
        clips = (read_labelled(self.card.viewer, label) for label in share)
        rows = [critic.margins([clip])[0] for clip in clips]
        return np.array(rows).reshape(len(share), len(self.card.questions))

    def write(self, folder: Path, base: str, margin_NK: np.ndarray, held_out: Sequence[Label]) -> OmniCard:
        """The tuned critic, scaled and calibrated by what it says of held-out clips."""
        names = tuple(self.card.questions)
        label_NK = np.array([label.row(names) for label in held_out]).reshape(len(held_out), len(names))
        scaling, calibration = calibrate(margin_NK, label_NK, names)
        card = replace(
            self.card,
            rank=self.config.rank,
            alpha=self.config.alpha,
            scaling=scaling,
            calibration=calibration,
        )
        return save_tuned(folder, self.reader.model, card, base)


def run(
    tuning: Tuning, save: Callable[[Tuning], None], say: Callable[[dict[str, float]], None], save_every: int
) -> None:
    """All steps that are left; `save` after every `save_every` and at the end."""
    while tuning.step < tuning.last_step:
        say(tuning.train_step())
        if tuning.step % save_every == 0 or tuning.step == tuning.last_step:
            save(tuning)


def read_labelled(viewer: WholeClipViewer, label: Label) -> WholeClip:
    """The clip of a label; UserError that names it where it cannot be used."""
    try:
        return viewer.read_labelled(label.clip, label.sound)
    except MediaError as error:
        raise UserError(f"labels: the clip {label.clip} cannot be used: {error}") from error


def learning_rate_share(step: int, steps: int, warm_up: float) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    warm = max(1, round(warm_up * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
