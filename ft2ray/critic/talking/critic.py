"""The packaged critic: a small Qwen2.5-Omni thinker, trained on clips with known faults.

Shapes: N clips, W windows, K dimensions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, Qwen2_5OmniThinkerConfig

from ft2ray.critic.base import CriticCard, LogitCritic
from ft2ray.critic.processor import ProcessorConfig, patches
from ft2ray.critic.questions import answer_token_ids
from ft2ray.critic.talking.model import (
    ClipBatch,
    Layout,
    Thinker,
    answer_logits,
    audio_tokens,
    build_model,
    prefix_layout,
    question_token_ids,
    read_prefix,
    still_tokens,
    video_tokens,
)
from ft2ray.critic.talking.motion_head import HEAD, MotionHead
from ft2ray.critic.talking.view import ClipView
from ft2ray.errors import WeightsError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(eq=False)
class TalkingCritic(LogitCritic):
    """The Qwen2.5-Omni thinker as a critic: P(Yes) = softmax over the logits of Yes and No.

    `head` joins what motion and speech themselves say (see motion_head); without it the thinker is alone.
    Clips longer than three seconds are judged window by window and their logits averaged. `scaling` was
    fitted on held-out clips.
    """

    model: Thinker
    tokenizer: PreTrainedTokenizerFast
    processor: ProcessorConfig
    questions: dict[str, str]
    scaling: dict[str, tuple[float, float]]
    fingerprint: str
    calibration: dict[str, Any]
    head: MotionHead | None = None
    windows_per_pass: int = 8

    def __post_init__(self) -> None:
        self.dimensions = tuple(self.questions)

    @classmethod
    def load(cls, path: str | Path = "embedded") -> TalkingCritic:
        """Read a folder written by `save_critic`; "embedded" is the one in the package.

        Raises:
            ValueError: if files are missing or do not belong together.
        """
        folder, config, own = _described(path)
        model = build_model(Qwen2_5OmniThinkerConfig.from_dict(config))
        model.load_state_dict(load_file(folder / WEIGHTS))
        return cls(
            model=model.eval().requires_grad_(False),
            tokenizer=PreTrainedTokenizerFast.from_pretrained(folder),
            processor=ProcessorConfig(**own["processor"]),
            questions=own["questions"],
            scaling={name: (pair[0], pair[1]) for name, pair in own["scaling"].items()},
            calibration=own["calibration"],
            fingerprint=own["fingerprint"],
            head=MotionHead.load(folder / HEAD) if (folder / HEAD).is_file() else None,
        )

    @staticmethod
    def card(path: str | Path) -> CriticCard:
        """What `load(path)` gives, without the network; the same errors."""
        _, _, own = _described(path)
        return CriticCard(tuple(own["questions"]), own["fingerprint"], own["calibration"], own["questions"])

    def margins(self, views: Sequence[ClipView]) -> np.ndarray:
        """Logit of Yes minus logit of No, averaged over a clip's windows: float64 [N, K]."""
        assert all(len(view.video_WFHW3) for view in views), "a view has at least one window"
        margin_NK = np.zeros((len(views), len(self.questions)))
        for clip, view in enumerate(views):  # each alone: beside others its last bits would be others
            windows = len(view.video_WFHW3)
            for start in range(0, windows, self.windows_per_pass):
                margin_WK = self._window_margins(view.part(slice(start, start + self.windows_per_pass)))
                margin_NK[clip] += margin_WK.sum(axis=0) / windows
        return margin_NK

    @torch.inference_mode()
    def _window_margins(self, view: ClipView) -> np.ndarray:
        """Yes minus No for every window of a view, in one pass: float64 [W, K]."""
        batch = view_batch(view, self.processor)
        layout = self._layout(batch)
        tokens = (
            video_tokens(self.model, batch),
            still_tokens(self.model, batch),
            audio_tokens(self.model, batch.mel_BMJ),
        )
        _, cache = read_prefix(self.model, layout, *tokens)
        logits = answer_logits(
            self.model,
            layout,
            cache,
            question_token_ids(self.tokenizer, self.questions),
            answer_token_ids(self.tokenizer),
        ).double()
        margin_WK = logits[..., 0] - logits[..., 1]
        if self.head is not None:
            head_WK = self.head(torch.from_numpy(view.motion_WCF), torch.from_numpy(view.speech_WDF))
            margin_WK = self.head.thinker_K.double() * margin_WK + head_WK.double()
        return margin_WK.numpy()

    def _layout(self, batch: ClipBatch) -> Layout:
        return prefix_layout(self.model, self.tokenizer, self.processor, batch)


