"""Fit the judge that the package ships, from the three GRID clips kept for it, and write its model card.

    python -m recipes.embedded.train_judge --media FOLDER

FOLDER holds clips/grid_*.mpg|mp4 (GRID corpus, CC BY 4.0) and speech/libri_*.flac (LibriSpeech, CC BY 4.0).
Only the clips named in CLIPS are read: base generator and critic are trained on the others. LibriSpeech
serves as wrong audio and is not fitted on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ft2ray.errors import DataError
from ft2ray.evaluation.judge import EMBEDDED, fit_judge
from ft2ray.evaluation.lipsync import KINDS
from ft2ray.evaluation.observation import RATE, feature_curve, phone_curve
from ft2ray.evaluation.real_clips import read_real_clips
from ft2ray.media.audio import SAMPLE_RATE, read_audio

CLIPS = ("grid_bbaf2n.mpg", "grid_test_video.mp4", "grid_sbia1a.mpg")
DECOYS = 8
DECOY_SECONDS = 12


def decoys_of(folder: Path) -> list:
    """Features and phone curves of long recordings by different speakers."""
    chosen: dict[str, Path] = {}
    for path in sorted(folder.glob("libri_*.flac")):
        if len(read_audio(path)) >= DECOY_SECONDS * SAMPLE_RATE:
            chosen.setdefault(path.name.split("-")[0], path)
    if len(chosen) < DECOYS:
        raise DataError(
            f"{folder} has {len(chosen)} LibriSpeech speakers with 12 s or more; {DECOYS} are needed."
        )
    frames = int(DECOY_SECONDS * RATE)
    found = []
    for path in list(chosen.values())[:DECOYS]:
        wav_T = read_audio(path)[: DECOY_SECONDS * SAMPLE_RATE]
        found.append(
            ({kind: feature_curve(wav_T, frames, kind) for kind in KINDS}, phone_curve(wav_T, frames))
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--media", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=EMBEDDED)
    arguments = parser.parse_args()
    clips, refused = read_real_clips([arguments.media / "clips" / name for name in CLIPS])
    if refused:
        raise DataError(f"The judge's clips are not usable: {refused}")
    judge = fit_judge(clips, decoys_of(arguments.media / "speech"), "3 clips of the GRID corpus, 2 speakers")
    judge.save(arguments.out)
    for name, figures in judge.real.items():
        print(name, {key: round(value, 3) for key, value in figures.items()})
    print(f"{arguments.out} written, fingerprint {judge.fingerprint}")


if __name__ == "__main__":
    main()
