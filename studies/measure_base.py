"""Measure the base generator from decoded pixels: python studies/measure_base.py MEDIA [--out FILE.json].

MEDIA holds portraits, recordings and real talking clips with use=measure in its manifest.csv: nothing that
any shipped weight has seen. The judge of lip-sync is a ridge fitted here to the real clips, each in step
with its own sound as well as a linear predictor can tell. Rows are means over clips with standard errors:
the base at several guidance scales, the ridge teacher that labelled its training speech (lips only, no
diffusion) and real clips, each beside the wrong sound. A last table correlates generated with true lips for
the sound of real clips, the three GRID clips that no training may use among them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from ft2ray.errors import MediaError
from ft2ray.evaluation.identity import descriptor, identity
from ft2ray.evaluation.lipsync import Ridge, correlation, fit_ridge, mouth_curve, speech_features
from ft2ray.generator.portrait.codec import PortraitCodec
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import GRID_AUDIO_OFFSET_FRAMES, fit_pose
from ft2ray.generator.sampler import Conditions
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import read_audio
from ft2ray.media.face import FaceMesher, eye_opening, face_height
from ft2ray.media.portrait import Portrait, load_portrait
from ft2ray.media.speech import FRAME_SAMPLES, SpeechEncoder
from ft2ray.media.video import FPS, read_video
from recipes.embedded.base_data import (
    filmed_variants,
    fit_teacher,
    level_speakers,
    read_filmed,
    training_media,
)
from recipes.embedded.base_teacher import LipTeacher

FRAMES = 75
MAX_LAG = 5
CONTEXT, STRENGTH = 5, 3.0
FEATURES = "whisper"
JUDGE_CLIPS = ("grid_bbaf2n.mpg", "grid_test_video.mp4", "grid_sbia1a.mpg")
SETTINGS = (
    *(SamplerSettings(audio_scale=scale) for scale in (0.5, 1.0, 2.0, 3.5, 6.0)),
    SamplerSettings(steps=5),
)
BLINK_SHARE = 0.75
"""The mesh sees painted lids close to two thirds at most; below three quarters of the usual opening is a
blink.
"""

Draw = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class RealClip:
    """A tracked clip, its sound and its lag: frames by which the pictures come late."""

    name: str
    mesh_FP3: np.ndarray
    wav_T: np.ndarray
    feature_FD: np.ndarray
    lag: int = 0

    def seen(self) -> np.ndarray:
        """Mouth opening in step with the sound."""
        return np.roll(mouth(self.mesh_FP3), -self.lag)


@dataclass(frozen=True)
class Figures:
    """Of one clip. sync: correlation of the mouth with the one that the judge hears; wrong: hears in another
    recording; at_lag: sync with the mouth taken 5 frames early to 5 late; head: degrees of standard
    deviation, all angles; speed: mean degrees per frame; blinks: per minute; gap: standard deviation of the
    mouth opening in face heights; identity: cosine of face descriptors, worst of five frames; ms: per clip.
    """

    sync: float
    wrong: float
    at_lag: tuple[float, ...]
    found: float
    head: float
    speed: float
    blinks: float
    gap: float
    identity: float = float("nan")
    sample_ms: float = float("nan")
    decode_ms: float = float("nan")


def manifest(folder: Path, kind: str) -> list[Path]:
    """Files of one kind with use=measure."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [folder / row["file"] for row in rows if row["use"] == "measure" and row["file"].startswith(kind)]


def mouth(mesh_FP3: np.ndarray) -> np.ndarray:
    return mouth_curve(mesh_FP3, float(np.median(face_height(mesh_FP3))))


def shifted(a_F: np.ndarray, b_F: np.ndarray, lag: int) -> float:
    """Correlation of a with b taken `lag` frames late."""
    frames = min(len(a_F), len(b_F))
    return correlation(a_F[max(0, -lag) : frames - max(0, lag)], b_F[max(0, lag) : frames + min(0, lag)])


def read_real(path: Path, mesher: FaceMesher, lag: int = 0) -> RealClip:
    frames_FHW3, wav_T = read_video(path)
    assert wav_T is not None
    mesh_FP3 = mesher.track(frames_FHW3[:250])
    wav_T = wav_T[: len(mesh_FP3) * FRAME_SAMPLES]
    feature_FD = speech_features(wav_T, len(mesh_FP3), FPS, FEATURES)
    return RealClip(path.stem, mesh_FP3, wav_T, feature_FD, lag)


def fit_judge(clips: list[RealClip]) -> Ridge:
    return fit_ridge([(clip.feature_FD, clip.seen()) for clip in clips], FEATURES, CONTEXT, STRENGTH)


