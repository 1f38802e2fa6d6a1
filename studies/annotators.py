"""Simulated annotators: documented rules that see the driving motion, and err and disagree at a stated rate.

    python studies/annotators.py MEDIA      fits them, writes studies/annotators.safetensors

As in studies of reward models with a gold model, candidates are labelled by rules with privileged access:
they see the motion that drives a clip, not its pixels. What they know comes from the clean clips of the
base's own training, from the lips that the curated base makes for the same sound, and from the film of one
more person (role `annotators` of split.csv): other people and other predictors than those of the judges.

Rules, per clip, higher is better:
    mn  head and lids: how far the head's amplitude and speed and the lids' activity lie below those of clean
        clips, half of what lies more than two deviations above them, and half of how much more the head
        trembles; in deviations over clean clips, minus their quadratic mean, since one fault is seen at once
    ls  how much better the lips' gap fits what the sound asks for than the same shifted in time; it asks for
        the mean over CURATED_SAMPLES samples of the curated base (weight 2) and a ridge on speech features
        (weight 1), each standardised
    vq  shape: minus the excess of slow movement in the channels that say what shape the face has

A panel has ANNOTATORS members. Each adds own noise of ERROR deviations of the candidates' scores and
answers with P(Yes) about an own threshold; the score of a candidate is the mean of their answers.

Shape suffixes: N candidates, K dimensions, C motion channels, F frames, P mesh points, S statistics.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from scipy.ndimage import gaussian_filter1d

from ft2ray.evaluation.lipsync import (
    MAX_LAG,
    Ridge,
    contrast,
    fit_ridge,
    mouth_curve,
    speech_features,
    sync_by_lag,
)
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.sampler import Conditions, integrate
from ft2ray.generator.settings import SamplerSettings
from recipes.embedded.mixture import shape_channels

DIMENSIONS = ("mn", "ls", "vq")
FITTED = Path(__file__).with_name("annotators.safetensors")
CURATED_SAMPLES, CURATED_WEIGHT = 8, 2.0
ANNOTATORS = 3
ERROR = 0.5
THRESHOLD_SPREAD = 0.3
CONTEXT, STRENGTH = 5, 0.3
LIVELY_DEVIATIONS = 2.0
LIDS, TREMOR, SHAPE = 2, 3, 4  # places in the statistics, behind the head's amplitude and speed


def motion_statistics(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """Log head amplitude and speed (degrees, degrees a second), lids' activity (deviations of their channel,
    not a logarithm: many clips have no blink), log tremor (share) and log slow shape: [5].
    """
    raw_CF = basis.std_C[:, None] * x_CF
    turn_CF = np.degrees(raw_CF[basis.pose][:3])
    smooth_CF = gaussian_filter1d(turn_CF, 2.0, axis=1)
    amplitude = np.sqrt(smooth_CF.var(axis=1).sum())
    speed = np.linalg.norm(np.diff(smooth_CF, axis=1), axis=0).mean() * 25
    lids = gaussian_filter1d(x_CF[basis.lid], 1.0).std()
    tremor = np.sqrt((turn_CF - gaussian_filter1d(turn_CF, 1.0, axis=1)).var(axis=1).sum())
    shape_CF = gaussian_filter1d(x_CF[shape_channels(basis)], 2.0, axis=1)
    log = np.log(
        np.maximum([amplitude, speed, tremor / (amplitude + 0.2), np.sqrt(shape_CF.var(axis=1).mean())], 1e-3)
    )
    return np.array([log[0], log[1], lids, log[2], log[3]])


def lip_gap(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """Gap of the lips of the mean face, its head held still: [F]."""
    return mouth_curve(still_mesh(x_CF, basis), 100.0)


def still_mesh(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """Mesh of the mean face, 100 units wide, that does not move its head: [F, P, 3]."""
    still_CF = x_CF.copy()
    still_CF[basis.pose] = basis.rest_C[basis.pose, None]
    return basis.decode(still_CF, 100 * basis.canonical_P3)


class Sampled(Protocol):
    """What a clip is sampled from: a generator, or one that puts several velocities together."""

    codec: Any

    def velocity(
        self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conds: Sequence[Conditions]
    ) -> torch.Tensor: ...


def sample_motion(generator: Sampled, cond: Conditions, seeds: Sequence[int]) -> torch.Tensor:
    """Latents x_BCFHW of these seeds at guidance 1, in one batch."""
    shape, conds = generator.codec.latent_shape(cond.frames), [cond] * len(seeds)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    with torch.no_grad():
        return integrate(
            lambda x, t: generator.velocity(x, torch.full((len(seeds),), t), conds),
            torch.stack(noise),
            SamplerSettings(audio_scale=1.0),
        )


def motion_of(generator: PortraitGenerator, x_CFHW: torch.Tensor) -> np.ndarray:
    """Whitened motion x_CF."""
    return (x_CFHW * generator.scale_C111)[:, :, 0, 0].numpy()


@dataclass(frozen=True, eq=False)
class Annotators:
    """What the rules compare with: clean clips' statistics, the curated base, and a ridge of the lip gap."""

    basis: MotionBasis
    curated: PortraitGenerator
    mean_S: np.ndarray
    deviation_S: np.ndarray
    ridge: Ridge

    @classmethod
    def load(cls, curated: PortraitGenerator, path: Path = FITTED) -> Annotators:
        get = {name: values.astype(np.float64) for name, values in load_file(path).items()}
        ridge = Ridge("whisper", "gap", CONTEXT, get["gap.mean"], get["gap.scale"], get["gap.weights"])
        return cls(MotionBasis.load(), curated, get["mean"], get["deviation"], ridge)

    def expectation(self, wav_T: np.ndarray, cond: Conditions) -> np.ndarray:
        """Lip gap that the sound asks for, [F]: once per prompt."""
        x_BCFHW = sample_motion(self.curated, cond, range(CURATED_SAMPLES))
        gaps = [lip_gap(motion_of(self.curated, x), self.basis) for x in x_BCFHW]
        heard_F = self.ridge.apply(speech_features(wav_T, cond.frames, 25.0, "whisper"))
        return CURATED_WEIGHT * standard(np.mean(gaps, axis=0)) + standard(heard_F)

    def scores(self, x_CF: np.ndarray, expected_F: np.ndarray) -> np.ndarray:
        """The three rules on one clip's whitened motion, without error: [K]."""
        z_S = (motion_statistics(x_CF, self.basis) - self.mean_S) / self.deviation_S
        faults = [max(-z, 0.0) + 0.5 * max(z - LIVELY_DEVIATIONS, 0.0) for z in z_S[: LIDS + 1]]
        faults.append(0.5 * max(z_S[TREMOR], 0.0))
        return np.array(
            [
                -np.sqrt(np.mean(np.square(faults))),
                in_time(expected_F, lip_gap(x_CF, self.basis)),
                -np.logaddexp(0.0, z_S[SHAPE]),
            ]
        )

    def answers(self, score_NK: np.ndarray, spread_K: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """P(Yes) of the panel for one group's candidates, [N, K].

        Args:
            score_NK: of `scores`.
            spread_K: standard deviation of each rule over all candidates, the unit of the errors.
            rng: draws the annotators' errors and thresholds.
        """
        z_NK = (score_NK - score_NK.mean(axis=0)) / spread_K
        panel = []
        for _ in range(ANNOTATORS):
            seen_NK = z_NK + ERROR * rng.standard_normal(z_NK.shape)
            seen_NK = seen_NK - THRESHOLD_SPREAD * rng.standard_normal(z_NK.shape[1])
            panel.append(1 / (1 + np.exp(-2 * seen_NK)))
        return np.mean(panel, axis=0)


def in_time(expected_F: np.ndarray, gap_F: np.ndarray) -> float:
    """How much better the lips fit the sound than when either is shifted."""
    above = float(contrast(sync_by_lag(expected_F, gap_F))[MAX_LAG])
    return 0.0 if np.isnan(above) else above  # lips that never move are with no sound and against none


def standard(curves_F: np.ndarray) -> np.ndarray:
    """Curves [..., F] with the mean 0 and the deviation 1."""
    deviation = curves_F.std(axis=-1, keepdims=True) + 1e-9
    return (curves_F - curves_F.mean(axis=-1, keepdims=True)) / deviation


def fit(media: Path) -> None:
    """Fit the ridge on the annotators' film and statistics on the base's clean clips; write FITTED."""
    from ft2ray.media.face import FaceMesher
    from ft2ray.media.speech import SpeechEncoder
    from recipes.embedded.base_data import read_filmed
    from recipes.embedded.base_training import BaseTrainingConfig, build_dataset
    from studies.make_split import files_of

    basis, mesher = MotionBasis.load(), FaceMesher()
    filmed = []
    for name in files_of("annotators", "train", kind="clips"):
        clip = read_filmed(media / name, mesher, basis)
        gap_F = lip_gap(clip.x_CF, basis)
        filmed.append((speech_features(clip.wav_T, len(gap_F), 25.0, "whisper"), gap_F))
    ridge = fit_ridge(filmed, "whisper", CONTEXT, STRENGTH)
    clean, _ = build_dataset(media, SpeechEncoder(), mesher, basis, BaseTrainingConfig())
    statistics = np.stack([motion_statistics(clip.x_CF, basis) for clip in clean])
    tensors = {
        "gap.mean": ridge.mean_D,
        "gap.scale": ridge.scale_D,
        "gap.weights": ridge.weights_D,
        "mean": statistics.mean(axis=0),
        "deviation": statistics.std(axis=0),
    }
    save_file({name: values.astype(np.float32) for name, values in tensors.items()}, FITTED)


if __name__ == "__main__":
    fit(Path(sys.argv[1]))
