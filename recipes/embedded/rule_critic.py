"""A critic made of rules: a handful of hand-made measurements, each through a logistic curve.

It is the baseline that a learnt critic has to beat, and the example of a second critic behind the same
interface: `critic.weights: recipes.embedded.rule_critic:RuleCritic.load`. Lip-sync is loudness against the
darkness between the lips, motion is how much and how jerkily the upper face moves, quality is how much fine
detail the stills hold.

Shapes: N clips, W windows, F frames, K dimensions, R measurements.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from ft2ray.critic.base import LogitCritic
from ft2ray.critic.pairwise import PairwiseCritic
from ft2ray.critic.talking.view import FACE_PIXELS, ClipView
from ft2ray.preference.rules import LOGIT_CLIP
from ft2ray.records import content_id

LEAST_LAG, MOST_LAG = 5, 15  # frames; wrong alignments that the right one is compared with
_FLOOR = 1e-3
RULES = Path(__file__).with_name("rules.json")


def measurements(view: ClipView) -> dict[str, np.ndarray]:
    """What the rules look at, averaged over windows: measurements [R] of each dimension."""
    windows = range(len(view.video_WFHW3))
    return {
        "mn": np.mean([_motion(view.video_WFHW3[w]) for w in windows], axis=0),
        "ls": np.mean([_lip_sync(view.video_WFHW3[w], view.mel_WMJ[w]) for w in windows], axis=0),
        "vq": np.mean([_detail(view.stills_WKHW3[w]) for w in windows], axis=0),
    }


def _grey(pictures: np.ndarray) -> np.ndarray:
    """The grey channel of coded pictures."""
    return pictures[..., 0].astype(np.float32)


def _motion(video_FHW3: np.ndarray) -> np.ndarray:
    """Amount of movement, jerkiness, share of frames at rest, and the largest jump."""
    upper_FHW = _grey(video_FHW3[:, : FACE_PIXELS * 2 // 3])
    change_F = np.abs(np.diff(upper_FHW, axis=0)).mean(axis=(1, 2))
    second = np.abs(np.diff(upper_FHW, n=2, axis=0)).mean()
    amount = change_F.mean() + _FLOOR
    still = (change_F < 0.25 * amount).mean()
    return np.array([np.log(amount), second / amount, still, np.log(change_F.max() / amount)])


def _lip_sync(video_FHW3: np.ndarray, mel_MJ: np.ndarray) -> np.ndarray:
    """Correlation of loudness and mouth opening at no lag, and its lead over wrong lags."""
    lips_FHW = _grey(video_FHW3[:, FACE_PIXELS:])
    rows, columns = lips_FHW.shape[1:]
    inside = lips_FHW[:, rows // 4 : 3 * rows // 4, columns // 4 : 3 * columns // 4]
    opening_F = -np.percentile(inside, 10, axis=(1, 2))
    loudness_F = mel_MJ.mean(axis=0)[: 4 * len(opening_F)].reshape(-1, 4).mean(axis=1)
    loudness_F = uniform_filter1d(loudness_F, 3)
    right = correlation(loudness_F, opening_F[: len(loudness_F)])
    lags = [lag for lag in range(-MOST_LAG, MOST_LAG + 1) if abs(lag) >= LEAST_LAG]
    wrong = [correlation(np.roll(loudness_F, lag), opening_F[: len(loudness_F)]) for lag in lags]
    return np.array([right, right - max(wrong), np.log(np.std(opening_F) + _FLOOR)])


def _detail(stills_KHW3: np.ndarray) -> np.ndarray:
    """Amount of the finest detail, its lead over coarser detail, and how evenly it lies (in octaves)."""
    finest_KHW, coarser_KHW = (stills_KHW3[..., channel].astype(np.float32) for channel in (1, 2))
    return np.array([finest_KHW.mean(), (finest_KHW - coarser_KHW).mean(), finest_KHW.std()]) / 25.0


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; 0 where one of both does not vary."""
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-9 else 0.0


@dataclass(frozen=True)
class Rule:
    """A logistic curve over standardised measurements and their squares (too little and too much are bad)."""

    mean: tuple[float, ...]
    spread: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def margin(self, measured_R: np.ndarray) -> float:
        z = (measured_R - np.array(self.mean)) / np.array(self.spread)
        return float(np.concatenate([z, z**2]) @ np.array(self.weights) + self.bias)


class RuleCritic(LogitCritic):
    """The rules as a critic, fitted to the training clips of the learnt critic."""

    def __init__(self, rules: dict[str, Rule]) -> None:
        self.rules, self.dimensions = rules, tuple(rules)
        self.scaling = dict.fromkeys(rules, (1.0, 0.0))
        described = {name: asdict(rule) for name, rule in rules.items()}
        self.fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path = RULES) -> RuleCritic:
        """Read rules written by `save`."""
        return cls({name: Rule(**fields) for name, fields in json.loads(path.read_text()).items()})

    def save(self, path: Path) -> None:
        path.write_text(
            json.dumps({name: asdict(rule) for name, rule in self.rules.items()}, indent=1) + "\n"
        )

    def margins(self, views: Sequence[ClipView]) -> np.ndarray:
        measured = [measurements(view) for view in views]
        rows = [[rule.margin(one[name]) for name, rule in self.rules.items()] for one in measured]
        return np.array(rows).reshape(len(views), len(self.rules))


def by_rules() -> PairwiseCritic:
    """The packaged rules as a comparison: `critic.weights: recipes.embedded.rule_critic:by_rules`."""
    rules = RuleCritic.load()

    def judge(a: Any, b: Any) -> np.ndarray:
        p_NK = np.clip(rules.score([a, b]), LOGIT_CLIP, 1 - LOGIT_CLIP)
        logit_NK = np.log(p_NK) - np.log1p(-p_NK)
        return 1.0 / (1.0 + np.exp(logit_NK[1] - logit_NK[0]))

    return PairwiseCritic(judge, rules.dimensions, content_id("pairwise", rules.fingerprint))
