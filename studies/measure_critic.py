"""How often the critic is right, on faces and voices that its training never met.

    python studies/measure_critic.py --media ../shared/real --clips 480 [--write]

Rendered clips with labels by construction (portraits, speech and talking clips marked use=measure),
and the real clips themselves, in sync against shifted. Beside the critic: the same network
untrained, rules, chance. --write puts the accuracies into the critic's config.json.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch

from ft2ray.critic.base import Critic
from ft2ray.critic.processor import ProcessorConfig, log_mel
from ft2ray.critic.talking.critic import CONFIG, TalkingCritic
from ft2ray.critic.talking.model import build_model
from ft2ray.critic.talking.view import WINDOW_FRAMES, ClipView, TalkingViewer, at_loudness, speech_features
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import FaceMesher
from ft2ray.media.speech import SpeechEncoder
from ft2ray.media.video import read_video
from recipes.embedded.dataset import FRAME_SAMPLES
from recipes.embedded.motion_sources import LipSource, MotionSource
from recipes.embedded.rule_critic import RuleCritic
from recipes.embedded.synthesis import synthesise
from recipes.embedded.toy_thinker import toy_config
from recipes.embedded.training_media import Media, faces_of_pictures, listed, recordings, talking_clips

BARS = {"mn": 0.925, "ls": 0.8694, "vq": 0.9467}
WINDOW_SAMPLES = WINDOW_FRAMES * FRAME_SAMPLES
TRAINING_CLIPS = ("grid_pwij3p", "grid_swwp2s", "grid_brbk7n", "grid_lbax4n", "grid_lbbc2a")
# Real clips whose own sound is two frames or more off, by the manifest: no example of lips in sync.
OUT_OF_SYNC = (
    "hdtf_a", "retalk_1", "pcavs_00104", "pcavs_00473", "pcavs_517600055", "pcavs_796100172",
)  # fmt: skip
SHIFTS = (5, 25)  # frames by which wrong sound is early or late
EMBEDDED = Path(__file__).resolve().parents[1] / "ft2ray/assets/critic"


@dataclass(frozen=True, eq=False)
class Judged:
    """A view with what is known about it: 1, 0 or NaN for mn, ls, vq."""

    view: ClipView
    label_K: np.ndarray
    kind: str


def rendered_clips(media: Media, lips: LipSource, count: int, seed: int, mesher: FaceMesher) -> list[Judged]:
    """Clips on the measuring portraits, a part of them with a wrong sound.

    Lips are those of real clips, or what the training's ridge reads out of unheard voices.
    """
    rng = np.random.default_rng(seed)
    source = MotionSource(media.recordings, media.clips, MotionBasis.load(), lips)
    sounds, judged = media.sounds, []
    while len(judged) < count:
        face = media.faces[len(judged) % len(media.faces)]
        found: list[ClipView] = []

        def look(frames: np.ndarray, found: list[ClipView] = found) -> ClipView:
            found.append(TalkingViewer().view(frames, np.ones(1, np.float32), 25, mesher))
            return found[-1]

        try:
            clip = synthesise(source, face, rng, look=look)
        except ValueError as error:  # a fault so gross that no face is left to judge
            print(f"drawn again: {error}")
            continue
        name, start, sync = clip.recording, clip.start, clip.lips
        kind = clip.fault
        if rng.random() < 0.42:
            name, start, sound = wrong_sound(media, name, start, rng)
            sync, kind = 0.0, f"{kind}+{sound}"
        wav_T = window_sound(sounds[name], start)
        mel = log_mel(at_loudness(wav_T), ProcessorConfig())
        view = replace(found[-1], mel_WMJ=mel[None], speech_WDF=speech_features(wav_T).T[None])
        judged.append(Judged(view, np.array([clip.mn, sync, clip.vq]), kind))
    return judged


def wrong_sound(media: Media, name: str, start: int, rng: np.random.Generator) -> tuple[str, int, str]:
    """Another recording, or the same one moved by 5 to 25 frames."""
    if rng.random() < 0.5:
        last = len(media.sounds[name]) // FRAME_SAMPLES - WINDOW_FRAMES
        shifts = np.r_[-SHIFTS[1] : -SHIFTS[0] + 1, SHIFTS[0] : SHIFTS[1] + 1]
        inside = shifts[(start + shifts >= 0) & (start + shifts <= last)]
        if len(inside):
            return name, start + int(rng.choice(inside)), "shifted"
    others = [other for other, wav in media.sounds.items() if other != name and len(wav) >= WINDOW_SAMPLES]
    other = others[rng.integers(len(others))]
    spare = len(media.sounds[other]) // FRAME_SAMPLES - WINDOW_FRAMES
    return other, int(rng.integers(spare + 1)), "other_sound"


def window_sound(wav_T: np.ndarray, start: int) -> np.ndarray:
    """Three seconds from a frame on; past the ends the recording goes round."""
    return wav_T[(start * FRAME_SAMPLES + np.arange(WINDOW_SAMPLES)) % len(wav_T)].astype(np.float32)


def real_clips(paths: Sequence[Path], mesher: FaceMesher) -> list[Judged]:
    """Every real clip as it is, and with its sound moved by half a second either way."""
    judged = []
    for path in paths:
        frames, wav_T = read_video(path)
        for shift in (0, -12, 12):
            moved = np.roll(wav_T, shift * FRAME_SAMPLES)
            view = TalkingViewer().view(frames, moved, 25, mesher)
            label = np.array([1.0, float(shift == 0), 1.0])
            judged.append(Judged(view, label, f"{path.stem} {shift:+d}"))
    return judged


def balanced_accuracy(p_N: np.ndarray, label_N: np.ndarray) -> float:
    return float(((p_N[label_N == 1] > 0.5).mean() + (p_N[label_N == 0] <= 0.5).mean()) / 2)


def area(p_N: np.ndarray, label_N: np.ndarray) -> float:
    """Chance that a good clip scores above a bad one."""
    good, bad = p_N[label_N == 1], p_N[label_N == 0]
    return float((good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean())


def interval(p_N: np.ndarray, label_N: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the balanced accuracy over clips, good and bad drawn apart."""
    rng = np.random.default_rng(0)
    good, bad = p_N[label_N == 1] > 0.5, p_N[label_N == 0] <= 0.5
    hits = rng.binomial(len(good), good.mean(), draws) / len(good)
    rejections = rng.binomial(len(bad), bad.mean(), draws) / len(bad)
    low, high = np.percentile((hits + rejections) / 2, [2.5, 97.5])
    return float(low), float(high)


