"""Simulated annotators: documented rules that see the driving motion, and err and disagree at a stated rate.

    python studies/annotators.py MEDIA      fits them, writes studies/annotators.safetensors

As in studies of reward models with a gold model, candidates are labelled by rules with privileged access:
they see the motion that drives a clip, not its pixels. What they know comes from other people (role
`annotators` of split.csv, and the clean clips of the base's own training) and from other predictors than
the judges'.

Rules, per clip, higher is better:
    mn  head: minus how far its amplitude and speed lie below those of clean clips, minus half of what lies
    more
        than two deviations above them, minus how much it trembles; log units, in deviations over clean clips
    ls  correlation of the lips' gap and width with those that a ridge on speech features predicts
    vq  shape: minus the excess of slow movement in the channels that say what shape the face has

A panel has ANNOTATORS members. Each adds own noise of ERROR deviations of the candidates' scores and
answers with P(Yes) about an own threshold; the score of a candidate is the mean of their answers.

Shape suffixes: N candidates, K dimensions, C motion channels, F frames, P mesh points, S statistics.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.ndimage import gaussian_filter1d

from ft2ray.evaluation.lipsync import (
    Ridge,
    apply_ridges,
    fit_ridge,
    mouth_curve,
    speech_features,
    windowed_correlation,
)
from ft2ray.evaluation.motion import MOUTH_CORNERS
from ft2ray.generator.portrait.motion import MotionBasis
from recipes.embedded.mixture import shape_channels

DIMENSIONS = ("mn", "ls", "vq")
FITTED = Path(__file__).with_name("annotators.safetensors")
WIDTH_WEIGHT = 0.6  # of the lip width beside the gap
ANNOTATORS = 3
ERROR = 0.5
THRESHOLD_SPREAD = 0.3
CONTEXT, STRENGTH = 5, 0.3
LIVELY_DEVIATIONS = 2.0


def motion_statistics(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """Log head amplitude and speed (degrees, degrees a second), tremor (share) and slow shape: [4]."""
    raw_CF = basis.std_C[:, None] * x_CF
    turn_CF = np.degrees(raw_CF[basis.pose][:3])
    smooth_CF = gaussian_filter1d(turn_CF, 2.0, axis=1)
    amplitude = np.sqrt(smooth_CF.var(axis=1).sum())
    speed = np.linalg.norm(np.diff(smooth_CF, axis=1), axis=0).mean() * 25
    tremor = np.sqrt((turn_CF - gaussian_filter1d(turn_CF, 1.0, axis=1)).var(axis=1).sum())
    shape_CF = gaussian_filter1d(x_CF[shape_channels(basis)], 2.0, axis=1)
    values = np.array([amplitude, speed, tremor / (amplitude + 0.2), np.sqrt(shape_CF.var(axis=1).mean())])
    return np.log(np.maximum(values, 1e-3))


def lip_curves(x_CF: np.ndarray, basis: MotionBasis) -> tuple[np.ndarray, np.ndarray]:
    """Gap and width of the lips of the mean face, its head held still: [F] each."""
    still_CF = x_CF.copy()
    still_CF[basis.pose] = basis.rest_C[basis.pose, None]
    mesh_FP3 = basis.decode(still_CF, 100 * basis.canonical_P3)
    corners = mesh_FP3[:, MOUTH_CORNERS]
    return mouth_curve(mesh_FP3, 100.0), np.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1) / 100.0


@dataclass(frozen=True, eq=False)
class Annotators:
    """What the rules compare with: clean clips' statistics, and lip predictors."""

    basis: MotionBasis
    mean_S: np.ndarray
    deviation_S: np.ndarray
    gap: Ridge
    width: Ridge

    @classmethod
    def load(cls, path: Path = FITTED) -> Annotators:
        tensors = load_file(path)
        ridges = [
            Ridge("whisper", CONTEXT, *(tensors[f"{name}.{part}"] for part in ("mean", "scale", "weights")))
            for name in ("gap", "width")
        ]
        return cls(MotionBasis.load(), tensors["mean"], tensors["deviation"], *ridges)

    def expectation(self, wav_T: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Gap and width of the lips that the sound asks for, [F] each: once per prompt."""
        features = {"whisper": speech_features(wav_T, frames, 25.0, "whisper")}
        return apply_ridges([self.gap], features), apply_ridges([self.width], features)

    def scores(self, x_CF: np.ndarray, expected: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The three rules on one clip's whitened motion, without error: [K]."""
        z = (motion_statistics(x_CF, self.basis) - self.mean_S) / self.deviation_S
        lively = np.mean([min(v, 0.0) - 0.5 * max(v - LIVELY_DEVIATIONS, 0.0) for v in z[:2]])
        gap_F, width_F = lip_curves(x_CF, self.basis)
        lips = windowed_correlation(expected[0], gap_F), windowed_correlation(expected[1], width_F)
        known = [0.0 if np.isnan(value) else value for value in lips]
        sync = (known[0] + WIDTH_WEIGHT * known[1]) / (1 + WIDTH_WEIGHT)
        return np.array([lively - 0.5 * max(z[2], 0.0), sync, -np.logaddexp(0.0, z[3])])

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


def fit(media: Path) -> None:
    """Fit predictors on the annotators' film and statistics on the base's clean clips; write FITTED."""
    from ft2ray.media.face import FaceMesher
    from ft2ray.media.speech import SpeechEncoder
    from recipes.embedded.base_data import read_filmed
    from recipes.embedded.base_training import BaseTrainingConfig, build_dataset
    from studies.make_split import files_of

    basis, mesher = MotionBasis.load(), FaceMesher()
    curves = []
    for name in files_of("annotators", "train", kind="clips"):
        clip = read_filmed(media / name, mesher, basis)
        gap_F, width_F = lip_curves(clip.x_CF, basis)
        features_FD = speech_features(clip.wav_T, len(gap_F), 25.0, "whisper")
        curves.append((features_FD, gap_F, width_F))
    clips, _ = build_dataset(media, SpeechEncoder(), mesher, basis, BaseTrainingConfig())
    save(curves, [clip.x_CF for clip in clips], basis)


def save(
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]], clean: list[np.ndarray], basis: MotionBasis
) -> None:
    tensors: dict[str, np.ndarray] = {}
    for name, place in (("gap", 1), ("width", 2)):
        ridge = fit_ridge([(row[0], row[place]) for row in curves], "whisper", CONTEXT, STRENGTH)
        for part, values in (("mean", ridge.mean_D), ("scale", ridge.scale_D), ("weights", ridge.weights_D)):
            tensors[f"{name}.{part}"] = values.astype(np.float32)
    statistics = np.stack([motion_statistics(x_CF, basis) for x_CF in clean])
    tensors["mean"] = statistics.mean(axis=0).astype(np.float32)
    tensors["deviation"] = statistics.std(axis=0).astype(np.float32)
    save_file(tensors, FITTED)


if __name__ == "__main__":
    fit(Path(sys.argv[1]))
