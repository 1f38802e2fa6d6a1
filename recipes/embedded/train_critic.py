"""Render the critic's training clips and train it: the weights in ft2ray/assets/critic.

    python -m recipes.embedded.train_critic --media ../shared/real --cache /tmp/critic

Only media marked use=train in the manifest are read, and of the GRID clips only those that the
evaluation judge does not use. Clips already in the cache are not rendered again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import ray
import torch

from ft2ray.critic.calibration import fit_scaling
from ft2ray.critic.questions import QUESTIONS
from ft2ray.critic.talking.critic import save_critic
from ft2ray.critic.talking.model import build_model
from ft2ray.critic.talking.view import ClipView
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import FaceMesher
from ft2ray.media.speech import SpeechEncoder
from ft2ray.pipeline.cluster import ray_cluster
from recipes.embedded.candidates import Candidate, draw_candidate, sample_candidates
from recipes.embedded.critic_training import AuxiliaryHeads, Setup, TrainingConfig, figures, train
from recipes.embedded.dataset import SHARD, ClipData, SoundMix, read_shards, write_shard
from recipes.embedded.faces import draw_face
from recipes.embedded.motion_sources import MotionSource
from recipes.embedded.rule_critic import RuleCritic
from recipes.embedded.rule_fitting import fit_rules
from recipes.embedded.synthesis import LIP_CHANNELS, Mix, SyntheticClip, corrupt_and_render, synthesise
from recipes.embedded.toy_thinker import TOY_PROCESSOR, build_tokenizer, toy_config
from recipes.embedded.training_media import (
    Media,
    faces_of_clips,
    faces_of_pictures,
    listed,
    recordings,
    talking_clips,
)

PACKAGE = Path(__file__).resolve().parents[2] / "ft2ray"
# Of the fixed split of GRID speakers, those that are not the evaluation judge's.
TRAINING_CLIPS = ("grid_pwij3p", "grid_swwp2s", "grid_brbk7n", "grid_lbax4n", "grid_lbbc2a")
VALIDATION_CLIPS = ("grid_lwbsza",)
ONE_PERSON_TWICE = ("grid_swwp2s",)  # the same face as grid_pwij3p
VALIDATION_RECORDINGS = 5  # the last of the manifest: speakers that training never hears
RULE_CLIPS = 500
FIRST_CANDIDATE_SHARD = 9000
CANDIDATE_MIX = Mix(motion_fault=0.3, picture_fault=0.3, lip_fault=0.0, overdriven=0.0)
SPEEDS = (1.0, 0.93, 1.08)


def read_media(root: Path, cache: Path, mesher: FaceMesher, validation: bool) -> Media:
    """Faces, recordings and talking clips of training or of validation."""
    encoder, basis = SpeechEncoder(), MotionBasis.load()
    names = VALIDATION_CLIPS if validation else TRAINING_CLIPS
    paths = [path for path in listed(root, "train", "clips") if path.stem in names]
    speech = listed(root, "train", "speech")
    faces = faces_of_clips([path for path in paths if path.stem not in ONE_PERSON_TWICE], cache, mesher)
    if not validation:
        faces += faces_of_pictures(sorted((PACKAGE / "assets/portraits").glob("*.jpg")), mesher)
    heard = speech[-VALIDATION_RECORDINGS:] if validation else speech[:-VALIDATION_RECORDINGS]
    return Media(
        faces,
        recordings(heard, encoder, (1.0,) if validation else SPEEDS),
        talking_clips(paths, mesher, encoder, basis),
    )


@cache
def worker_mesher() -> FaceMesher:
    """One detector in each process: it is not given back when it is dropped."""
    return FaceMesher()


@dataclass(frozen=True, eq=False)
class Renderer:
    """What a rendering task needs; it travels to Ray's workers once."""

    media: Media
    source: MotionSource
    candidates: list[Candidate]
    seed: int

    def __call__(self, path: Path, shard: int) -> str:
        """Render one shard, which depends on seed and number only."""
        cv2.setNumThreads(1)
        mesher, rng, began = worker_mesher(), np.random.default_rng([self.seed, shard]), time.monotonic()
        clip = self.candidate if shard >= FIRST_CANDIDATE_SHARD else self.synthetic
        write_shard(path, [clip(mesher, rng) for _ in range(SHARD)])
        return f"{path.name}: {SHARD} clips in {time.monotonic() - began:.1f} s"

    def synthetic(self, mesher: FaceMesher, rng: np.random.Generator) -> SyntheticClip:
        return synthesise(self.source, draw_face(self.media.faces, mesher, rng), rng)

    def candidate(self, mesher: FaceMesher, rng: np.random.Generator) -> SyntheticClip:
        """One of the base generator's own motions; each is rendered about twice, differently."""
        source, basis = self.source, self.source.basis
        x_CF, recording, start, labels = draw_candidate(self.candidates, source.lip_source, basis, rng)
        face = draw_face(self.media.faces, mesher, rng)
        return corrupt_and_render(source, face, x_CF, recording, start, rng, CANDIDATE_MIX, labels=labels)