def untuned(critic: TalkingCritic) -> TalkingCritic:
    """The same network before training."""
    torch.manual_seed(0)
    model = build_model(toy_config(critic.tokenizer, critic.processor)).eval()
    plain = {name: (1.0, 0.0) for name in critic.questions}
    return TalkingCritic(model, critic.tokenizer, critic.processor, critic.questions, plain, {}, "untuned")


def table(name: str, critic: Critic, judged: Sequence[Judged]) -> dict[str, dict[str, float]]:
    """Print one line for each dimension; returns the figures."""
    p_NK = critic.score([one.view for one in judged])
    label_NK = np.stack([one.label_K for one in judged])
    figures = {}
    for k, dimension in enumerate(critic.dimensions):
        known = ~np.isnan(label_NK[:, k])
        p, label = p_NK[known, k], label_NK[known, k]
        if len(set(label)) < 2:
            print(f"{name:<16} {dimension}  yes to {np.mean(p > 0.5):6.1%} of {len(p)} good clips")
            continue
        low, high = interval(p, label)
        accuracy, auc = balanced_accuracy(p, label), area(p, label)
        figures[dimension] = {"accuracy": accuracy, "n": int(known.sum()), "auc": auc}
        print(
            f"{name:<16} {dimension}  {accuracy:6.1%}  [{low:.1%}, {high:.1%}]  AUC {auc:.3f}  "
            f"n {known.sum()} ({int(label.sum())} good)  bar {BARS[dimension]:.1%}"
        )
    return figures


