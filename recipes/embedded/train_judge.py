"""Fit the packaged judge: python -m recipes.embedded.train_judge --media FOLDER --cache FOLDER.

FOLDER holds manifest.csv and the media that it lists. studies/split.csv says who belongs to the judges:
`train`
people are fitted, `test` people (whom nothing learns from) give the real-video figures of the reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ft2ray.evaluation.judge import EMBEDDED, RealClip, fit_judge, real_figures
from ft2ray.evaluation.lipsync import KINDS
from ft2ray.evaluation.observation import RATE, feature_curve
from ft2ray.evaluation.real_clips import real_clip
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.face import FaceMesher
from studies.make_split import files_of
from studies.tracked import read_tracked

DECOY_SECONDS = 6


def decoys_of(paths: Sequence[Path]) -> list[dict[str, np.ndarray]]:
    """Features by kind of the first seconds of recordings."""
    frames = int(DECOY_SECONDS * RATE)
    found = []
    for path in paths:
        wav_T = read_audio(path)[: DECOY_SECONDS * SAMPLE_RATE]
        if len(wav_T) == DECOY_SECONDS * SAMPLE_RATE:
            found.append({kind: feature_curve(wav_T, frames, kind) for kind in KINDS})
    return found


def read(media: Path, split: str, cache: Path) -> list[RealClip]:
    """The judges' film of one split, in pieces of three seconds."""
    mesher = FaceMesher()
    return [
        real_clip(piece.name, person, piece.frames_FHW3, piece.mesh_FP3, piece.wav_T, piece.portrait)
        for file, person in sorted(files_of("judges", split, kind="clips").items())
        for piece in read_tracked(media / file, person, cache, mesher)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True, help="folder for tracked film")
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    decoys = decoys_of([arguments.media / f for f in sorted(files_of("judges", "train", kind="speech"))])
    clips = read(arguments.media, "train", arguments.cache)
    others = read(arguments.media, "test", arguments.cache)
    judge = fit_judge(clips, decoys, f"{len(clips)} clips of the GRID corpus, 2 speakers")
    judge = replace(
        judge,
        real={f"{clip.speaker}/{n}": real_figures(clip, judge.ridges) for n, clip in enumerate(others)},
    )
    judge.save(arguments.out)
    for name, figures in judge.real.items():
        print(name, {key: round(value, 3) for key, value in figures.items()})
    print(f"{arguments.out} written, fingerprint {judge.fingerprint}")


if __name__ == "__main__":
    main()
