"""Measure one clip from its decoded pixels: lip-sync, motion naturalness, visual quality.

Nothing here looks at latents, critics or the mesh that drove the renderer: the face is found again in the
pixels, as in any video. The references with wrong and shifted audio reuse the same track.

Shape suffixes: F frames, H height, W width, 3 rgb or xyz, T audio samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.lipsync import KINDS, LipCurves, LipScore, predict_lips, score_lips
from ft2ray.evaluation.motion import loudness, naturalness, plain_figures, traits
from ft2ray.evaluation.observation import feature_curve, heard_phones, observe, phone_curve
from ft2ray.evaluation.phones import Closure, bilabial_closure
from ft2ray.evaluation.quality import Quality, measure_quality, portrait_figures
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import Portrait


@dataclass(frozen=True)
class Measurement:
    """Figures of one clip; every part is None when the face could not be followed.

    face_found: share of frames with a face. lips, motion (score 0 = like real people, lower = less natural),
    motion_parts (the same per trait), traits (in their own units), plain (figures people can picture),
    closure (bilabials), quality: see their modules.
    wrong_audio: mean lip-sync of the same mouth against other speech.
    """

    face_found: float
    lips: LipScore | None = None
    closure: Closure | None = None
    motion: float | None = None
    motion_parts: dict[str, float] | None = None
    traits: dict[str, float] | None = None
    plain: dict[str, float] | None = None
    quality: Quality | None = None
    wrong_audio: float | None = None

    def metrics(self) -> dict[str, float | None]:
        """Flat figures. mn, ls, vq: the three dimensions, higher is better; the others are their parts.

        What could not be measured is None (a mouth that never moves has no correlation, for example).
        """
        found: dict[str, float | None] = {"face_found": self.face_found}
        found |= {"mn": self.motion, "ls": None, "vq": None}
        if self.lips is not None:
            lips = self.lips
            found |= {
                "ls": lips.score,
                "ls_correlation": lips.correlation,
                "ls_phones": lips.phones,
                "lag": float(lips.lag),
                "ls_best": lips.best,
            }
        if self.closure is not None and self.closure.heard:
            found |= {
                "bilabials": float(self.closure.heard),
                "bilabial_closure": self.closure.closed / self.closure.heard,
            }
        found |= {f"mn_{name}": value for name, value in (self.motion_parts or {}).items()}
        found |= {f"trait_{name}": value for name, value in (self.traits or {}).items()}
        found |= self.plain or {}
        if self.quality is not None:
            found |= {"vq": self.quality.score, **asdict(self.quality)}
        return {name: _known(value) for name, value in found.items()}

    def audio_references(self) -> dict[str, dict[str, float | None]]:
        """{"wrong_audio": {...}, "shifted_audio": {...}}: ls of the video under sound not its own.

        Motion and quality do not listen, so they have no such reference.
        """
        if self.lips is None or self.wrong_audio is None:
            return {"wrong_audio": {"ls": None}, "shifted_audio": {"ls": None}}
        return {
            "wrong_audio": {"ls": _known(self.wrong_audio)},
            "shifted_audio": {"ls": _known(self.lips.shifted)},
        }


def _known(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def measure_clip(
    frames_FHW3: np.ndarray,
    wav_T: np.ndarray,
    fps: float,
    portrait: Portrait,
    judge: Judge,
    mesher: FaceMesher,
) -> Measurement:
    """Measure a clip.

    Args:
        frames_FHW3: uint8 RGB, as decoded.
        wav_T: its sound, 16 kHz mono.
        fps: frame rate (signals are brought to 25 fps).
        portrait: the picture that the clip was made from.
        judge: reference of real people.
        mesher: a face mesher of this process.
    Raises:
        ValueError: a clip of less than 31 frames at 25 fps: too short for lip-sync.
    """
    mesh_FP3 = mesher.track(frames_FHW3)
    found = float(np.isfinite(mesh_FP3).all(axis=(1, 2)).mean())
    seen = observe(mesh_FP3, fps)
    if seen is None:
        return Measurement(face_found=found)
    frames = len(seen.motion.mouth_F)
    lips = LipCurves(seen.motion.mouth_F, seen.motion.width_F)
    loudness_F = loudness(wav_T, frames)
    features = {kind: feature_curve(wav_T, frames, kind) for kind in KINDS}
    motion, parts = naturalness(seen.motion, loudness_F)
    return Measurement(
        face_found=found,
        lips=score_lips(lips, predict_lips(judge.ridges, features), phone_curve(wav_T, frames)),
        closure=bilabial_closure(heard_phones(wav_T), lips.gap_F),
        motion=motion,
        motion_parts=parts,
        traits=traits(seen.motion, loudness_F),
        plain=plain_figures(seen.motion, loudness_F),
        quality=measure_quality(frames_FHW3, seen.mesh_FP3, portrait_figures(portrait)),
        wrong_audio=judge.wrong_audio(lips),
    )