def align(clips: list[RealClip], rounds: int = 3) -> list[RealClip]:
    """Lag of each clip by judges fitted to the others: clips from the web are up to 4 frames out of step."""
    for _ in range(rounds):
        found = []
        for clip in clips:
            predicted = fit_judge([other for other in clips if other is not clip]).apply(clip.feature_FD)
            own = mouth(clip.mesh_FP3)
            lag = (
                int(np.argmax([shifted(predicted, own, lag) for lag in range(-MAX_LAG, MAX_LAG + 1)]))
                - MAX_LAG
            )
            found.append(RealClip(clip.name, clip.mesh_FP3, clip.wav_T, clip.feature_FD, lag))
        clips = found
    return clips


def figures(
    mesh_FP3: np.ndarray, right_F: np.ndarray, wrong_F: np.ndarray, reference_P3: np.ndarray, **more: float
) -> Figures:
    """Everything that a track of one clip shows; angles are relative to the reference mesh."""
    found_F = np.isfinite(mesh_FP3).all(axis=(1, 2))
    mesh_FP3 = mesh_FP3[found_F]
    seen_F = mouth(mesh_FP3)
    angles_F3 = np.degrees(fit_pose(mesh_FP3.astype(np.float64), reference_P3).rotation.as_rotvec())
    opening_F = eye_opening(mesh_FP3)
    shut_F = opening_F < BLINK_SHARE * np.median(opening_F)
    return Figures(
        sync=correlation(right_F[found_F], seen_F),
        wrong=correlation(wrong_F[found_F], seen_F),
        at_lag=tuple(shifted(right_F, seen_F, lag) for lag in range(-MAX_LAG, MAX_LAG + 1)),
        found=float(found_F.mean()),
        head=float(np.sqrt(angles_F3.var(axis=0).sum())),
        speed=float(np.linalg.norm(np.diff(angles_F3, axis=0), axis=1).mean()),
        blinks=float((shut_F[1:] & ~shut_F[:-1]).sum() / len(mesh_FP3) * FPS * 60),
        gap=float(seen_F.std()),
        **more,
    )


def measure_clip(
    draw: Draw,
    generator: PortraitGenerator,
    portrait: Portrait,
    mesher: FaceMesher,
    right_F: np.ndarray,
    wrong_F: np.ndarray,
) -> Figures:
    """Draw a latent, decode it, track the pixels again and measure."""
    started = time.perf_counter()
    x_CFHW = draw()
    sampled = time.perf_counter()
    frames_FHW3 = generator.decode(portrait, x_CFHW)
    decoded = time.perf_counter()
    mesh_FP3 = mesher.track(frames_FHW3)
    own_D = descriptor(portrait.image_HW3, portrait.mesh_P3)
    picks = [frame for frame in range(7, FRAMES, 15) if np.isfinite(mesh_FP3[frame]).all()]
    alike = [identity(own_D, descriptor(frames_FHW3[frame], mesh_FP3[frame]))[1] for frame in picks]
    return figures(
        mesh_FP3,
        right_F,
        wrong_F,
        portrait.mesh_P3.astype(np.float64),
        identity=min(alike, default=float("nan")),
        sample_ms=1000 * (sampled - started),
        decode_ms=1000 * (decoded - sampled),
    )


def summary(name: str, rows: list[Figures]) -> dict:
    """Means with standard errors, and the lag at which the mean correlation is best."""
    result: dict = {"name": name, "clips": len(rows)}
    for field in asdict(rows[0]):
        values = np.array([getattr(row, field) for row in rows], dtype=float)
        if field == "at_lag":
            curve = np.nanmean(values, axis=0)
            result["lag"] = int(np.argmax(curve)) - MAX_LAG
            result["at_lag"] = curve.round(3).tolist()
        elif np.isfinite(values).any():
            error = np.nanstd(values) / np.sqrt(np.isfinite(values).sum())
            result[field] = [round(float(np.nanmean(values)), 4), round(float(error), 4)]
    pairs = {key: value for key, value in result.items() if isinstance(value, list) and key != "at_lag"}
    cells = [f"{key} {mean:.3f} ({error:.3f})" for key, (mean, error) in pairs.items()]
    print(f"{name:28s} n={len(rows):3d} lag {result['lag']:+d}  " + "  ".join(cells), flush=True)
    return result


def teacher_latent(teacher: LipTeacher, generator: PortraitGenerator, cond: Conditions) -> torch.Tensor:
    """A still face whose lips are the teacher's."""
    assert isinstance(generator.codec, PortraitCodec)
    basis = generator.codec.basis
    x_CF = np.tile(basis.rest_C[:, None], (1, cond.frames))
    x_CF[basis.mouth] = teacher(cond.audio_LD.numpy())
    return torch.from_numpy(x_CF)[:, :, None, None] / generator.scale_C111


def train_teacher(folder: Path, mesher: FaceMesher, generator: PortraitGenerator) -> LipTeacher:
    """The teacher as the training of the base fits it, with half of the variants."""
    assert isinstance(generator.codec, PortraitCodec)
    basis = generator.codec.basis
    filmed = level_speakers([read_filmed(path, mesher, basis) for path in training_media(folder)[0]], basis)
    return fit_teacher(filmed_variants(filmed, SpeechEncoder(), basis, 16, np.random.default_rng(0)), basis)


