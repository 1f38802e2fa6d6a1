"""Train the critic's motion head: python -m recipes.embedded.train_motion_head MEDIA CACHE [--out FOLDER].

It learns what the simulated annotators (studies/annotators.py) say of candidates of the packaged bases, from
speech and portraits of the role `critic` in studies/split.csv: nobody whom the base, the annotators or the
judges know. The annotators see the motion that drives a clip; the head sees what the tracker finds in its
pixels. So a few clips are rendered and tracked, and what the tracker makes of a motion (a linear map and
residuals) is put on all others. Lip-sync also meets sound that was moved or is somebody else's.

Shape suffixes: N windows of speech, J candidates of each, K dimensions, C motion channels, D speech features,
F frames, B clips of a batch, R residuals, X frames of all clips, T audio samples, A annotators.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ft2ray.critic.talking.critic import add_head
from ft2ray.critic.talking.motion_head import CURVES, MotionHead, correlation
from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import load_portrait
from ft2ray.media.speech import TOKENS_PER_FRAME
from studies.annotators import (
    ANNOTATORS,
    ERROR,
    Annotators,
    in_time,
    lip_gap,
    motion_of,
    sample_motion,
    standard,
)
from studies.make_split import files_of

WINDOW, STRIDE = 3 * SAMPLE_RATE, 5 * SAMPLE_RATE // 4
UNCURATED, CURATED = 6, 2  # candidates of a window
RENDERED = 96  # clips that are rendered and tracked
TRACKED = 2  # trackings that are made up for every other candidate
STEPS, BATCH, RATE = 600, 64, 2e-3
FOREIGN, MOVED, FARTHEST = 0.25, 0.2, 12  # shares of clips with another's sound, with moved sound; frames
THINKER = (0.0, 0.0, 0.3)
"""Weight of the thinker's margins (mn, ls, vq): inside groups of candidates it orders motion and lips far
less well than the head (docs/study.md), and it alone sees blur, noise and blocks."""


@dataclass(frozen=True, eq=False)
class Speech:
    """Windows of speech with their candidates."""

    x_NJCF: np.ndarray
    speech_NDF: np.ndarray
    expected_NF: np.ndarray
    score_NJK: np.ndarray


def read_speech(media: Path, split: str) -> Iterator[np.ndarray]:
    """Windows of three seconds of the critic's voices, overlapping."""
    for name in sorted(files_of("critic", split, kind="speech")):
        wav_T = read_audio(media / name)
        for start in range(0, len(wav_T) - WINDOW + 1, STRIDE):
            yield wav_T[start : start + WINDOW]


def make_speech(media: Path) -> Speech:
    """Sample the candidates of every window, and let the annotators look at them."""
    broad, curated = PortraitGenerator.load("embedded-uncurated"), PortraitGenerator.load("embedded")
    annotators, rows = Annotators.load(curated), []
    for n, wav_T in enumerate(tqdm(list(read_speech(media, "train")), desc="candidates", file=sys.stdout)):
        cond = broad.encode_prompt(None, wav_T)  # type: ignore[arg-type]  # any face
        expected_F, first = annotators.expectation(wav_T, cond), 100 * n
        x_JCF = [
            motion_of(generator, x)
            for generator, million, count in ((broad, 5, UNCURATED), (curated, 6, CURATED))
            for x in sample_motion(
                generator, cond, range(million * 10**6 + first, million * 10**6 + first + count)
            )
        ]
        score_JK = [annotators.scores(x_CF, expected_F) for x_CF in x_JCF]
        rows.append((x_JCF, per_frame(cond.audio_LD.numpy()), expected_F, score_JK))
    return Speech(*(np.array(column, np.float32) for column in zip(*rows, strict=True)))


def per_frame(token_LD: np.ndarray) -> np.ndarray:
    """Speech features [D, F] at the rate of the pictures."""
    return token_LD.reshape(-1, TOKENS_PER_FRAME, token_LD.shape[1]).mean(axis=1).T


