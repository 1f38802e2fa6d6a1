"""How valid the measures are: python studies/validity.py MEDIA --cache FOLDER [--prompts 24] [--graded 6].

Writes studies/results/validity.json. Real film is that of the judges' test people (studies/split.csv), whom
no choice has seen, in pieces of three seconds; generated clips are the packaged base's on the test
portraits and test speech.

- beats: probability that a real piece scores above a clip of the base (ties count half), every person with
  the same weight; for lip-sync also with every real piece at its own best lag, as film from the web is out
  of step.
- graded: mean score of the base's clips with a fault of growing strength (the first grade is none), and the
  share of neighbouring grades of one clip that are in the right order.
- mesh_r: correlation of each trait on the driving mesh and on the mesh found again in the pixels, over all
  clips and faults.
- floor: standard deviation of the paired difference of two seeds of the base per prompt, and the smallest
  gain that 24 prompts show with a power of 80 %.

Shape suffixes: C channels, F frames, H height, W width, 3 rgb.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.stats import norm, t

from ft2ray.errors import MediaError
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.measure import measure_clip
from ft2ray.evaluation.motion import motion_track, traits
from ft2ray.evaluation.observation import RATE
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.portrait.warp import render
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import Portrait, load_portrait
from recipes.embedded.faults import crumple
from studies.make_split import files_of
from studies.tracked import read_tracked

OUT = Path(__file__).with_name("results") / "validity.json"
SECONDS = 3
DIMENSIONS = ("mn", "ls", "vq")
Motion = Callable[[np.ndarray, MotionBasis, np.random.Generator, float], np.ndarray]
Picture = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def _pose(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, scale: float) -> np.ndarray:
    x_CF = x_CF.copy()
    mean = x_CF[basis.pose].mean(axis=1, keepdims=True)
    x_CF[basis.pose] = mean + scale * (x_CF[basis.pose] - mean)
    return x_CF


def _lips(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, scale: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.mouth] *= scale
    return x_CF


def _shift(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, frames: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.mouth] = np.roll(x_CF[basis.mouth], int(frames), axis=1)
    return x_CF


def _tremble(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, spread: float) -> np.ndarray:
    x_CF = x_CF.copy()
    x_CF[basis.pose] += (
        spread * x_CF[basis.pose].std(axis=1, keepdims=True) * rng.standard_normal(x_CF[basis.pose].shape)
    )
    return x_CF


def _smooth(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, sigma: float) -> np.ndarray:
    return x_CF if sigma == 0 else gaussian_filter1d(x_CF, sigma, axis=1)


def _blur(frames_FHW3: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(f, (0, 0), sigma) for f in frames_FHW3]) if sigma else frames_FHW3


def _noise(frames_FHW3: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    return np.clip(frames_FHW3 + rng.normal(0, spread, frames_FHW3.shape), 0, 255).astype(np.uint8)


def _jpeg(frames_FHW3: np.ndarray, rng: np.random.Generator, quality: float) -> np.ndarray:
    return np.stack(
        [
            cv2.imdecode(cv2.imencode(".jpg", f, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1], 1)
            for f in frames_FHW3
        ]
    )


def _flicker(frames_FHW3: np.ndarray, rng: np.random.Generator, spread: float) -> np.ndarray:
    steps_F111 = rng.normal(0, spread, (len(frames_FHW3), 1, 1, 1))
    return np.clip(frames_FHW3 + steps_F111, 0, 255).astype(np.uint8)


MOTION: Mapping[str, tuple[str, Motion, Sequence[float]]] = {
    "still head": ("mn", _pose, (1, 0.5, 0.2, 0)),
    "overdone head": ("mn", _pose, (3, 6, 10)),
    "tremor": ("mn", _tremble, (0, 0.3, 0.6, 1.0)),
    "smoothing": ("mn", _smooth, (0, 3, 6, 10)),
    "lip amplitude": ("mn", _lips, (1, 0.4, 0.15, 0)),
    "shifted sound": ("ls", _shift, (0, 3, 6, 10)),
}
PICTURE: Mapping[str, tuple[str, Picture, Sequence[float]]] = {
    "blur": ("vq", _blur, (0, 0.8, 1.5, 2.5)),
    "noise": ("vq", _noise, (0, 6, 12, 24)),
    "compression": ("vq", _jpeg, (95, 30, 15, 7)),
    "flicker": ("vq", _flicker, (0, 4, 8, 16)),
}
CRUMPLE = (0.0, 0.5, 1.0)


class Measurer:
    """The packaged base and judge, and the mesher of this process."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.generator, self.judge, self.mesher = PortraitGenerator.load(), Judge.load(), FaceMesher()
        self.driven: dict[str, list[float]] = defaultdict(list)
        self.seen: dict[str, list[float]] = defaultdict(list)

    def figures(
        self, frames_FHW3: np.ndarray, wav_T: np.ndarray, portrait: Portrait
    ) -> dict[str, float | None]:
        return measure_clip(frames_FHW3, wav_T, RATE, portrait, self.judge, self.mesher).metrics()

    def compare_traits(self, mesh_FP3: np.ndarray, frames_FHW3: np.ndarray) -> None:
        """Note every trait of the driving mesh beside that of the pixels."""
        found_FP3 = self.mesher.track(frames_FHW3)
        if np.isfinite(found_FP3).all():
            for name, value in traits(motion_track(mesh_FP3)).items():
                self.driven[name].append(value)
            for name, value in traits(motion_track(found_FP3)).items():
                self.seen[name].append(value)


