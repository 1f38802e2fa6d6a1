"""What a full-size critic is, as a small folder beside its base: a LoRA, and critic.json.

    critic.json                  base (path or hub name) and its fingerprint, questions, fps, pixels, rank and
                                 alpha of the LoRA, scaling, calibration, fingerprint of what decides a score
    adapter_model.safetensors    the LoRA, under peft's names

A Qwen2.5-Omni folder itself is an untuned critic: no LoRA, the default questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ft2ray.critic.omni.folder import CONFIG, base_fingerprint, find_omni, read_thinker_config
from ft2ray.critic.omni.whole_clip import FPS, PIXELS, WholeClipViewer, check_fps
from ft2ray.critic.questions import QUESTIONS
from ft2ray.errors import WeightsError
from ft2ray.records import content_id
from ft2ray.weights import content_digest, read_json

CARD, ADAPTER = "critic.json", "adapter_model.safetensors"
UNSCALED = (1.0, 0.0)


@dataclass(frozen=True)
class OmniCard:
    """Everything about a full-size critic but its tensors; `adapter`: the LoRA's file, None if untuned."""

    base: Path
    base_fingerprint: str
    questions: dict[str, str]
    fps: float
    pixels: int
    block: int
    scaling: dict[str, tuple[float, float]]
    calibration: dict[str, Any]
    adapter: Path | None = None
    rank: int = 0
    alpha: float = 0.0

    @property
    def dimensions(self) -> tuple[str, ...]:
        return tuple(self.questions)

    @property
    def viewer(self) -> WholeClipViewer:
        return WholeClipViewer(self.fps, self.pixels, self.block)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of everything that decides a score."""
        adapter = "" if self.adapter is None else content_digest(self.adapter)
        seen = [self.fps, self.pixels, self.rank, self.alpha]
        return content_id(self.base_fingerprint, self.questions, seen, self.scaling, adapter)


def is_omni(path: str | Path) -> bool:
    """Whether this is a full-size critic: a tuned or a Qwen2.5-Omni folder, or else a hub name."""
    folder = Path(path)
    if not folder.is_dir():
        return True
    if (folder / CARD).is_file():
        return True
    config = folder / CONFIG
    return config.is_file() and "talking_critic" not in read_json(config, "a critic")


def read_card(
    path: str | Path,
    fps: float | None = None,
    pixels: int | None = None,
    questions: Mapping[str, str] | None = None,
) -> OmniCard:
    """The card of a critic, from the files alone; ValueError where something is missing or does not fit.

    fps, pixels: how an untuned critic looks at clips; a tuned critic refuses others than its own.
    questions: what an untuned critic is asked, None for the default ones.
    """
    folder = find_omni(path)
    if not (folder / CARD).is_file():
        fps, pixels = FPS if fps is None else fps, PIXELS if pixels is None else pixels
        return new_card(folder, questions or QUESTIONS, fps, pixels)
    values = read_json(folder / CARD, "a tuned critic")
    try:
        base = find_omni(values["base"], folder)
        card = OmniCard(
            base=base,
            base_fingerprint=values["base_fingerprint"],
            questions={str(name): str(text) for name, text in values["questions"].items()},
            fps=float(values["fps"]),
            pixels=int(values["pixels"]),
            block=block_of(base),
            scaling={name: (float(a), float(b)) for name, (a, b) in values["scaling"].items()},
            calibration=dict(values["calibration"]),
            adapter=folder / ADAPTER,
            rank=int(values["rank"]),
            alpha=float(values["alpha"]),
        )
        stored = values["fingerprint"]
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"critic: {folder / CARD} is incomplete or damaged ({error!r})") from error
    check_fps(card.fps, card.questions)
    for name, asked, own in (("fps", fps, card.fps), ("pixels", pixels, card.pixels)):
        if asked is not None and asked != own:
            raise WeightsError(
                f"critic.{name} is {asked:g}, but {folder} was tuned at {own:g}; leave it out, or tune again"
            )
    if not (folder / ADAPTER).is_file():
        raise WeightsError(f"critic: {folder} lacks {ADAPTER}; copy the folder as a whole")
    if set(card.scaling) != set(card.questions):
        raise WeightsError(f"critic: {folder / CARD} has a scaling for other questions than it asks")
    found = base_fingerprint(base)
    if found != card.base_fingerprint:
        raise WeightsError(
            f"critic: {folder} was tuned on another model than the one in {base} (fingerprint "
            f"{card.base_fingerprint}, not {found}); give its own base in {CARD}"
        )
    if card.fingerprint != stored:
        raise WeightsError(
            f"critic: the files in {folder} are not those that {CARD} describes (fingerprint "
            f"{card.fingerprint}, not {stored}); copy the folder as a whole"
        )
    return card


def read_viewer(path: str | Path, fps: float | None = None, pixels: int | None = None) -> WholeClipViewer:
    """How the critic of `path` looks at clips, as `read_card` has it, but without its weights."""
    folder = find_omni(path, patterns=(CONFIG,))
    if not (folder / CARD).is_file():
        return WholeClipViewer(
            FPS if fps is None else fps, PIXELS if pixels is None else pixels, block_of(folder)
        )
    values = read_json(folder / CARD, "a tuned critic")
    base = find_omni(values["base"], folder, (CONFIG,))
    return WholeClipViewer(float(values["fps"]), int(values["pixels"]), block_of(base))


def new_card(folder: Path, questions: Mapping[str, str], fps: float, pixels: int) -> OmniCard:
    """The card of an untuned thinker; ValueError where its questions cannot be judged at `fps`."""
    check_fps(fps, questions)
    block = block_of(folder)
    if pixels < block:
        raise WeightsError(f"critic.pixels {pixels} is less than one block of pixels of {folder} ({block})")
    scaling = {name: UNSCALED for name in questions}
    return OmniCard(folder, base_fingerprint(folder), dict(questions), fps, pixels, block, scaling, {})


def block_of(folder: Path) -> int:
    """Side of the pictures' blocks in pixels: what one token sees."""
    config: Any = read_thinker_config(folder)[0]
    return config.vision_config.patch_size * config.vision_config.spatial_merge_size


def write_card(folder: Path, card: OmniCard, base: str) -> OmniCard:
    """critic.json of a folder whose LoRA lies there already."""
    values = {
        "base": base,
        "base_fingerprint": card.base_fingerprint,
        "questions": card.questions,
        "fps": card.fps,
        "pixels": card.pixels,
        "rank": card.rank,
        "alpha": card.alpha,
        "scaling": card.scaling,
        "calibration": card.calibration,
        "fingerprint": card.fingerprint,
    }
    (folder / CARD).write_text(json.dumps(values, indent=2) + "\n")
    return card
