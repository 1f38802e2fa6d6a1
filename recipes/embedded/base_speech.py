"""Motion for speech that was never filmed: lips by the teacher, head, brows and blinks from filmed tracks.

Shape suffixes: C motion channels, F frames, T audio samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ft2ray.errors import DataError
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.speech import FRAME_SAMPLES, speech_tokens
from recipes.embedded.base_data import (
    RESIDUAL_SHARE,
    SEGMENT_SECONDS,
    Clip,
    Encoder,
    Filmed,
    add_noise,
    close_in_silence,
    enliven,
    fit_length,
)
from recipes.embedded.base_teacher import LipTeacher

BLINK_EVERY_SECONDS = (1.2, 4.5)
"""People blink 15 to 25 times a minute while talking."""
SILENT_SEGMENTS = 10
"""Segments without speech, half of them digital silence and half the faint noise of a room."""


@dataclass(frozen=True)
class MotionBank:
    """Real tracks to draw from: poses and brows of the filmed clips, single blinks, teacher residuals."""

    tracks: list[np.ndarray]
    blinks: list[np.ndarray]
    residuals: list[np.ndarray]
    lid_rest: float


def motion_bank(clips: list[Filmed], residuals: list[np.ndarray], basis: MotionBasis) -> MotionBank:
    """Collect the tracks of filmed clips and of their mirror images."""
    tracks = [motion for clip in clips for motion in (clip.x_CF, basis.mirror(clip.x_CF))]
    blinks = [blink for clip in clips for blink in find_blinks(clip.x_CF[basis.lid], basis)]
    if not blinks:
        raise DataError("training media: nobody blinks in the filmed clips")
    return MotionBank(tracks, blinks, residuals, float(basis.rest_C[basis.lid]))


def find_blinks(lid_F: np.ndarray, basis: MotionBasis, before: int = 3, after: int = 10) -> list[np.ndarray]:
    """Single blinks, each as closing above the open eye around it: [before + after], from 0 back to 0."""
    closure_F = lid_F * basis.std_C[basis.lid] + basis.mean_C[basis.lid]
    shut = np.flatnonzero(closure_F > 0.5)
    starts = [frame for frame in shut if frame - 1 not in shut]
    found = []
    for start in starts:
        if start < before or start + after > len(lid_F):
            continue
        piece = lid_F[start - before : start + after].astype(np.float64)
        piece -= np.linspace(piece[0], piece[-1], len(piece))
        if (np.flatnonzero(np.diff(piece > 0.5 * piece.max())).size) == 2:  # up and down once
            found.append(np.maximum(piece, 0.0).astype(np.float32))
    return found


def head_track(
    bank: MotionBank, loud_F: np.ndarray, basis: MotionBasis, rng: np.random.Generator
) -> np.ndarray:
    """Head and brows under speech of loudness loud_F (0..1): two filmed tracks slowed down and added.

    The tracks run fast where the speech is loud and nearly stop where nobody speaks: people move their heads
    with what they stress. The head is made livelier.
    """
    frames = len(loud_F)
    pace_F = 0.3 + loud_F
    run_F = np.cumsum(pace_F / pace_F.mean())
    total_CF = np.zeros((basis.channels, frames), np.float32)
    for _ in range(2):
        track_CF = bank.tracks[rng.integers(len(bank.tracks))]
        if rng.random() < 0.5:
            track_CF = track_CF[:, ::-1]
        factor = rng.uniform(0.35, 0.7)
        start = rng.uniform(0, max(track_CF.shape[1] - frames * factor, 0.0))
        at_F = start + factor * run_F
        total_CF += np.stack([np.interp(at_F, np.arange(track_CF.shape[1]), row) for row in track_CF])
    total_CF[basis.pose] = enliven(total_CF[basis.pose], basis, rng)
    return total_CF


def loudness(wav_T: np.ndarray) -> np.ndarray:
    """Loudness under each frame [F], smoothed over stressed syllables, 1 at the loudest of the clip."""
    loud_F = np.sqrt((wav_T.reshape(-1, FRAME_SAMPLES) ** 2).mean(axis=1))
    smooth_F = gaussian_filter1d(loud_F, 3.0)
    return smooth_F / max(float(smooth_F.max()), 1e-4)


def blink_track(bank: MotionBank, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Lid channel for `frames` frames: open eyes with filmed blinks at natural distances."""
    lid_F = np.full(frames, bank.lid_rest, np.float32)
    at = rng.uniform(-1.0, BLINK_EVERY_SECONDS[1]) * 25
    while at < frames:
        blink = bank.blinks[rng.integers(len(bank.blinks))]
        start = int(at)
        part = slice(max(start, 0), min(start + len(blink), frames))
        if part.start < part.stop:
            lid_F[part] += blink[part.start - start : part.stop - start]
        at += rng.uniform(*BLINK_EVERY_SECONDS) * 25
    return lid_F