def prompts(media: Path, split: str, mesher: FaceMesher, count: int) -> list[tuple[Portrait, np.ndarray]]:
    """(portrait, three seconds of speech): different people, different voices as long as there are some."""
    speech, portraits = (
        files_of("prompts", split, kind="speech"),
        files_of("prompts", split, kind="portraits"),
    )
    one_each = list({person: file for file, person in sorted(speech.items())}.values())
    found: list[tuple[Portrait, np.ndarray]] = []
    for file in sorted(portraits):
        if len(found) == count:
            break
        wav_T = read_audio(media / one_each[len(found) % len(one_each)])[: SECONDS * SAMPLE_RATE]
        try:
            found.append((load_portrait(media / file, mesher=mesher), wav_T))
        except MediaError:
            continue  # a portrait that cannot be animated is no prompt
    return found


def wins(real: Mapping[str, Sequence[float]], base: Sequence[float]) -> float:
    """Probability that a real figure is above the base's; people weigh alike, ties count half."""
    base_N = np.array(base)
    return float(
        np.mean(
            [np.mean([(v > base_N).mean() + (v == base_N).mean() / 2 for v in own]) for own in real.values()]
        )
    )


def order(table: Sequence[Sequence[float]]) -> float:
    """Share of neighbouring grades of one clip where the stronger fault does not score higher."""
    steps = np.diff(np.array(table), axis=1)
    return float((steps <= 1e-6).mean())


def graded(measurer: Measurer, chosen: Sequence[tuple[Portrait, np.ndarray]]) -> dict[str, dict]:
    """Fault -> dimension, strengths, mean score by strength, share of steps in the right order."""
    generator = measurer.generator
    basis, scale_C1 = generator.codec.basis, generator.scale_C111[:, :, 0, 0].numpy()
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for n, (portrait, wav_T) in enumerate(chosen):
        x_CFHW = generator.sample(generator.encode_prompt(portrait, wav_T), n, SamplerSettings())
        x_CF = x_CFHW[:, :, 0, 0].numpy() * scale_C1
        clean_FP3 = basis.decode(x_CF, portrait.mesh_P3)
        for name, (dimension, fault, strengths) in MOTION.items():
            row = []
            for strength in strengths:
                mesh_FP3 = basis.decode(
                    fault(x_CF, basis, np.random.default_rng(n), strength), portrait.mesh_P3
                )
                frames_FHW3 = render(portrait, mesh_FP3)
                measurer.compare_traits(mesh_FP3, frames_FHW3)
                row.append(measurer.figures(frames_FHW3, wav_T, portrait)[dimension])
            scores[name].append([-3.0 if value is None else value for value in row])
        clean_FHW3 = render(portrait, clean_FP3)
        for name, (dimension, spoil, strengths) in PICTURE.items():
            row = [
                measurer.figures(spoil(clean_FHW3, np.random.default_rng(n), s), wav_T, portrait)[dimension]
                for s in strengths
            ]
            scores[name].append([-1.0 if value is None else value for value in row])
        row = [measurer.figures(clean_FHW3, wav_T, portrait)["vq"]]
        for strength in CRUMPLE:
            frames_FHW3 = render(portrait, crumple(clean_FP3, np.random.default_rng(n), strength))
            row.append(measurer.figures(frames_FHW3, wav_T, portrait)["vq"])
        scores["crumple"].append([-1.0 if value is None else value for value in row])
        print(f"graded {n + 1} of {len(chosen)}", flush=True)
    kinds = {name: (d, list(s)) for name, (d, _, s) in (*MOTION.items(), *PICTURE.items())}
    kinds["crumple"] = ("vq", ["none", *CRUMPLE])
    return {
        name: {
            "dimension": kinds[name][0],
            "strengths": kinds[name][1],
            "mean": np.mean(table, axis=0).round(4).tolist(),
            "in_order": order(table),
        }
        for name, table in scores.items()
    }