def true_lips(
    clips: list[RealClip], draw: Callable[[Conditions], torch.Tensor], generator: PortraitGenerator
) -> list:
    """Correlation of generated and true mouth, [mean, standard error], over 3 s pieces of real clips."""
    assert isinstance(generator.codec, PortraitCodec)
    mesh_P3 = (generator.codec.basis.canonical_P3 * 128 + 128).astype(np.float32)
    face = Portrait(np.zeros((256, 256, 3), np.uint8), mesh_P3, "mean face")
    values = []
    for clip in clips:
        for start in range(0, len(clip.mesh_FP3) - FRAMES + 1, FRAMES):
            wav_T = clip.wav_T[start * FRAME_SAMPLES : (start + FRAMES) * FRAME_SAMPLES]
            wav_T = np.pad(wav_T, (0, FRAMES * FRAME_SAMPLES - len(wav_T)))
            x_CFHW = draw(generator.encode_prompt(face, wav_T)) * generator.scale_C111
            made_F = mouth(generator.codec.decode_mesh(face, x_CFHW))
            values.append(correlation(made_F, clip.seen()[start : start + FRAMES]))
    return [round(float(np.mean(values)), 4), round(float(np.std(values) / np.sqrt(len(values))), 4)]


def real_figures(clips: list[RealClip]) -> list[Figures]:
    """Real clips in 3 s pieces, judged by ridges that have not seen them."""
    rows = []
    for index, clip in enumerate(clips):
        judge = fit_judge([other for other in clips if other is not clip])
        mesh_FP3 = np.roll(clip.mesh_FP3, -clip.lag, axis=0)
        wrong_F = judge.apply(clips[(index + 5) % len(clips)].feature_FD)[:FRAMES]
        for start in range(0, len(mesh_FP3) - FRAMES + 1, FRAMES):
            part = mesh_FP3[start : start + FRAMES]
            right_F = judge.apply(clip.feature_FD)[start : start + FRAMES]
            rows.append(figures(part, right_F, wrong_F, part[0].astype(np.float64)))
    return rows


def read_prompts(folder: Path, count: int, mesher: FaceMesher) -> tuple[list[Portrait], list[np.ndarray]]:
    """`count` portraits spread over the usable ones, and 3 s from the middle of every recording."""
    portraits = []
    for path in manifest(folder, "portraits/"):
        try:
            portraits.append(load_portrait(path, 256, mesher))
        except MediaError as error:
            print(f"left out: {error}")
    speech = []
    for path in manifest(folder, "speech/"):
        wav_T = read_audio(path)
        start = max(0, (len(wav_T) - FRAMES * FRAME_SAMPLES) // 2)
        speech.append(wav_T[start : start + FRAMES * FRAME_SAMPLES])
    return portraits[:: max(1, len(portraits) // count)][:count], speech


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--portraits", type=int, default=6)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    mesher, generator = FaceMesher(), PortraitGenerator.load()
    clips = align([read_real(path, mesher) for path in manifest(arguments.media, "clips/")])
    judge = fit_judge(clips)
    teacher = train_teacher(arguments.media, mesher, generator)
    portraits, speech = read_prompts(arguments.media, arguments.portraits, mesher)
    conds = [generator.encode_prompt(portraits[0], wav_T) for wav_T in speech]
    heard = [judge.apply(speech_features(wav_T, FRAMES, FPS, FEATURES)) for wav_T in speech]

    def over_prompts(name: str, draw: Callable[[Conditions, int], torch.Tensor]) -> dict:
        rows = []
        for number, portrait in enumerate(portraits):
            for index in range(number % 2, len(speech), 2):
                one = partial(draw, conds[index], 1000 * number + index)
                other = heard[(index + 5) % len(speech)]
                rows.append(measure_clip(one, generator, portrait, mesher, heard[index], other))
        return summary(name, rows)

    results = []
    for setting in SETTINGS:
        name = f"base, guidance {setting.audio_scale:g}, {setting.steps} steps"
        results.append(over_prompts(name, partial(generator.sample, config=setting)))
    results.append(over_prompts("ridge teacher", lambda cond, seed: teacher_latent(teacher, generator, cond)))
    results.append(summary("real clips, put in step", real_figures(clips)))
    grid = [arguments.media / "clips" / name for name in JUDGE_CLIPS]
    judge_clips = [read_real(path, mesher, GRID_AUDIO_OFFSET_FRAMES) for path in grid]
    for name, members in (("measure", clips), ("GRID judge", judge_clips)):
        lips = {
            "base": true_lips(
                members, partial(generator.sample, seed=0, config=SamplerSettings()), generator
            ),
            "teacher": true_lips(members, partial(teacher_latent, teacher, generator), generator),
        }
        results.append({"name": f"correlation with true lips, {name} clips", **lips})
        print(results[-1])
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
