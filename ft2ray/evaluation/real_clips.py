"""Real talking clips turned into the numbers that a judge is fitted on.

Shape suffixes: F frames, D descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ft2ray.errors import DataError, MediaError
from ft2ray.evaluation.identity import SAME_PERSON, descriptor
from ft2ray.evaluation.judge import Judge, RealClip, fit_judge
from ft2ray.evaluation.lipsync import KINDS
from ft2ray.evaluation.motion import loudness, motion_track
from ft2ray.evaluation.observation import RATE, crop_head, feature_curve, observe, phone_curve
from ft2ray.evaluation.quality import measure_quality, portrait_figures
from ft2ray.media.face import FaceMesher, mouth_gap
from ft2ray.media.portrait import Portrait
from ft2ray.media.video import read_video

SUFFIXES = (".mp4", ".mpg", ".mov", ".mkv", ".avi", ".webm")
MIN_FRAMES = 50


def read_real_clip(path: Path, mesher: FaceMesher) -> tuple[RealClip, np.ndarray]:
    """Read, crop and observe one real clip.

    Returns:
        the clip with its name as speaker, and its face descriptor_D for `name_speakers`.
    Raises:
        MediaError: unreadable, no_audio, no_face, too_short.
    """
    frames_FHW3, wav_T = read_video(path, fps=RATE)
    if wav_T is None:
        raise MediaError("no_audio", f"{path.name} has no sound track; a real talking clip needs its sound.")
    if len(frames_FHW3) < MIN_FRAMES:
        raise MediaError("too_short", f"{path.name} has {len(frames_FHW3)} frames, {MIN_FRAMES} are needed.")
    cut_FHW3 = crop_head(frames_FHW3, mesher)
    seen = None if cut_FHW3 is None else observe(mesher.track(cut_FHW3), RATE)
    if cut_FHW3 is None or seen is None:
        raise MediaError("no_face", f"{path.name}: no face could be followed through the clip.")
    closed = int(np.argmin(mouth_gap(seen.mesh_FP3)))
    portrait = Portrait(cut_FHW3[closed], seen.mesh_FP3[closed], path.stem)
    clip = real_clip(path.stem, path.stem, cut_FHW3, seen.mesh_FP3, wav_T, portrait)
    return clip, descriptor(cut_FHW3[closed], seen.mesh_FP3[closed])


def real_clip(
    name: str,
    speaker: str,
    frames_FHW3: np.ndarray,
    mesh_FP3: np.ndarray,
    wav_T: np.ndarray,
    portrait: Portrait,
) -> RealClip:
    """The numbers of a tracked clip at 25 fps, its picture measured against a portrait of the same person."""
    motion = motion_track(mesh_FP3)
    frames = len(motion.mouth_F)
    quality = measure_quality(frames_FHW3, mesh_FP3, portrait_figures(portrait))
    return RealClip(
        name=name,
        speaker=speaker,
        motion=motion,
        features={kind: feature_curve(wav_T, frames, kind) for kind in KINDS},
        phones_F=phone_curve(wav_T, frames),
        loudness_F=loudness(wav_T, frames),
        quality={"vq": quality.score, **asdict(quality)},
    )


def name_speakers(descriptors: Sequence[np.ndarray]) -> list[str]:
    """Speaker of each clip: descriptors within the same-person distance share one (chains join)."""
    labels = list(range(len(descriptors)))
    for i, a_D in enumerate(descriptors):
        for j in range(i):
            if np.linalg.norm(a_D - descriptors[j]) < SAME_PERSON and labels[i] != labels[j]:
                labels = [labels[j] if label == labels[i] else label for label in labels]
    return [f"speaker{label}" for label in labels]


def read_real_clips(paths: Sequence[Path]) -> tuple[list[RealClip], dict[str, str]]:
    """Read clips and tell their speakers apart by face.

    Returns:
        usable clips, and file name -> reason for the others.
    """
    mesher, clips, descriptors, refused = FaceMesher(), [], [], {}
    for path in paths:
        try:
            clip, face_D = read_real_clip(path, mesher)
        except MediaError as error:
            refused[path.name] = f"{error.reason}: {error}"
            continue
        clips.append(clip)
        descriptors.append(face_D)
    speakers = name_speakers(descriptors)
    named = [replace(clip, speaker=speaker) for clip, speaker in zip(clips, speakers, strict=True)]
    return named, refused


def fit_folder(folder: Path) -> Judge:
    """A judge from a folder of real talking clips; the clips' own sound serves as wrong audio for others.

    Raises:
        ValueError: fewer than two people in usable clips, with the reason for each file that was refused.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    clips, refused = read_real_clips(paths)
    try:
        return fit_judge(clips, [clip.features for clip in clips], f"{len(clips)} clips in {folder.name}")
    except DataError as error:
        reasons = "; ".join(refused.values()) or "no other files"
        raise DataError(f"{folder} cannot serve as reference clips: {error} ({reasons})") from error