def real_figures(measurer: Measurer, media: Path, cache: Path) -> dict[str, list[dict[str, float | None]]]:
    """Person -> figures of the pieces of the judges' test people."""
    found: dict[str, list[dict[str, float | None]]] = defaultdict(list)
    for file, person in sorted(files_of("judges", "test", kind="clips").items()):
        for piece in read_tracked(media / file, person, cache, measurer.mesher):
            found[person].append(measurer.figures(piece.frames_FHW3, piece.wav_T, piece.portrait))
    return found


def closure(figures: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    heard = sum(f.get("bilabials") or 0 for f in figures)
    closed = sum((f.get("bilabials") or 0) * (f.get("bilabial_closure") or 0) for f in figures)
    return {"heard": heard, "closed": closed / heard if heard else float("nan")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--graded", type=int, default=6)
    arguments = parser.parse_args()
    measurer = Measurer()
    chosen = prompts(arguments.media, "test", measurer.mesher, arguments.prompts)
    seeds: list[list[dict[str, float | None]]] = []
    for seed in (0, 1):
        rows = []
        for n, (portrait, wav_T) in enumerate(chosen):
            condition = measurer.generator.encode_prompt(portrait, wav_T)
            x_CFHW = measurer.generator.sample(condition, 1000 * seed + n, SamplerSettings())
            rows.append(measurer.figures(measurer.generator.decode(portrait, x_CFHW), wav_T, portrait))
        seeds.append(rows)
        print(f"base, seed {seed}", flush=True)
    real = real_figures(measurer, arguments.media, arguments.cache)
    base = seeds[0]
    film = {name: {p: rows for p, rows in real.items() if p.startswith(name)} for name in ("wild", "grid")}
    beats = {}
    for figure, against in (
        ("mn", "mn"),
        ("ls", "ls"),
        ("ls_best", "ls"),
        ("ls_best", "ls_best"),
        ("vq", "vq"),
    ):
        own = [row[against] for row in base if row[against] is not None]
        beats[f"{figure} against {against}"] = {
            name: {
                "p": wins(
                    {p: [r[figure] for r in rows if r[figure] is not None] for p, rows in people.items()}, own
                ),
                "real": float(np.mean([np.mean([r[figure] for r in rows]) for rows in people.values()])),
                "base": float(np.mean(own)),
            }
            for name, people in (("everybody", real), *film.items())
        }
    noise = {}
    for dimension in DIMENSIONS:
        pairs = [(a[dimension], b[dimension]) for a, b in zip(*seeds, strict=True)]
        difference = np.array([a - b for a, b in pairs if a is not None and b is not None])
        spread = float(difference.std(ddof=1))
        n = len(difference)
        reach = (t.ppf(0.975, n - 1) + norm.ppf(0.8)) / np.sqrt(n)
        noise[dimension] = {"paired_sd": spread, "n": n, "detectable": float(reach * spread)}
    result = {
        "base": measurer.generator.fingerprint,
        "judge": measurer.judge.fingerprint,
        "people": {person: len(rows) for person, rows in real.items()},
        "beats": beats,
        "bilabials": {"base": closure(base), "real": closure([r for rows in real.values() for r in rows])},
        "floor": noise,
        "graded": graded(measurer, chosen[: arguments.graded]),
    }
    result["mesh_r"] = {
        name: float(np.corrcoef(values, measurer.seen[name])[0, 1])
        for name, values in measurer.driven.items()
    }
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
