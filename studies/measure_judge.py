"""How good the judge is on real clips that it never saw: in sync against shifted and wrong sound, natural
against spoiled motion.

    python studies/measure_judge.py --media FOLDER [--clips NAME ...]

FOLDER/clips holds talking clips. Two judges are measured on those that are not GRID clips: the one in the
package (fitted on 9 s of GRID), and one fitted on the folder itself with the measured speaker left out, which
is what `evaluation.reference_clips` does. P(beats) is the share of comparisons in which the right sound has
the higher correlation: 0.5 is chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ft2ray.evaluation.judge import Judge, RealClip, fit_parts
from ft2ray.evaluation.lipsync import HOP, MAX_LAG, MIN_SHIFT, WINDOW, apply_ridges, correlation
from ft2ray.evaluation.motion import MotionReference, MotionTrack, naturalness
from ft2ray.evaluation.real_clips import SUFFIXES, read_real_clips

LAGS = [lag for lag in range(-MAX_LAG, MAX_LAG + 1) if abs(lag) >= MIN_SHIFT]

# The tracker's own noise is never absent from pixels, not even when nothing moves.
TRACKER_NOISE = {
    "rotation_F3": 0.05,
    "position_F2": 3e-4,
    "brows_F": 3e-4,
    "lids_F": 5e-3,
    "mouth_F": 3e-4,
    "width_F": 3e-4,
}


def sync_figures(clips: Sequence[RealClip], predicted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean r at lag 0 over 3 s windows, P(beats shifted by 0.2 to 0.6 s), P(beats another clip's sound)."""
    aligned, shifted_wins, wrong_wins, wrong = [], [], [], []
    for clip in clips:
        own_F, seen_F = predicted[clip.name], clip.mouth_F
        for start in range(0, max(len(seen_F) - WINDOW, 0) + 1, HOP):
            window_W = seen_F[start : start + WINDOW]
            r = correlation(own_F[start : start + WINDOW], window_W)
            aligned.append(r)
            for lag in LAGS:
                if start + lag >= 0 and start + lag + WINDOW <= len(own_F):
                    shifted_wins.append(r > correlation(own_F[start + lag : start + lag + WINDOW], window_W))
            for other in clips:
                if other.name != clip.name and len(predicted[other.name]) >= WINDOW == len(window_W):
                    wrong.append(correlation(predicted[other.name][:WINDOW], window_W))
                    wrong_wins.append(r > wrong[-1])
    return {
        "r": float(np.nanmean(aligned)),
        "wrong r": float(np.nanmean(wrong)),
        "P(beats shifted)": float(np.mean(shifted_wins)),
        "P(beats wrong)": float(np.mean(wrong_wins)),
    }


def predictions(clips: Sequence[RealClip], judge: Judge | None) -> dict[str, dict[str, np.ndarray]]:
    """Predictor -> clip -> curve; without a judge each speaker is predicted by a fit on the others."""
    curves: dict[str, dict[str, np.ndarray]] = {}
    for clip in clips:
        ridges = judge.ridges if judge else fit_parts(_others(clips, clip))[0]
        both_F = apply_ridges(ridges, clip.features)
        found = {f"{ridge.kind} ridge": ridge.apply(clip.features[ridge.kind]) for ridge in ridges}
        found |= {
            "ridges": both_F,
            "phones": clip.phones_F,
            "ridges + phones": _z(both_F) + _z(clip.phones_F),
        }
        for name, curve_F in found.items():
            curves.setdefault(name, {})[clip.name] = curve_F
    return curves


def _others(clips: Sequence[RealClip], clip: RealClip) -> list[RealClip]:
    return [other for other in clips if other.speaker != clip.speaker]


def _z(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def spoiled(track: MotionTrack, kind: str, generator: np.random.Generator) -> MotionTrack:
    """A track with a fault: what a lifeless, shaking or robotic renderer would show to the mesh."""
    frames = len(track.mouth_F)
    if kind == "frozen":
        index = np.zeros(frames, int)
    elif kind == "robotic":
        index = np.arange(frames) // 8 * 8
    elif kind == "shuffled":
        index = generator.permutation(frames)
    else:
        index = np.arange(frames)
    moved = {name: getattr(track, name)[index] for name in TRACKER_NOISE}
    if kind == "still head":
        for name in ("rotation_F3", "position_F2", "brows_F", "lids_F"):
            moved[name] = np.repeat(moved[name][:1], frames, axis=0)
    if kind == "shaking":
        moved["rotation_F3"] = moved["rotation_F3"] + generator.normal(0, 1.0, moved["rotation_F3"].shape)
        moved["position_F2"] = moved["position_F2"] + generator.normal(0, 0.01, moved["position_F2"].shape)
    if kind in ("frozen", "robotic", "still head"):
        for name, values in moved.items():
            moved[name] = values + generator.normal(0, TRACKER_NOISE[name], values.shape)
    return replace(track, **moved)


def motion_figures(clips: Sequence[RealClip], references: Mapping[str, MotionReference]) -> dict[str, str]:
    """Fault -> "mean score (share of clips that score below their own unspoiled version)"."""
    real = {clip.name: naturalness(clip.motion, references[clip.name])[0] for clip in clips}
    row = {"real": f"{np.mean(list(real.values())):.2f}"}
    for kind in ("frozen", "still head", "shaking", "robotic", "shuffled"):
        generator = np.random.default_rng(0)
        scores = {
            c.name: naturalness(spoiled(c.motion, kind, generator), references[c.name])[0] for c in clips
        }
        below = np.mean([scores[name] < real[name] for name in real])
        row[kind] = f"{np.mean(list(scores.values())):.2f} ({below:.0%})"
    return row


def table(title: str, rows: Mapping[str, Mapping[str, float | str]]) -> None:
    """Print rows as a Markdown table."""
    columns = list(next(iter(rows.values())))
    print(f"\n| {title} | " + " | ".join(columns) + " |\n|---" * 1 + "|---" * len(columns) + "|")
    for name, row in rows.items():
        cells = [value if isinstance(value, str) else f"{value:.3f}" for value in row.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--clips", nargs="*", help="file names; default: every clip that is not from GRID")
    arguments = parser.parse_args()
    folder = arguments.media / "clips"
    names = arguments.clips or [p.name for p in sorted(folder.iterdir()) if not p.name.startswith("grid_")]
    paths = [folder / name for name in names if Path(name).suffix.lower() in SUFFIXES]
    clips, refused = read_real_clips(paths)
    seconds = sum(len(clip.mouth_F) for clip in clips) / 25
    people = len({clip.speaker for clip in clips})
    print(f"{len(clips)} clips, {people} people, {seconds:.0f} s; refused: {refused or 'none'}")
    judge = Judge.load()
    for title, fitted in (("packaged judge", judge), ("fitted on the folder, speaker left out", None)):
        curves = predictions(clips, fitted)
        table(title, {name: sync_figures(clips, curve) for name, curve in curves.items()})
    packaged = {clip.name: judge.motion for clip in clips}
    others = {clip.name: fit_parts(_others(clips, clip))[1] for clip in clips}
    rows = {
        "packaged judge": motion_figures(clips, packaged),
        "speaker left out": motion_figures(clips, others),
    }
    table("motion naturalness", rows)
    columns = ("vq", "identity", "identity_cosine", "sharpness", "texture", "steadiness")
    table("real clips, quality", {c.name: {name: c.quality[name] for name in columns} for c in clips})


if __name__ == "__main__":
    main()