def by_fault(critic: Critic, judged: Sequence[Judged]) -> None:
    """Share of right answers for each fault that occurs at least five times."""
    p_NK = critic.score([one.view for one in judged])
    label_NK = np.stack([one.label_K for one in judged])
    right_NK = np.where(np.isnan(label_NK), np.nan, (p_NK > 0.5) == (label_NK == 1))
    for k, dimension in enumerate(critic.dimensions):
        found: dict[str, list[float]] = {}
        for one, right, label in zip(judged, right_NK[:, k], label_NK[:, k], strict=True):
            if not np.isnan(right):
                for fault in one.kind.split("+"):
                    found.setdefault(f"{fault} ({'good' if label else 'bad'})", []).append(right)
        lines = [
            f"{name} {np.mean(hits):.0%} of {len(hits)}"
            for name, hits in sorted(found.items())
            if len(hits) >= 5
        ]
        print(f"  {dimension}: " + ", ".join(lines))


def kept(path: Path | None) -> tuple[list[Judged], list[Judged]] | None:
    """Clips of an earlier run of this file; only ever point it at a file of your own."""
    return pickle.loads(path.read_bytes()) if path is not None and path.exists() else None


def measured_clips(arguments: argparse.Namespace) -> tuple[list[Judged], list[Judged]]:
    """Render on the measuring media, and look at the real clips."""
    mesher, encoder, basis = FaceMesher(), SpeechEncoder(), MotionBasis.load()
    paths = listed(arguments.media, "measure", "clips")
    media = Media(
        faces_of_pictures(listed(arguments.media, "measure", "portraits"), mesher),
        recordings(listed(arguments.media, "measure", "speech"), encoder),
        talking_clips([path for path in paths if path.stem not in OUT_OF_SYNC], mesher, encoder, basis),
    )
    print(
        f"{len(media.faces)} portraits, {len(media.recordings)} recordings, {len(media.clips)} talking clips"
    )
    began = time.monotonic()
    lips = LipSource(
        talking_clips(
            [path for path in listed(arguments.media, "train", "clips") if path.stem in TRAINING_CLIPS],
            mesher,
            encoder,
            basis,
        ),
        basis.mouth,
    )
    judged = rendered_clips(media, lips, arguments.clips, arguments.seed, mesher)
    print(f"{len(judged)} clips rendered in {time.monotonic() - began:.0f} s", flush=True)
    return judged, real_clips(paths, mesher)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, required=True, help="folder of real media with manifest.csv")
    parser.add_argument("--critic", default="embedded")
    parser.add_argument("--clips", type=int, default=480)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="file to keep the rendered clips in, and to take them from")
    parser.add_argument("--faults", action="store_true", help="also right answers by fault")
    parser.add_argument(
        "--write", action="store_true", help="store the accuracies in the critic's config.json"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    critic = TalkingCritic.load(arguments.critic)

    judged, real = kept(arguments.keep) or measured_clips(arguments)
    if arguments.keep is not None and not arguments.keep.exists():
        arguments.keep.write_bytes(pickle.dumps((judged, real)))
    began = time.monotonic()
    figures = table("critic", critic, judged)
    print(f"scored in {(time.monotonic() - began) / len(judged):.3f} s a clip")
    if arguments.faults:
        by_fault(critic, judged)
    table("untuned", untuned(critic), judged)
    table("rules", RuleCritic.load(), judged)
    print("chance           50.0% in each")
    print(f"real clips: {len(real) // 3}, each in sync and moved by 12 frames either way")
    table("critic, real", critic, real)
    table("rules, real", RuleCritic.load(), real)

    if arguments.write:
        folder = EMBEDDED if arguments.critic == "embedded" else Path(arguments.critic)
        config = json.loads((folder / CONFIG).read_text())
        config["talking_critic"]["calibration"] = {
            "set": "rendered clips of held-out portraits, voices and motions",
            "accuracy": {name: round(row["accuracy"], 4) for name, row in figures.items()},
            "n": {name: row["n"] for name, row in figures.items()},
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
