"""The real media behind the critic's clips: faces, recordings, talking clips.

The manifest beside the media says what each file may be used for; nothing marked `measure` can
reach training, because one call reads one use only.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ft2ray.errors import DataError, MediaError
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.audio import read_audio
from ft2ray.media.face import FaceMesher, eye_opening, mouth_gap
from ft2ray.media.portrait import Portrait, load_portrait
from ft2ray.media.speech import SpeechEncoder
from ft2ray.media.video import read_video
from recipes.embedded.motion_sources import RealClip, Recording, at_speed, real_clip


@dataclass(frozen=True, eq=False)
class Media:
    """Everything that clips are made from."""

    faces: list[Portrait]
    recordings: list[Recording]
    clips: list[RealClip]

    @property
    def sounds(self) -> dict[str, np.ndarray]:
        """Every recording's samples by name, those of the talking clips included."""
        every = [*self.recordings, *(clip.recording for clip in self.clips)]
        return {recording.name: recording.wav_T for recording in every}


def listed(root: Path, use: str, folder: str) -> list[Path]:
    """Files of one folder that the manifest marks with `use`.

    Raises:
        ValueError: if there is no manifest.
    """
    manifest = root / "manifest.csv"
    if not manifest.is_file():
        raise DataError(f"no {manifest}; give the folder of real media that holds manifest.csv")
    with manifest.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [root / row["file"] for row in rows if row["use"] == use and row["file"].startswith(f"{folder}/")]


def talking_clips(
    paths: Sequence[Path], mesher: FaceMesher, encoder: SpeechEncoder, basis: MotionBasis
) -> list[RealClip]:
    """Track and encode clips; those where the face is lost at any moment are left out."""
    clips = []
    for path in paths:
        frames, wav_T = read_video(path)
        mesh_FP3 = mesher.track(frames)
        if wav_T is not None and np.isfinite(mesh_FP3).all():
            clips.append(real_clip(path.stem, mesh_FP3, wav_T, encoder, basis))
    return clips


def recordings(
    paths: Sequence[Path], encoder: SpeechEncoder, speeds: Sequence[float] = (1.0,)
) -> list[Recording]:
    """Read and encode recordings, each at every speed."""
    sounds = {path.stem: read_audio(path) for path in paths}
    return [at_speed(name, wav_T, speed, encoder) for name, wav_T in sounds.items() for speed in speeds]


def faces_of_clips(paths: Sequence[Path], cache: Path, mesher: FaceMesher, size: int = 256) -> list[Portrait]:
    """A portrait of each clip's person: the frame with the most closed mouth and the most open eyes."""
    cache.mkdir(parents=True, exist_ok=True)
    faces = []
    for path in paths:
        frames, _ = read_video(path)
        mesh_FP3 = mesher.track(frames)
        rest = int(np.nanargmin(3 * mouth_gap(mesh_FP3) - eye_opening(mesh_FP3)))
        picture = cache / f"{path.stem}.png"
        cv2.imwrite(str(picture), frames[rest][..., ::-1])
        faces.append(load_portrait(picture, size, mesher))
    return faces


def faces_of_pictures(paths: Sequence[Path], mesher: FaceMesher, size: int = 256) -> list[Portrait]:
    """The usable portraits among pictures; those that cannot be animated (an open mouth) are left out."""
    faces = []
    for path in paths:
        try:
            faces.append(load_portrait(path, size, mesher))
        except MediaError as error:
            print(f"left out: {error}")
    return faces