def render_missing(renderer: Renderer, folder: Path, shards: Sequence[int]) -> None:
    """Render the shards that `folder` lacks, one Ray task each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {shard: folder / f"clips-{shard:04d}.npz" for shard in shards}
    shared, task = ray.put(renderer), ray.remote(Renderer.__call__)
    waiting = [task.remote(shared, path, shard) for shard, path in paths.items() if not path.exists()]
    while waiting:
        done, waiting = ray.wait(waiting)
        print(*ray.get(done), sep="\n", flush=True)


def render_all(
    training: MotionSource, validation: MotionSource, media: tuple[Media, Media], arguments
) -> None:
    """Everything that is not in the cache yet."""
    train, held_out = media
    regular, own = range(-(-arguments.clips // SHARD)), range(-(-arguments.candidates // SHARD))
    with ray_cluster():
        render_missing(
            Renderer(held_out, validation, [], arguments.seed + 1),
            arguments.cache / "validation",
            range(-(-arguments.validation_clips // SHARD)),
        )
        candidates = sample_candidates(
            PortraitGenerator.load(),
            SpeechEncoder(),
            train.recordings,
            arguments.candidates // 2,
            arguments.seed,
        )
        render_missing(
            Renderer(train, training, candidates, arguments.seed),
            arguments.cache / "training",
            [*(FIRST_CANDIDATE_SHARD + n for n in own), *regular],
        )


def clip_data(folder: Path, media: Media, source: MotionSource) -> ClipData:
    """The clips rendered so far, with their sounds and the lips that those ask for."""
    names = {recording.name: recording for recording in media.recordings}
    names |= {clip.recording.name: clip.recording for clip in media.clips}
    lips = {name: source.lip_source(recording)[:LIP_CHANNELS] for name, recording in names.items()}
    return ClipData(read_shards(list(folder.glob("clips-*[0-9].npz"))), media.sounds, lips)


def new_setup(seed: int) -> Setup:
    """An untrained critic and its training heads."""
    torch.manual_seed(seed)
    tokenizer, processor = build_tokenizer(), TOY_PROCESSOR
    model = build_model(toy_config(tokenizer, processor))
    tokens = 6  # of one step in time: 84 x 56 pixels in blocks of 28
    width = model.config.text_config.hidden_size
    heads = AuxiliaryHeads(width, tokens, processor.temporal_patch_size, LIP_CHANNELS + 1 + 6)
    return Setup(model, heads, tokenizer, processor, dict(QUESTIONS))


def rules_for(data: ClipData, questions: list[str], seed: int) -> RuleCritic:
    """Rules fitted to the same clips: every clip with its own and with a wrong sound."""
    rng, views, labels = np.random.default_rng(seed), [], []
    for row in range(min(len(data), RULE_CLIPS)):
        batch = data.batch(np.array([row]), rng, SoundMix(), augment=False)
        unused = np.zeros((1, 0, 0)), np.zeros((1, 0, 0))  # motion and speech, which no rule looks at
        pictures = data.arrays["video_FHW3"][row][None], data.arrays["stills_KHW3"][row][None]
        views += [
            ClipView(*pictures, mel.numpy(), *unused) for mel in (batch.clips.mel_BMJ, batch.wrong_mel_BMJ)
        ]
        labels += list(batch.label_SBK[:, 0].numpy())
    return fit_rules(views, np.stack(labels), questions)


def save_validated(folder: Path, setup: Setup, margin_NK: np.ndarray, label_NK: np.ndarray) -> None:
    """Write the critic, its logits scaled by what the validation clips say."""
    names = list(setup.questions)
    scaling = {name: fit_scaling(margin_NK[:, k], label_NK[:, k]) for k, name in enumerate(names)}
    scaled_NK = np.stack([a * margin_NK[:, k] + b for k, (a, b) in enumerate(scaling.values())], axis=1)
    reached = figures(scaled_NK, label_NK, names)
    calibration = {
        "set": "validation clips, on which the scaling was fitted",
        "accuracy": {name: round(reached[f"{name}_accuracy"], 4) for name in names},
        "n": {name: int((~np.isnan(label_NK[:, k])).sum()) for k, name in enumerate(names)},
    }
    save_critic(folder, setup.model, setup.tokenizer, setup.processor, setup.questions, calibration, scaling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, required=True, help="folder of real media with manifest.csv")
    parser.add_argument("--cache", type=Path, required=True, help="where rendered clips are kept")
    parser.add_argument("--out", type=Path, default=PACKAGE / "assets/critic")
    parser.add_argument("--clips", type=int, default=2600, help="training clips to render")
    parser.add_argument("--candidates", type=int, default=400, help="training clips from the base generator")
    parser.add_argument("--validation-clips", type=int, default=200)
    parser.add_argument(
        "--steps", type=int, default=TrainingConfig.steps, help="training steps; 0 only renders"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    mesher, basis = FaceMesher(), MotionBasis.load()

    training = read_media(arguments.media, arguments.cache, mesher, validation=False)
    validation = read_media(arguments.media, arguments.cache, mesher, validation=True)
    source = MotionSource(training.recordings, training.clips, basis)
    held_out = MotionSource(validation.recordings, validation.clips, basis, source.lip_source)
    folders = arguments.cache / "training", arguments.cache / "validation"
    render_all(source, held_out, (training, validation), arguments)
    if arguments.steps <= 0:
        return

    setup = new_setup(arguments.seed)
    train_clips, held_out_clips = (
        clip_data(folder, media, motion)
        for folder, media, motion in zip(folders, (training, validation), (source, held_out), strict=True)
    )

    def save(margin_NK: np.ndarray, label_NK: np.ndarray) -> None:
        save_validated(arguments.out, setup, margin_NK, label_NK)

    config = TrainingConfig(steps=arguments.steps, seed=arguments.seed)
    print(json.dumps({"parameters": sum(p.numel() for p in setup.model.parameters())}), flush=True)
    train(setup, config, train_clips, held_out_clips, save, arguments.cache / "training.jsonl")
    rules_for(train_clips, list(setup.questions), arguments.seed).save(arguments.out / "rules.json")


if __name__ == "__main__":
    main()
