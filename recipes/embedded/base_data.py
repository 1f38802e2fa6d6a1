"""Training clips of the base generator: a few filmed sentences and much speech without pictures.

Filmed: the people of studies/split.csv, their motion tracked, and for every variant (speed, noise, mirror)
the speech features computed anew. Unfilmed: recorded readers, whose lips come from a ridge teacher fitted
to the filmed clips (its variance matched to real lips, real residuals added as noise; base_speech.py) and
whose head, brows and blinks are real tracks of the filmed clips, stretched in time. Where nobody speaks,
the mouth is closed.

Shape suffixes: C motion channels, F frames, L speech tokens, D feature width, T audio samples.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from ft2ray.errors import DataError
from ft2ray.generator.portrait.codec import bridge_gaps
from ft2ray.generator.portrait.motion import GRID_AUDIO_OFFSET_FRAMES, MotionBasis
from ft2ray.media.face import FaceMesher
from ft2ray.media.speech import FRAME_SAMPLES, speech_tokens
from ft2ray.media.video import read_video
from recipes.embedded.base_teacher import LipTeacher, context_rows
from studies.make_split import SPLIT, files_of

TEACHER_STRENGTH = 3.0
RESIDUAL_SHARE = 0.4
RESIDUAL_VARIANTS = 8
"""Variants per clip that the leave-one-out teachers are fitted to: enough, and solved in a second."""
HEAD_DEGREES = (3.0, 7.0)
"""Range of the head's standard deviation in a clip, all three angles together. GRID speakers hold still
(about one degree), people on video move by three to six."""
SEGMENT_SECONDS = 3.6

Encoder = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Clip:
    """One training clip: whitened motion and the speech features of exactly its frames."""

    x_CF: np.ndarray
    feat_LD: np.ndarray
    filmed: bool

    def __post_init__(self) -> None:
        assert len(self.feat_LD) == 2 * self.x_CF.shape[1], "two speech tokens per frame"


@dataclass(frozen=True)
class Filmed:
    """A tracked clip: wav_T of exactly its frames, x_CF in step with the sound."""

    name: str
    wav_T: np.ndarray
    x_CF: np.ndarray


def training_media(folder: Path, split: Path = SPLIT) -> tuple[list[Path], list[Path]]:
    """Film and recordings that the base may be trained on: role `base`, split `train`, by people.

    Args:
        folder: holds manifest.csv (columns file, use), where each of them has to be marked use=train.
        split: assigns people to roles (columns file, role, split), see `studies.make_split`.

    Raises:
        DataError: a list or a file is missing, or a file is not meant for training.
    """
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        raise DataError(f"training media: no {manifest}; give a folder that holds it (columns file, use)")
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "use"} <= rows[0].keys():
        raise DataError(f"training media: {manifest} needs the columns file and use")
    use = {row["file"]: row["use"] for row in rows}
    clips, speech = (sorted(files_of("base", "train", kind=kind, path=split)) for kind in ("clips", "speech"))
    for name in (*clips, *speech):
        if name not in use:
            raise DataError(f"training media: {manifest} does not list {name}, which {split.name} wants")
        if use[name] != "train":
            raise DataError(
                f"training media: {name} is marked use={use[name]}, only use=train may be trained on"
            )
    return [folder / clip for clip in clips], [folder / recording for recording in speech]


def read_filmed(path: Path, mesher: FaceMesher, basis: MotionBasis) -> Filmed:
    """Track a clip and put motion and sound in step (GRID's pictures are one frame late)."""
    frames_FHW3, wav_T = read_video(path)
    if wav_T is None:
        raise DataError(f"training media: {path.name} has no sound")
    late = GRID_AUDIO_OFFSET_FRAMES if path.name.startswith("grid_") else 0
    x_CF = steady(basis.encode(bridge_gaps(mesher.track(frames_FHW3))), basis)[:, late:]
    return Filmed(path.stem, fit_length(wav_T, x_CF.shape[1] * FRAME_SAMPLES), x_CF)


def steady(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """Take the tracker's jitter out: lips and lids are fast, brows and head are not."""
    out_CF = x_CF.copy()
    out_CF[basis.mouth] = gaussian_filter1d(x_CF[basis.mouth], 0.8, axis=1)
    brow = slice(basis.lid + 1, basis.upper.stop)
    out_CF[brow] = gaussian_filter1d(x_CF[brow], 1.5, axis=1)
    out_CF[basis.pose] = gaussian_filter1d(x_CF[basis.pose], 2.0, axis=1)
    return out_CF


def fit_length(wav_T: np.ndarray, samples: int) -> np.ndarray:
    """Cut, or fill up with silence."""
    return np.pad(wav_T[:samples], (0, max(0, samples - len(wav_T)))).astype(np.float32)


def change_speed(wav_T: np.ndarray, x_CF: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Play sound and motion `factor` times as fast."""
    frames = int(x_CF.shape[1] / factor)
    samples = np.arange(frames * FRAME_SAMPLES) * factor
    faster_T = np.interp(samples, np.arange(len(wav_T)), wav_T).astype(np.float32)
    return faster_T, stretch(x_CF, frames, factor)


def stretch(x_CF: np.ndarray, frames: int, factor: float) -> np.ndarray:
    """`frames` frames of a track read at `factor` times its speed, linear in between."""
    at = np.arange(frames) * factor
    return np.stack([np.interp(at, np.arange(x_CF.shape[1]), row) for row in x_CF]).astype(np.float32)


def add_noise(wav_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another loudness, and in half of the cases white noise 5 to 35 dB below the speech."""
    wav_T = wav_T * 10 ** (rng.uniform(-8, 4) / 20)
    if rng.random() < 0.5:
        level = wav_T.std() * 10 ** (-rng.uniform(5, 35) / 20)
        wav_T = wav_T + level * rng.standard_normal(len(wav_T))
    return np.clip(wav_T, -1, 1).astype(np.float32)


def speaking(clean_T: np.ndarray) -> np.ndarray:
    """How much a mouth may move in each frame, [F] in 0..1: 1 from 4 frames around audible speech, else 0,
    soft.
    """
    loud_F = np.sqrt((clean_T.reshape(-1, FRAME_SAMPLES) ** 2).mean(axis=1))
    audible_F = loud_F > max(10 ** (-32 / 20) * np.percentile(loud_F, 95), 10 ** (-55 / 20))
    return gaussian_filter1d(maximum_filter1d(audible_F.astype(np.float32), 7), 1.5)


def close_in_silence(x_CF: np.ndarray, clean_T: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """Blend the lips to the closed mouth where nobody speaks; GRID's speakers wait with parted lips."""
    out_CF = x_CF.copy()
    rest_C1 = basis.rest_C[basis.mouth, None]
    out_CF[basis.mouth] = rest_C1 + speaking(clean_T) * (x_CF[basis.mouth] - rest_C1)
    return out_CF


def enliven(pose_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator) -> np.ndarray:
    """Scale a head track to a drawn amplitude; turns left and right grow more than nods, as in real talk.

    Shape: six pose channels. Shifts and size follow with half of the factor.
    """
    centred_CF = pose_CF - pose_CF.mean(axis=1, keepdims=True)
    emphasis = np.array([1.0, 2.0, 1.5])[:, None]  # pitch, yaw, roll
    degrees = np.degrees(basis.std_C[basis.pose][:3, None] * centred_CF[:3] * emphasis)
    now = np.sqrt((degrees**2).sum(axis=0).mean())
    gain = np.clip(rng.uniform(*HEAD_DEGREES) / max(now, 1e-6), 0.5, 6.0)
    out_CF = centred_CF * max(1.0, 0.5 * gain)
    out_CF[:3] = centred_CF[:3] * emphasis * gain
    return out_CF.astype(np.float32)


def level_speakers(clips: list[Filmed], basis: MotionBasis) -> list[Filmed]:
    """Give every speaker's lips the mean amplitude per channel: one cannot hear who moves them how far."""
    rest_C1 = basis.rest_C[basis.mouth, None]
    amplitude = np.stack([clip.x_CF[basis.mouth].std(axis=1) for clip in clips])
    levelled = []
    for clip, own in zip(clips, amplitude, strict=True):
        x_CF = clip.x_CF.copy()
        gain = amplitude.mean(axis=0) / own
        x_CF[basis.mouth] = rest_C1 + gain[:, None] * (x_CF[basis.mouth] - rest_C1)
        levelled.append(Filmed(clip.name, clip.wav_T, x_CF))
    return levelled


def filmed_variants(
    clips: list[Filmed], encoder: Encoder, basis: MotionBasis, count: int, rng: np.random.Generator
) -> list[tuple[str, Clip]]:
    """`count` variants of every filmed clip (speed, noise, mirror), with the name of the clip.

    Speech features are computed anew for each pair of variants that differ by the mirror only.
    """
    variants = []
    for clip in clips:
        for number in range(count // 2):
            factor = rng.uniform(0.85, 1.2) if number else 1.0
            clean_T, x_CF = change_speed(clip.wav_T, clip.x_CF, factor)
            feat_LD = speech_tokens(add_noise(clean_T, rng) if number else clean_T, encoder)
            x_CF = close_in_silence(x_CF, clean_T, basis)
            x_CF[basis.pose] = enliven(x_CF[basis.pose], basis, rng)
            variants += [(clip.name, Clip(motion, feat_LD, True)) for motion in (x_CF, basis.mirror(x_CF))]
    return variants


def fit_teacher(variants: list[tuple[str, Clip]], basis: MotionBasis) -> LipTeacher:
    """Fit speech to lips on variants of filmed clips.

    Speech does not tell left from right: mirror images have the same inputs, so their fit is that of one of
    them with the channels that are odd under mirroring at zero.
    """
    plain = [clip for _, clip in variants[::2]]
    even_C = basis.mirror_C[basis.mouth] > 0
    inputs = np.concatenate([context_rows(clip.feat_LD) for clip in plain])
    lips = np.concatenate([clip.x_CF[basis.mouth].T for clip in plain])
    return LipTeacher.fit(inputs, lips * even_C, TEACHER_STRENGTH)


def teacher_residuals(variants: list[tuple[str, Clip]], basis: MotionBasis) -> list[np.ndarray]:
    """What a teacher that has not seen the clip misses, [mouth channels, F] per clip and mirror image."""
    residuals = []
    names = list(dict.fromkeys(name for name, _ in variants))
    for name in names:
        others = [
            variant
            for other in names
            if other != name
            for variant in [v for v in variants if v[0] == other][:RESIDUAL_VARIANTS]
        ]
        teacher = fit_teacher(others, basis)
        own = [clip for other, clip in variants if other == name][:2]
        residuals += [clip.x_CF[basis.mouth] - teacher(clip.feat_LD) for clip in own]
    return residuals