def blinking(clip: Clip, bank: MotionBank, basis: MotionBasis, rng: np.random.Generator) -> Clip:
    """A filmed clip with the blinks of `blink_track` beside its own: GRID's short sentences have few."""
    x_CF = clip.x_CF.copy()
    x_CF[basis.lid] = np.maximum(x_CF[basis.lid], blink_track(bank, x_CF.shape[1], rng))
    return replace(clip, x_CF=x_CF)


def lip_noise(bank: MotionBank, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A stretch of teacher residuals [mouth channels, frames], tiled from random pieces with soft joints.

    Smoothed over a frame to either side: what changes faster is the tracker's noise, and lips that tremble.
    """
    residual = gaussian_filter1d(bank.residuals[rng.integers(len(bank.residuals))], 1.2, axis=1)
    start = rng.integers(residual.shape[1])
    rolled = np.roll(np.concatenate([residual, residual[:, ::-1]], axis=1), -start, axis=1)
    repeats = -(-frames // rolled.shape[1])
    return np.tile(rolled, repeats)[:, :frames]


def lip_gain(
    teacher: LipTeacher, features: list[np.ndarray], clips: list[Filmed], bank: MotionBank, basis: MotionBasis
) -> np.ndarray:
    """Factor per mouth channel that gives labelled speech, noise included, the variance of filmed lips."""
    filmed_C = np.concatenate([clip.x_CF[basis.mouth] for clip in clips], axis=1).var(axis=1)
    noise_C = RESIDUAL_SHARE**2 * np.concatenate(bank.residuals, axis=1).var(axis=1)
    predicted_C = np.concatenate([teacher(feat) for feat in features], axis=1).var(axis=1)
    wanted_C = np.clip(filmed_C - noise_C, 0.1 * filmed_C, None)
    return np.sqrt(wanted_C / np.maximum(predicted_C, 1e-6)).clip(0.5, 2.5)


def speech_segments(paths: list[Path], rng: np.random.Generator) -> list[np.ndarray]:
    """Cut recordings into pieces of SEGMENT_SECONDS (whole frames), every third one with a pause; some
    silence.
    """
    samples = int(SEGMENT_SECONDS * SAMPLE_RATE) // FRAME_SAMPLES * FRAME_SAMPLES
    segments: list[np.ndarray] = []
    for path in paths:
        wav_T = read_audio(path)
        for start in range(0, max(len(wav_T) - samples // 2, 1), samples):
            piece_T = fit_length(wav_T[start : start + samples], samples)
            segments.append(with_pause(piece_T, rng) if len(segments) % 3 == 2 else piece_T)
    levels = [0.0 if number % 2 else 10 ** (-rng.uniform(60, 90) / 20) for number in range(SILENT_SEGMENTS)]
    hush = [level * rng.standard_normal(samples) for level in levels]
    return segments + [noise_T.astype(np.float32) for noise_T in hush]


def with_pause(wav_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Insert 0.5 to 1.5 s of silence at the quietest moment of the middle; the end falls off."""
    frames = len(wav_T) // FRAME_SAMPLES
    loud_F = np.sqrt((wav_T.reshape(frames, -1) ** 2).mean(axis=1))
    low, high = frames // 5, frames // 2
    cut = low + int(np.argmin(gaussian_filter1d(loud_F, 1.0)[low:high]))
    pause = rng.integers(12, 38) * FRAME_SAMPLES
    at = cut * FRAME_SAMPLES
    return fit_length(np.concatenate([wav_T[:at], np.zeros(pause, np.float32), wav_T[at:]]), len(wav_T))


def labelled_speech(
    segments: list[np.ndarray],
    teacher: LipTeacher,
    clips: list[Filmed],
    bank: MotionBank,
    encoder: Encoder,
    basis: MotionBasis,
    rng: np.random.Generator,
) -> list[Clip]:
    """One training clip per segment; lips are labelled from the clean sound, features come from the noisy
    one.
    """
    clean = [speech_tokens(wav_T, encoder) for wav_T in segments]
    gain_C1 = lip_gain(teacher, clean, clips, bank, basis)[:, None]
    labelled = []
    for number, (wav_T, clean_LD) in enumerate(zip(segments, clean, strict=True)):
        frames = len(clean_LD) // 2
        x_CF = head_track(bank, loudness(wav_T), basis, rng)
        x_CF[basis.lid] = blink_track(bank, frames, rng)
        rest_C1 = teacher.bias_C[:, None]
        x_CF[basis.mouth] = rest_C1 + gain_C1 * (teacher(clean_LD) - rest_C1)
        x_CF[basis.mouth] += RESIDUAL_SHARE * lip_noise(bank, frames, rng)
        feat_LD = speech_tokens(add_noise(wav_T, rng), encoder) if number % 2 else clean_LD
        labelled.append(Clip(close_in_silence(x_CF, wav_T, basis), feat_LD, False))
    return labelled
