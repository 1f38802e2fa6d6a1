"""How valid the measures are: python studies/validity.py MEDIA --cache FOLDER [--prompts 24] [--graded 6].

Writes studies/results/validity.json, and docs/yardsticks.md holds its tables (studies/yardsticks.py). Real
film is that of the judges' test people (studies/split.csv), whom no choice has seen, in pieces of three
seconds; generated clips are of both bases, sampled without guidance as the study samples them, on the test
portraits and test speech. What is measured is kept in FOLDER: the same command goes on where it stopped, and
the results are written after every stage.

- beats: probability that a real piece scores above a clip of the base (ties count half), every person with
  the same weight; for lip-sync also with every piece, real or not, at its own best lag, as film from the web
  is out of step.
- told_apart: the same question to a classifier on all traits of motion, fitted on these very clips with the
  person and the prompt in question left out (studies/realism.py); 0.5 = cannot be told apart.
- graded: mean figures of clips of the uncurated base with a fault of growing strength (the first grade is
  none), and the share of neighbouring grades of one clip that are in the right order in the dimension at
  which the fault aims.
- mesh_r: correlation of each trait on the driving mesh and on the mesh found again in the pixels, over all
  these clips and faults.
- floor: standard deviation of the paired difference of two seeds of the uncurated base per prompt, and the
  smallest gain that 24 prompts show with a power of 80 %.

Shape suffixes: C channels, F frames, H height, W width, 3 rgb.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, t

from ft2ray.errors import MediaError
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.measure import measure_clip
from ft2ray.evaluation.motion import loudness, motion_track, traits
from ft2ray.evaluation.observation import RATE, phone_curve
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.portrait.warp import render
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.face import FaceMesher, mouth_gap
from ft2ray.media.portrait import Portrait, load_portrait
from ft2ray.storage import write_atomically
from recipes.embedded.faults import crumple
from studies.graded_faults import CRUMPLE, MOTION, PICTURE, Picture
from studies.make_split import files_of
from studies.realism import told_apart
from studies.tracked import Tracked, read_tracked

OUT = Path(__file__).with_name("results") / "validity.json"
SECONDS = 3
DIMENSIONS = ("mn", "ls", "vq")
BASES = {"uncurated": "embedded-uncurated", "curated": "embedded"}
SAMPLING = SamplerSettings(audio_scale=1.0)
UNMEASURED = {"mn": -3.0, "ls": -1.0, "vq": -1.0}
"""What a clip gets that is spoilt so much that it cannot be measured: the worst."""
POWER_PROMPTS = 24
Clip = tuple[np.ndarray, np.ndarray, Portrait, np.ndarray | None]
"""frames_FHW3, wav_T, the portrait, and the driving mesh_FP3 where there is one."""


class Measurer:
    """The judge and the mesher of this process, and what was measured so far (a JSON file in FOLDER)."""

    def __init__(self, cache: Path) -> None:
        torch.set_num_threads(1)
        self.judge, self.mesher = Judge.load(), FaceMesher()
        self.file = cache / f"validity-{self.judge.fingerprint}.json"
        self.rows: dict[str, dict[str, Any]] = (
            json.loads(self.file.read_text()) if self.file.is_file() else {}
        )

    def row(self, key: str, make: Callable[[], Clip]) -> dict[str, Any]:
        """The figures of a clip: those kept under `key`, or of the clip that `make` returns."""
        if key not in self.rows:
            frames_FHW3, wav_T, portrait, driving_FP3 = make()
            found = measure_clip(frames_FHW3, wav_T, RATE, portrait, self.judge, self.mesher)
            figures: dict[str, Any] = {**found.metrics(), "traits": found.traits}
            if driving_FP3 is not None:
                loudness_F = loudness(wav_T, len(driving_FP3))
                figures["driving"] = traits(motion_track(driving_FP3), loudness_F)
            self.rows[key] = figures
            write_atomically(self.file, json.dumps(self.rows).encode())
        return self.rows[key]


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


def sampled(
    generator: PortraitGenerator, portrait: Portrait, wav_T: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Motion x_CF and the driving mesh_FP3 of one clip."""
    x_CFHW = generator.sample(generator.encode_prompt(portrait, wav_T), seed, SAMPLING)
    x_CF = (x_CFHW * generator.scale_C111)[:, :, 0, 0].numpy()
    return x_CF, generator.codec.basis.decode(x_CF, portrait.mesh_P3)


