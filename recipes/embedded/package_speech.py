"""Speech of the package's evaluation: python -m recipes.embedded.package_speech MEDIA OUT.

One piece of SECONDS of every reader of the role `package` (studies/split.csv), from where they begin to
speak, as 16 kHz FLAC. All are CC BY 4.0; ft2ray/assets/ATTRIBUTION.md names them.

Shape suffixes: T audio samples.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import av
import numpy as np

from ft2ray.media.audio import SAMPLE_RATE, read_audio
from studies.make_split import files_of

SECONDS = 3.2
LEAD = 0.1
LOUD = 0.1
"""Share of the loudest sample that counts as the begin of speech."""


def piece(wav_T: np.ndarray) -> np.ndarray:
    """SECONDS from LEAD before the first sound."""
    first = int(np.argmax(np.abs(wav_T) > LOUD * np.abs(wav_T).max()))
    start = max(0, first - round(LEAD * SAMPLE_RATE))
    return wav_T[start : start + round(SECONDS * SAMPLE_RATE)]


def write_flac(path: Path, wav_T: np.ndarray) -> None:
    """16 bit mono."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        samples_1T = (np.clip(wav_T, -1, 1) * 32767).round().astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples_1T, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    first: dict[str, str] = {}
    for file, person in sorted(files_of("package", "test", kind="speech").items()):
        cut_T = piece(read_audio(arguments.media / file))
        if person not in first and len(cut_T) == round(SECONDS * SAMPLE_RATE):
            first[person] = file
            write_flac(arguments.out / f"{person}.flac", cut_T)


if __name__ == "__main__":
    main()
