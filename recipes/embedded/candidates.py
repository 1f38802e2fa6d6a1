"""The base generator's own candidates as training clips: the critic's later place of work.

A critic that only ever saw gross faults would find all candidates of a prompt equally good. So part
of the clips are motions that the generator sampled at several strengths of guidance, scaled a little,
and labelled in latent space: do the lips agree with those that the speech asks for, and is the mouth
pulled farther than mouths go. Whatever lies in between stays unlabelled.

Shapes: C motion channels, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ft2ray.critic.talking.view import WINDOW_FRAMES
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.sampler import Conditions
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.speech import FRAME_SAMPLES, SpeechEncoder, speech_tokens
from recipes.embedded.motion_sources import LipSource, Recording

GUIDANCE = (0.0, 1.0, 2.0, 3.5)  # 0 does not hear the speech at all
AGREES, DISAGREES = 0.55, 0.25  # correlation of the two leading lip channels
NORMAL_SPREAD, TOO_WIDE_SPREAD = 1.6, 2.2  # of the mouth channels; real talkers have about 1
UNKNOWN = float("nan")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A sampled motion, the recording it was sampled for and the frame where that begins."""

    x_CF: np.ndarray
    recording: Recording
    start: int


def sample_candidates(
    generator: PortraitGenerator,
    encoder: SpeechEncoder,
    recordings: Sequence[Recording],
    count: int,
    seed: int,
) -> list[Candidate]:
    """Motions for random windows of the recordings, guidance in turn."""
    rng = np.random.default_rng(seed)
    usable = [recording for recording in recordings if recording.frames >= WINDOW_FRAMES]
    candidates = []
    for number in range(count):
        recording = usable[int(rng.integers(len(usable)))]
        start = int(rng.integers(recording.frames - WINDOW_FRAMES + 1))
        wav_T = recording.wav_T[start * FRAME_SAMPLES : (start + WINDOW_FRAMES) * FRAME_SAMPLES]
        condition = Conditions(None, torch.from_numpy(speech_tokens(wav_T, encoder)), WINDOW_FRAMES)
        config = SamplerSettings(steps=8, audio_scale=GUIDANCE[number % len(GUIDANCE)])
        latent = generator.sample(condition, int(rng.integers(1 << 31)), config) * generator.scale_C111
        candidates.append(Candidate(latent[:, :, 0, 0].numpy(), recording, start))
    return candidates


def label_candidate(
    x_CF: np.ndarray, wanted_CF: np.ndarray, basis: MotionBasis
) -> tuple[float, float, float]:
    """Labels of a motion against the lips that its speech asks for: mn, lips, vq (1, 0 or NaN)."""
    agreement = float(np.mean([np.corrcoef(x_CF[channel], wanted_CF[channel])[0, 1] for channel in (0, 1)]))
    lips = 1.0 if agreement >= AGREES else 0.0 if agreement <= DISAGREES else UNKNOWN
    spread = float(x_CF[basis.mouth].std(axis=1).mean())
    normal = 1.0 if spread <= NORMAL_SPREAD else 0.0 if spread >= TOO_WIDE_SPREAD else UNKNOWN
    return normal, lips, normal


def draw_candidate(
    candidates: Sequence[Candidate], lips: LipSource, basis: MotionBasis, rng: np.random.Generator
) -> tuple[np.ndarray, Recording, int, tuple[float, float, float]]:
    """One candidate at a random scale, perhaps mirrored, with its labels."""
    picked = candidates[int(rng.integers(len(candidates)))]
    wanted_CF = lips(picked.recording)[:, picked.start : picked.start + WINDOW_FRAMES]
    x_CF = picked.x_CF.copy()
    x_CF[basis.mouth] *= rng.uniform(0.7, 2.4)
    labels = label_candidate(x_CF, wanted_CF, basis)
    if rng.random() < 0.5:
        x_CF = basis.mirror(x_CF)
    return x_CF, picked.recording, picked.start, labels