def tracked(media: Path, speech: Speech, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Motions that drive RENDERED clips and what the viewer tracks in their pixels: [R, C, F] each."""
    generator, mesher, viewer = PortraitGenerator.load("embedded-uncurated"), FaceMesher(), TalkingViewer()
    names = sorted(files_of("critic", "train", kind="portraits"))
    portraits = [load_portrait(media / name, mesher=mesher) for name in names]
    driving, seen = [], []
    for number in tqdm(range(RENDERED), desc="rendering", file=sys.stdout):
        x_CF = speech.x_NJCF[rng.integers(len(speech.x_NJCF)), rng.integers(UNCURATED)]
        x_CFHW = torch.from_numpy(x_CF)[:, :, None, None] / generator.scale_C111
        frames_FHW3 = generator.decode(portraits[number % len(portraits)], x_CFHW)
        view = viewer.view(frames_FHW3, np.ones(WINDOW, np.float32), generator.fps, mesher)
        driving.append(x_CF)
        seen.append(view.motion_WCF[0])
    return np.array(driving), np.array(seen)


@dataclass(frozen=True, eq=False)
class Tracker:
    """What the face tracker makes of a motion: map_CC @ motion + one of residual_RCF, means taken off."""

    basis: MotionBasis
    map_CC: np.ndarray
    residual_RCF: np.ndarray

    @classmethod
    def fit(cls, driving_RCF: np.ndarray, seen_RCF: np.ndarray, basis: MotionBasis) -> Tracker:
        a_RCF, b_RCF = (
            centred(np.stack([own_rest(x_CF, basis) for x_CF in driving_RCF])),
            centred(seen_RCF),
        )
        a_CX, b_CX = (values.transpose(1, 0, 2).reshape(values.shape[1], -1) for values in (a_RCF, b_RCF))
        ridge_CC = 1e-3 * a_CX.shape[1] * np.eye(len(a_CX))
        map_CC = b_CX @ a_CX.T @ np.linalg.inv(a_CX @ a_CX.T + ridge_CC)
        return cls(basis, map_CC, b_RCF - np.einsum("cd,rdf->rcf", map_CC, a_RCF))

    def __call__(self, x_CF: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Motion as it might be tracked, [C, F]."""
        residual_CF = self.residual_RCF[rng.integers(len(self.residual_RCF))]
        residual_CF = np.roll(residual_CF, rng.integers(residual_CF.shape[1]), axis=1) * rng.choice((-1, 1))
        return (self.map_CC @ centred(own_rest(x_CF, self.basis)) + residual_CF).astype(np.float32)


def own_rest(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """The motion relative to the clip's own resting face, as a tracked clip is encoded."""
    return basis.encode(basis.decode(x_CF, 100 * basis.canonical_P3))


def centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=-1, keepdims=True)


class Auxiliary(nn.Module):
    """Curves that have to hold the lips that the sound asks for, and the lips that are seen."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.seen = nn.Linear(CURVES, 1), nn.Linear(CURVES, 1)

    def forward(
        self, head: MotionHead, motion_BCF: Tensor, speech_BDF: Tensor, expected_BF: Tensor, gap_BF: Tensor
    ) -> Tensor:
        motion_BCF, speech_BDF = head.standard(motion_BCF, speech_BDF)
        heard_B1F = self.heard(head.hear(speech_BDF).transpose(1, 2)).transpose(1, 2)
        seen_B1F = self.seen(head.lips(motion_BCF).transpose(1, 2)).transpose(1, 2)
        agreed = correlation(heard_B1F, expected_BF[:, None]) + correlation(seen_B1F, gap_BF[:, None])
        return 0.5 * (2 - agreed).mean()


def train(speech: Speech, tracker: Tracker, seed: int = 0) -> MotionHead:
    """Cross-entropy against the panel's answers; clips meet their own, a moved or a foreign sound."""
    torch.manual_seed(seed)
    rng, basis = np.random.default_rng(seed), tracker.basis
    count, candidates = speech.score_NJK.shape[:2]
    flat = speech.x_NJCF.reshape(-1, *speech.x_NJCF.shape[2:])
    print(f"Tracking {TRACKED * len(flat)} motions as if rendered ...")
    seen = np.array([[tracker(x_CF, rng) for _ in range(TRACKED)] for x_CF in flat])
    gap_NJF = standard(np.array([lip_gap(x_CF, basis) for x_CF in flat])).reshape(count, candidates, -1)
    expected_NF = standard(speech.expected_NF)
    mean_K = speech.score_NJK.mean(axis=(0, 1))
    spread_K = (speech.score_NJK - speech.score_NJK.mean(axis=1, keepdims=True)).std(axis=(0, 1))
    head = MotionHead(basis.channels, basis.mouth.stop, speech.speech_NDF.shape[1], len(mean_K), 1)
    head.motion_scale_C.copy_(torch.from_numpy(centred(seen).std(axis=(0, 1, 3))))
    head.speech_scale_D.copy_(torch.from_numpy(speech.speech_NDF.std(axis=(0, 2))))
    head.thinker_K.copy_(torch.tensor(THINKER))
    auxiliary, mirror_C1 = Auxiliary(), torch.from_numpy(basis.mirror_C)[:, None]
    parameters = [*head.parameters(), *auxiliary.parameters()]
    optimizer = torch.optim.AdamW(parameters, RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.05)
    for step in (bar := tqdm(range(STEPS), desc="training", file=sys.stdout)):
        n_B, j_B, v_B = (rng.integers(limit, size=BATCH) for limit in (count, candidates, TRACKED))
        kind_B, heard_B, moved_B = rng.random(BATCH), n_B.copy(), np.zeros(BATCH, int)
        foreign_B = kind_B < FOREIGN
        heard_B[foreign_B] = rng.integers(count, size=foreign_B.sum())
        late_B = (kind_B >= FOREIGN) & (kind_B < FOREIGN + MOVED)
        moved_B[late_B] = rng.integers(-FARTHEST, FARTHEST + 1, size=late_B.sum())
        speech_BDF = rolled(speech.speech_NDF[heard_B], moved_B)
        expected_BF, gap_BF = standard(rolled(expected_NF[heard_B], moved_B)), gap_NJF[n_B, j_B]
        score_BK = speech.score_NJK[n_B, j_B].astype(np.float64)
        score_BK[:, 1] = [in_time(heard_F, gap_F) for heard_F, gap_F in zip(expected_BF, gap_BF, strict=True)]
        noise_ABK = ERROR * rng.standard_normal((ANNOTATORS, *score_BK.shape))
        p_BK = (1 / (1 + np.exp(-2 * ((score_BK - mean_K) / spread_K + noise_ABK)))).mean(axis=0)
        motion_BCF = torch.from_numpy(seen[n_B * candidates + j_B, v_B])
        motion_BCF = motion_BCF * mirror_C1 if step % 2 else motion_BCF
        told = tuple(torch.from_numpy(np.float32(array)) for array in (speech_BDF, expected_BF, gap_BF))
        loss = nn.functional.binary_cross_entropy_with_logits(
            head(motion_BCF, told[0]), torch.from_numpy(p_BK).float()
        )
        optimizer.zero_grad(set_to_none=True)
        (loss + auxiliary(head, motion_BCF, *told)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return head.eval()


def rolled(values_BXF: np.ndarray, frames_B: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.roll(values, moved, axis=-1) for values, moved in zip(values_BXF, frames_B, strict=True)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path, help="folder with the files of studies/split.csv")
    parser.add_argument("cache", type=Path, help="folder of what was sampled and rendered before")
    parser.add_argument(
        "--out", type=Path, default=Path("ft2ray/assets/critic"), help="critic that gets the head"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    kept = arguments.cache / "speech.npz"
    if not kept.exists():
        np.savez(kept, **vars(make_speech(arguments.media)))
    speech = Speech(**np.load(kept))
    kept = arguments.cache / "tracked.npz"
    if not kept.exists():
        driving, seen = tracked(arguments.media, speech, np.random.default_rng(arguments.seed))
        np.savez(kept, driving=driving, seen=seen)
    pair = np.load(kept)
    head = train(speech, Tracker.fit(pair["driving"], pair["seen"], MotionBasis.load()), arguments.seed)
    add_head(arguments.out, head)
    print(f"Wrote the motion head into {arguments.out} after {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