def average_mouth(x_CF: np.ndarray, basis: MotionBasis, wav_T: np.ndarray) -> np.ndarray:
    """The same motion with lips that do nothing but open by the phone table, as far as they did before."""
    x_CF, first = x_CF.copy(), range(x_CF.shape[0])[basis.mouth][0]
    curve_F = phone_curve(wav_T, x_CF.shape[1])
    spread, x_CF[basis.mouth] = x_CF[first].std(), 0.0
    opening_C = np.zeros(x_CF.shape[0])
    opening_C[first] = 1.0
    face_P3 = 100 * basis.canonical_P3
    closed, opened = mouth_gap(basis.decode(np.stack([0 * opening_C, opening_C], axis=1), face_P3))
    x_CF[first] = np.sign(opened - closed) * spread * (curve_F - curve_F.mean()) / curve_F.std()
    return x_CF


def base_rows(
    measurer: Measurer, name: str, weights: str, chosen: Sequence[tuple[Portrait, np.ndarray]], seed: int
) -> list[dict[str, Any]]:
    """Figures of one base on every prompt."""
    generator = PortraitGenerator.load(weights)

    def clip(n: int) -> Clip:
        portrait, wav_T = chosen[n]
        return driven(portrait, wav_T, sampled(generator, portrait, wav_T, 1000 * seed + n)[1])

    return [
        measurer.row(f"{name}:{generator.fingerprint}:{seed}:{n}", partial(clip, n))
        for n in range(len(chosen))
    ]


def driven(portrait: Portrait, wav_T: np.ndarray, mesh_FP3: np.ndarray) -> Clip:
    return render(portrait, mesh_FP3), wav_T, portrait, mesh_FP3


def shown(
    portrait: Portrait,
    wav_T: np.ndarray,
    spoil: Picture,
    frames_FHW3: np.ndarray,
    rng: np.random.Generator,
    strength: float,
) -> Clip:
    return spoil(frames_FHW3, rng, strength), wav_T, portrait, None


def graded_rows(
    measurer: Measurer, chosen: Sequence[tuple[Portrait, np.ndarray]]
) -> dict[str, list[list[dict[str, Any]]]]:
    """Fault -> clip -> figures by strength; "average mouth" has two grades, as sampled and replaced."""
    generator = PortraitGenerator.load(BASES["uncurated"])
    basis = generator.codec.basis
    found: dict[str, list[list[dict[str, Any]]]] = defaultdict(list)
    for n, (portrait, wav_T) in enumerate(chosen):
        x_CF, clean_FP3 = sampled(generator, portrait, wav_T, n)
        key = f"graded:{generator.fingerprint}:{n}"

        for name, (_, fault, strengths) in MOTION.items():
            meshes = [
                basis.decode(fault(x_CF, basis, np.random.default_rng(n), s), portrait.mesh_P3)
                for s in strengths
            ]
            found[name].append(
                [
                    measurer.row(f"{key}:{name}:{s}", partial(driven, portrait, wav_T, mesh_FP3))
                    for s, mesh_FP3 in zip(strengths, meshes, strict=True)
                ]
            )
        clean = measurer.row(f"{key}:clean", partial(driven, portrait, wav_T, clean_FP3))
        average_FP3 = basis.decode(average_mouth(x_CF, basis, wav_T), portrait.mesh_P3)
        average = measurer.row(f"{key}:average", partial(driven, portrait, wav_T, average_FP3))
        found["average mouth"].append([clean, average])
        clean_FHW3 = render(portrait, clean_FP3)
        for name, (_, spoil, strengths) in PICTURE.items():
            found[name].append(
                [
                    measurer.row(
                        f"{key}:{name}:{s}",
                        partial(shown, portrait, wav_T, spoil, clean_FHW3, np.random.default_rng(n), s),
                    )
                    for s in strengths
                ]
            )
        crumpled = [crumple(clean_FP3, np.random.default_rng(n), s) for s in CRUMPLE]
        found["crumple"].append(
            [
                clean,
                *(
                    measurer.row(f"{key}:crumple:{s}", partial(driven, portrait, wav_T, mesh_FP3))
                    for s, mesh_FP3 in zip(CRUMPLE, crumpled, strict=True)
                ),
            ]
        )
        print(f"graded {n + 1} of {len(chosen)}", flush=True)
    return found


KINDS: Mapping[str, tuple[str, Sequence[Any]]] = {
    **{
        name: (dimension, strengths)
        for name, (dimension, _, strengths) in (*MOTION.items(), *PICTURE.items())
    },
    "crumple": ("vq", ("none", *CRUMPLE)),
    "average mouth": ("ls", ("as sampled", "phone table")),
}


def summary_of_grades(rows: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, dict]:
    """Fault -> its dimension and strengths, mean figures by strength, share of steps in the right order."""
    table = {}
    for name, clips in rows.items():
        dimension, strengths = KINDS[name]
        values = {
            d: [[UNMEASURED[d] if row[d] is None else row[d] for row in clip] for clip in clips]
            for d in DIMENSIONS
        }
        table[name] = {
            "dimension": dimension,
            "strengths": list(strengths),
            "mean": {d: np.mean(own, axis=0).round(4).tolist() for d, own in values.items()},
            "in_order": order(values[dimension]),
            "clips": len(clips),
        }
    return table


