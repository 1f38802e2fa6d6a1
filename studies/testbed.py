"""The study's testbed: prompts, candidates with the panel's answers, and measures, all on the driving motion.

Nothing is rendered here, so thousands of clips are cheap; studies/pixels.py measures decoded clips of the
systems that matter. What was made is kept in a folder and not made again.

Measures, per clip (higher is better):
    mn, ls      of ft2ray.evaluation, of the mesh that drives the clip; other people and other predictors than
                those of the labels
    rule_*      the annotators' rules without error: what the labels are made from, hence upper bounds
    vq          rule_vq: no measure of the evaluation sees slow movement of the shape of a face

Shape suffixes: N candidates, K dimensions, B samples, C motion channels, F frames.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.lipsync import LipCurves, predict_lips, score_lips, speech_features
from ft2ray.evaluation.motion import loudness, motion_track, naturalness
from ft2ray.evaluation.observation import phone_curve
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.sampler import Conditions
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.records import Candidate, PromptGroup
from studies.annotators import DIMENSIONS, Annotators, Sampled, motion_of, sample_motion
from studies.make_split import files_of

log = logging.getLogger(__name__)
SECONDS, FRAMES, RATE = 3, 75, 25.0
CANDIDATES = 8
FIRST_WINDOW = {"test": 1}
"""The first pass looked at window 0 of the test recordings and window 1 of six of them (docs/lab-log.md)."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """expected_F: lip gap by the annotators' predictors. heard, phones_F: lips by the judge's two."""

    name: str
    cond: Conditions
    expected_F: np.ndarray
    heard: LipCurves
    phones_F: np.ndarray
    loudness_F: np.ndarray


class Testbed:
    """Generators, who labels and who measures, and the folder of what was made."""

    __test__ = False  # not pytest's

    def __init__(self, media: Path, out: Path, base: str, curated: str) -> None:
        self.media, self.out = media, out
        out.mkdir(parents=True, exist_ok=True)
        self.generator, self.curated = PortraitGenerator.load(base), PortraitGenerator.load(curated)
        self.annotators, self.judge = Annotators.load(self.curated), Judge.load()
        self.basis = self.annotators.basis

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The pickle `name` that this study wrote earlier, or what `make` returns, written there."""
        path = self.out / name
        if path.exists():
            return pickle.loads(path.read_bytes())  # noqa: S301  # written by this program only
        started, made = time.monotonic(), make()
        temporary = path.with_suffix(".new")
        temporary.write_bytes(pickle.dumps(made))
        temporary.rename(path)
        log.info("%s after %.0f s", name, time.monotonic() - started)
        return made

    def prompts(self, split: str, count: int) -> list[Prompt]:
        """`count` windows of SECONDS, one after the other from every recording, so that all people speak.

        Those of `train` overlap: they start a second apart.
        """
        return self.kept(f"prompts-{split}-{count}.pkl", lambda: self._read_prompts(split, count))

    def _read_prompts(self, split: str, count: int) -> list[Prompt]:
        names = sorted(files_of("prompts", split, kind="speech"))
        recordings = {name: read_audio(self.media / name) for name in names}
        length, hop = SECONDS * SAMPLE_RATE, (1 if split == "train" else SECONDS) * SAMPLE_RATE
        found: list[Prompt] = []
        for number in range(FIRST_WINDOW.get(split, 0), 10):
            for name, wav_T in recordings.items():
                piece_T = wav_T[number * hop : number * hop + length]
                if len(piece_T) == length and len(found) < count:
                    found.append(self._prompt(f"{name}@{number * hop // SAMPLE_RATE}", piece_T))
        return found

    def _prompt(self, name: str, wav_T: np.ndarray) -> Prompt:
        cond = self.generator.encode_prompt(None, wav_T)  # type: ignore[arg-type]  # any face
        features = {kind: speech_features(wav_T, FRAMES, RATE, kind) for kind in ("whisper", "mel")}
        return Prompt(
            name,
            cond,
            self.annotators.expectation(wav_T, cond),
            predict_lips(self.judge.ridges, features),
            phone_curve(wav_T, FRAMES),
            loudness(wav_T, FRAMES),
        )

    def sound(self, prompt: Prompt) -> np.ndarray:
        """What is said in a prompt, wav_T."""
        recording, start = prompt.name.rsplit("@", 1)
        return read_audio(self.media / recording)[int(start) * SAMPLE_RATE :][: SECONDS * SAMPLE_RATE]

    def rules(self, x_CFHW: torch.Tensor, prompt: Prompt) -> np.ndarray:
        return self.annotators.scores(motion_of(self.generator, x_CFHW), prompt.expected_F)

    def measures(self, x_CFHW: torch.Tensor, prompt: Prompt) -> dict[str, float]:
        x_CF = motion_of(self.generator, x_CFHW)
        track = motion_track(self.basis.decode(x_CF, 100 * self.basis.canonical_P3))
        lips = score_lips(LipCurves(track.mouth_F, track.width_F), prompt.heard, prompt.phones_F)
        rule = dict(zip(DIMENSIONS, self.annotators.scores(x_CF, prompt.expected_F), strict=True))
        figures = {
            "mn": naturalness(track, prompt.loudness_F)[0],
            "ls": lips.score,
            "vq": rule["vq"],
            **{f"rule_{name}": value for name, value in rule.items()},
        }
        return {name: float(value) for name, value in figures.items()}

    def groups(self, name: str, seed: int, round: int, prompts: int) -> list[PromptGroup]:
        """Candidates of the adapters that are at work now, at one sampler setting, labelled by the panel."""
        return self.kept(f"groups-{name}-{seed}-{round}.pkl", lambda: self._groups(seed, round, prompts))

    def _groups(self, seed: int, round: int, count: int) -> list[PromptGroup]:
        prompts, first = self.prompts("train", count), 10**6 * (seed + 1) + 10**5 * round
        sampled = [
            sample_motion(self.generator, p.cond, range(first + 100 * n, first + 100 * n + CANDIDATES))
            for n, p in enumerate(prompts)
        ]
        pairs = list(zip(prompts, sampled, strict=True))
        score_GNK = np.array([[self.rules(x, p) for x in xs] for p, xs in pairs])
        spread_K = (score_GNK - score_GNK.mean(axis=1, keepdims=True)).std(axis=(0, 1))
        rng = np.random.default_rng(100 * seed + round)
        return [
            self._group(p, xs, self.annotators.answers(score_NK, spread_K, rng), round)
            for (p, xs), score_NK in zip(pairs, score_GNK, strict=True)
        ]

    def _group(self, prompt: Prompt, x_BCFHW: torch.Tensor, p_NK: np.ndarray, round: int) -> PromptGroup:
        """The record that the platform stores, from candidates and their answers."""
        mask, name = self.generator.lip_mask(x_BCFHW[0]).numpy(), f"{prompt.name}-{round}"
        candidates = [
            Candidate(f"{name}-{n}", "study", n, {}, x.numpy(), mask, scores=[float(p) for p in p_K])
            for n, (x, p_K) in enumerate(zip(x_BCFHW, p_NK, strict=True))
        ]
        return PromptGroup(
            name, round, prompt.name, "", "", prompt.name, 0.0, SECONDS, self.generator.fingerprint,
            None, DIMENSIONS, None, prompt.cond.audio_LD.numpy(), FRAMES, candidates,
        )  # fmt: skip


def sample_all(generator: Sampled, prompts: Sequence[Prompt], noises: int) -> list[torch.Tensor]:
    """Latents of every prompt, for noises that are the same for every system."""
    return [
        sample_motion(generator, p.cond, [7000 + 10 * number + n for n in range(noises)])
        for number, p in enumerate(prompts)
    ]