def _described(path: str | Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder, its network's configuration and what belongs to the critic; ValueError as in `load`."""
    folder = Path(str(files("ft2ray") / "assets" / "critic")) if path == "embedded" else Path(path)
    for name in (WEIGHTS, CONFIG, "tokenizer.json"):
        if not (folder / name).is_file():
            raise WeightsError(
                f"{folder} holds no critic: {name} is missing; train one with recipes.embedded.train_critic"
            )
    config = json.loads((folder / CONFIG).read_text())
    own = config.pop("talking_critic")
    fingerprint = critic_fingerprint(_weights(folder), config, own)
    if own["fingerprint"] != fingerprint:
        raise WeightsError(
            f"the weights in {folder} are not those that {CONFIG} describes (fingerprint {fingerprint}, "
            f"not {own['fingerprint']}); copy the folder as a whole"
        )
    return folder, config, own


def view_batch(view: ClipView, processor: ProcessorConfig) -> ClipBatch:
    """The windows of a view as the model takes them."""
    cut = [patches(video, processor, still=False) for video in view.video_WFHW3]
    stills = [[patches(crop[None], processor, still=True) for crop in crops] for crops in view.stills_WKHW3]
    return ClipBatch(
        video_BSE=torch.stack([piece for piece, _ in cut]),
        video_grid=cut[0][1],
        stills_BSE=torch.stack([torch.cat([piece for piece, _ in crops]) for crops in stills]),
        still_grids=tuple(grid for _, grid in stills[0]),
        mel_BMJ=torch.from_numpy(view.mel_WMJ),
    )


def _weights(folder: Path) -> bytes:
    """All weights of a critic's folder."""
    return b"".join((folder / name).read_bytes() for name in (WEIGHTS, HEAD) if (folder / name).is_file())


def critic_fingerprint(weights: bytes, config: dict[str, Any], own: dict[str, Any]) -> str:
    """First 16 hex digits of the sha256 over weights, network, processor, questions and scaling."""
    digest = hashlib.sha256(weights)
    described = {"network": config} | {name: own[name] for name in ("processor", "questions", "scaling")}
    digest.update(json.dumps(described, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def save_critic(
    folder: Path,
    model: Thinker,
    tokenizer: PreTrainedTokenizerFast,
    processor: ProcessorConfig,
    questions: dict[str, str],
    calibration: dict[str, Any],
    scaling: dict[str, tuple[float, float]] | None = None,
    head: MotionHead | None = None,
) -> str:
    """Write everything that `TalkingCritic.load` reads; returns the fingerprint.

    scaling: (a, b) of each question, see `TalkingCritic`; None leaves the logits as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)
    config = json.loads(model.config.to_json_string(use_diff=True))
    own: dict[str, Any] = {
        "questions": questions,
        "processor": asdict(processor),
        "scaling": scaling or {name: (1.0, 0.0) for name in questions},
        "calibration": calibration,
    }
    (folder / HEAD).unlink(missing_ok=True)  # of another thinker
    if head is not None:
        head.save(folder / HEAD)
    fingerprint = critic_fingerprint(_weights(folder), config, own)
    own["fingerprint"] = fingerprint
    (folder / CONFIG).write_text(json.dumps(config | {"talking_critic": own}, indent=2) + "\n")
    return fingerprint


def add_head(folder: Path, head: MotionHead) -> str:
    """Give the critic in a folder a motion head, whose margins are logits; returns the new fingerprint."""
    head.save(folder / HEAD)
    names = json.loads((folder / CONFIG).read_text())["talking_critic"]["questions"]
    return rescale(folder, dict.fromkeys(names, (1.0, 0.0)), {})


def rescale(folder: Path, scaling: dict[str, tuple[float, float]], calibration: dict[str, Any]) -> str:
    """Give the critic in a folder another scaling; `calibration`: what it reaches. The new fingerprint."""
    config = json.loads((folder / CONFIG).read_text())
    own = config.pop("talking_critic") | {"scaling": scaling, "calibration": calibration}
    own["fingerprint"] = critic_fingerprint(_weights(folder), config, own)
    (folder / CONFIG).write_text(json.dumps(config | {"talking_critic": own}, indent=2) + "\n")
    return own["fingerprint"]
