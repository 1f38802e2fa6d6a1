"""What the metrics know about real people: lip ridges, figures of real film, decoys.

The judge in the package was fitted on two speakers of the GRID corpus (CC BY 4.0) from whom nothing else
in the package learns; it holds derived numbers only, no media. `Judge.load(folder)` fits one on the user's
own real talking clips instead, which is better (see assets/judge/README.md for by how much).

Shape suffixes: F frames, D features, N decoys.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ft2ray.errors import DataError
from ft2ray.evaluation.lipsync import (
    MAX_LAG,
    TARGETS,
    LipCurves,
    Ridge,
    contrast,
    fit_ridge,
    lips_by_lag,
    predict_lips,
    score_lips,
)
from ft2ray.evaluation.motion import TRAITS, MotionTrack, naturalness

EMBEDDED = Path(__file__).parent.parent / "assets" / "judge" / "judge.safetensors"
CONTEXT = {"whisper": 2, "mel": 3}
STRENGTH = 1.0
RIDGE_PARTS = ("mean_D", "scale_D", "weights_D")


@dataclass(frozen=True, eq=False)
class RealClip:
    """Numbers of one real talking clip at 25 fps; enough to fit a judge, no pixels.

    lips: gap and width; features: feature kind -> [F, D]; phones_F: openness by the phone table; loudness_F;
    quality: figures of `quality.Quality` against the clip's own frame with the mouth most closed.
    """

    name: str
    speaker: str
    motion: MotionTrack
    features: Mapping[str, np.ndarray]
    phones_F: np.ndarray
    loudness_F: np.ndarray
    quality: Mapping[str, float]

    @property
    def lips(self) -> LipCurves:
        return LipCurves(self.motion.mouth_F, self.motion.width_F)


@dataclass(frozen=True, eq=False)
class Judge:
    """A fitted judge.

    Attributes:
        ridges: predictors of the lips from the sound, one per speech feature and lip signal.
        decoy_gap_NF, decoy_width_NF: lips predicted from other speech, the wrong-audio
        reference. real: real clip name -> its metrics by a judge that was not fitted on that speaker.
        source: where the real clips came from, in words.
    """

    ridges: tuple[Ridge, ...]
    decoy_gap_NF: np.ndarray
    decoy_width_NF: np.ndarray
    real: Mapping[str, Mapping[str, float]]
    source: str

    @classmethod
    def load(cls, source: str | Path | None = None) -> Judge:
        """The packaged judge (None), a saved one (.safetensors), or one fitted on a folder of clips.

        Raises:
            ValueError: the path does not exist, is not a judge, or the folder has too few usable clips.
        """
        path = EMBEDDED if source is None else Path(source)
        if path.is_dir():
            from ft2ray.evaluation.real_clips import fit_folder

            return fit_folder(path)
        if not path.is_file():
            raise DataError(
                f"No judge at {path}: give a folder of real talking clips or a judge.safetensors file."
            )
        return _read(path)

    def save(self, path: str | Path) -> Path:
        """Write the judge as one safetensors file."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(self._tensors(), str(path), metadata={"judge": json.dumps(self._meta(), sort_keys=True)})
        return path

    @property
    def fingerprint(self) -> str:
        """Hash of everything that a measurement depends on."""
        digest = hashlib.sha256((json.dumps(self._meta(), sort_keys=True) + repr(TRAITS)).encode())
        for name, values in sorted(self._tensors().items()):
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()[:16]

    def _tensors(self) -> dict[str, np.ndarray]:
        tensors = {
            f"{ridge.kind}.{ridge.target}.{part}": getattr(ridge, part)
            for ridge in self.ridges
            for part in RIDGE_PARTS
        } | {
            "decoys.gap_NF": self.decoy_gap_NF,
            "decoys.width_NF": self.decoy_width_NF,
        }
        return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in tensors.items()}

    def _meta(self) -> dict:
        return {
            "context": {ridge.kind: ridge.context for ridge in self.ridges},
            "real": {name: dict(figures) for name, figures in self.real.items()},
            "source": self.source,
        }

    def wrong_audio(self, seen: LipCurves) -> float:
        """Mean lip-sync of lips with speech that they did not speak."""
        decoys = zip(self.decoy_gap_NF, self.decoy_width_NF, strict=True)
        return _mean([contrast(lips_by_lag(seen, LipCurves(*decoy)))[MAX_LAG] for decoy in decoys])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")


def _read(path: Path) -> Judge:
    try:
        with safe_open(str(path), framework="np") as file:
            meta = json.loads(file.metadata()["judge"])
            get = {name: file.get_tensor(name).astype(np.float64) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, OSError, ValueError) as error:
        raise DataError(
            f"{path} is not a judge ({error}); make one with recipes/embedded/train_judge.py."
        ) from error
    return Judge(
        ridges=tuple(
            Ridge(kind, target, context, *(get[f"{kind}.{target}.{part}"] for part in RIDGE_PARTS))
            for kind, context in sorted(meta["context"].items())
            for target in TARGETS
        ),
        decoy_gap_NF=get["decoys.gap_NF"],
        decoy_width_NF=get["decoys.width_NF"],
        real=meta["real"],
        source=meta["source"],
    )


def fit_ridges(clips: Sequence[RealClip]) -> tuple[Ridge, ...]:
    """Ridges of both lip signals, fitted on some real clips."""
    return tuple(
        fit_ridge(
            [(clip.features[kind], getattr(clip.lips, f"{target}_F")) for clip in clips],
            kind,
            context,
            STRENGTH,
            target,
        )
        for kind, context in sorted(CONTEXT.items())
        for target in TARGETS
    )


def fit_judge(clips: Sequence[RealClip], decoys: Sequence[Mapping[str, np.ndarray]], source: str) -> Judge:
    """Fit on all clips; the real-video figures come from fits that leave the clip's speaker out.

    Args:
        clips: real talking clips of two speakers at least.
        decoys: features by kind of other speech; all are cut to the shortest.
        source: words for the report.
    Raises:
        DataError: fewer than two speakers: none can be left out.
    """
    speakers = {clip.speaker for clip in clips}
    if len(speakers) < 2:
        raise DataError(f"A judge needs real clips of at least two people, found {len(speakers)}; add clips.")
    real: dict[str, dict[str, float]] = {}
    for speaker in sorted(speakers):
        ridges = fit_ridges([clip for clip in clips if clip.speaker != speaker])
        for clip in clips:
            if clip.speaker == speaker:
                real[clip.name] = real_figures(clip, ridges)
    ridges = fit_ridges(clips)
    heard = [predict_lips(ridges, features) for features in decoys]
    frames = min(len(curves.gap_F) for curves in heard)
    return Judge(
        ridges=ridges,
        decoy_gap_NF=np.stack([curves.gap_F[:frames] for curves in heard]),
        decoy_width_NF=np.stack([curves.width_F[:frames] for curves in heard]),
        real=real,
        source=source,
    )


def real_figures(clip: RealClip, ridges: Sequence[Ridge]) -> dict[str, float]:
    """Metrics of a real clip, named as in `measure.Measurement.metrics`."""
    lips = score_lips(clip.lips, predict_lips(ridges, clip.features), clip.phones_F)
    return {
        "mn": naturalness(clip.motion, clip.loudness_F)[0],
        "ls": lips.score,
        "ls_correlation": lips.correlation,
        "ls_phones": lips.phones,
        "ls_shifted": lips.shifted,
        "ls_best": lips.best,
        "lag": float(lips.lag),
        **{name: float(value) for name, value in clip.quality.items()},
    }