def shown_as_is(piece: Tracked) -> Clip:
    return piece.frames_FHW3, piece.wav_T, piece.portrait, None


def real_rows(measurer: Measurer, media: Path, cache: Path) -> dict[str, list[dict[str, Any]]]:
    """Person -> figures of the pieces of the judges' test people."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file, person in sorted(files_of("judges", "test", kind="clips").items()):
        for piece in read_tracked(media / file, person, cache, measurer.mesher):
            found[person].append(
                measurer.row(
                    f"real:{piece.name}",
                    partial(shown_as_is, piece),
                )
            )
    return found


def closure(figures: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    heard = sum(f.get("bilabials") or 0 for f in figures)
    closed = sum((f.get("bilabials") or 0) * (f.get("bilabial_closure") or 0) for f in figures)
    return {"heard": heard, "closed": closed / heard if heard else float("nan")}


def beats(
    real: Mapping[str, Sequence[Mapping[str, Any]]], base: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Figure -> whose film -> {p, real, base}."""
    film = {name: {p: rows for p, rows in real.items() if p.startswith(name)} for name in ("wild", "grid")}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for figure in ("mn", "ls", "ls_best", "ls_correlation", "ls_phones", "vq"):
        own = [row[figure] for row in base if row[figure] is not None]
        table[figure] = {}
        for name, people in (("everybody", real), *film.items()):
            known = {p: [r[figure] for r in rows if r[figure] is not None] for p, rows in people.items()}
            known = {p: values for p, values in known.items() if values}
            table[figure][name] = {
                "p": wins(known, own),
                "real": float(np.mean([np.mean(values) for values in known.values()])),
                "base": float(np.mean(own)),
            }
    return table


def noise_floor(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """Dimension -> SD of a prompt's difference between two seeds, and what POWER_PROMPTS prompts show."""
    floor = {}
    for dimension in DIMENSIONS:
        pairs = [(a[dimension], b[dimension]) for a, b in zip(*seeds, strict=True)]
        difference_N = np.array([a - b for a, b in pairs if a is not None and b is not None])
        spread, n = float(difference_N.std(ddof=1)), len(difference_N)
        reach = (t.ppf(0.975, POWER_PROMPTS - 1) + norm.ppf(0.8)) / np.sqrt(POWER_PROMPTS)
        floor[dimension] = {"paired_sd": spread, "n": n, "detectable": float(reach * spread)}
    return floor


def mesh_agreement(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Trait -> correlation between driving mesh and pixels."""
    both = [(row["driving"], row["traits"]) for row in rows if "driving" in row and row["traits"]]
    names = sorted({name for driving, _ in both for name in driving})
    return {
        name: float(
            np.corrcoef(np.array([(d[name], s[name]) for d, s in both if name in d and name in s]).T)[0, 1]
        )
        for name in names
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--graded", type=int, default=6)
    arguments = parser.parse_args()
    measurer = Measurer(arguments.cache)
    chosen = prompts(arguments.media, "test", measurer.mesher, arguments.prompts)
    real = real_rows(measurer, arguments.media, arguments.cache)
    result: dict[str, Any] = {
        "judge": measurer.judge.fingerprint,
        "people": {person: len(rows) for person, rows in real.items()},
        "bilabials": {"real": closure([row for rows in real.values() for row in rows])},
        "bases": {},
    }
    for name, weights in BASES.items():
        base = base_rows(measurer, name, weights, chosen, 0)
        result["bilabials"][name] = closure(base)
        result["bases"][name] = {
            "fingerprint": PortraitGenerator.fingerprint_of(weights),
            "clips": len(base),
            "beats": beats(real, base),
            "told_apart": told_apart(
                {
                    p: [row["traits"] for row in rows if row["traits"]]
                    for p, rows in real.items()
                    if p.startswith("wild")
                },
                {str(n): [row["traits"]] for n, row in enumerate(base) if row["traits"]},
            ),
        }
        write(result)
    faults = graded_rows(measurer, chosen[: arguments.graded])
    result["graded"] = summary_of_grades(faults)
    result["mesh_r"] = mesh_agreement([row for clips in faults.values() for clip in clips for row in clip])
    write(result)
    uncurated = [base_rows(measurer, "uncurated", BASES["uncurated"], chosen, seed) for seed in (0, 1)]
    result["floor"] = noise_floor(uncurated)
    write(result)


def write(result: Mapping[str, Any]) -> None:
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{OUT.name}: {', '.join(result)}", flush=True)


if __name__ == "__main__":
    main()
