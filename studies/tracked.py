"""Tracked clips kept on disk, so that no film is tracked twice: the raw material of the studies.

A clip is cut to the head as portraits are (256 x 256), brought to 25 frames a second and tracked; what is
kept is frames, mesh and sound. Long clips give several pieces of three seconds, the length that is generated.

Shape suffixes: F frames, H height, W width, 3 rgb or xyz, P mesh points, T audio samples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ft2ray.evaluation.observation import RATE, crop_head
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.media.face import FaceMesher, eye_opening, mouth_gap
from ft2ray.media.portrait import Portrait
from ft2ray.media.video import read_video
from ft2ray.storage import write_atomically

PIECE = 75
SHORTEST = 60


@dataclass(frozen=True, eq=False)
class Tracked:
    """One clip: uint8 frames, mesh without gaps, 16 kHz mono sound, and the picture that it was made from."""

    name: str
    person: str
    frames_FHW3: np.ndarray
    mesh_FP3: np.ndarray
    wav_T: np.ndarray
    portrait: Portrait


def _cached(path: Path, cache: Path, mesher: FaceMesher) -> dict[str, np.ndarray] | None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    file = cache / f"{path.stem}-{digest}.npz"
    if not file.is_file():
        frames_FHW3, wav_T = read_video(path, fps=RATE)
        cut_FHW3 = crop_head(frames_FHW3, mesher)
        if wav_T is None or cut_FHW3 is None:
            return None
        from io import BytesIO

        store = BytesIO()
        np.savez(store, frames=cut_FHW3, mesh=mesher.track(cut_FHW3), wav=wav_T)
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(file, store.getvalue())
    with np.load(file) as found:
        return dict(found)


def read_tracked(path: Path, person: str, cache: Path, mesher: FaceMesher) -> Iterator[Tracked]:
    """Pieces of three seconds of one clip in which the face is found throughout.

    The picture that a piece is compared with is the frame of the same clip, outside of the piece where there
    is one, with the mouth most closed and the eyes open: what a portrait of that person would be.
    """
    found = _cached(path, cache, mesher)
    if found is None:
        return
    frames_FHW3, mesh_FP3, wav_T = found["frames"], found["mesh"], found["wav"]
    seen_F = np.isfinite(mesh_FP3).all(axis=(1, 2))
    count = max(1, len(frames_FHW3) // PIECE)
    rest_F = np.where(seen_F, 3 * mouth_gap(mesh_FP3) - eye_opening(mesh_FP3), np.inf)
    for n in range(count):
        piece = slice(n * PIECE, min((n + 1) * PIECE, len(frames_FHW3)))
        if not seen_F[piece].all() or piece.stop - piece.start < SHORTEST:
            continue
        outside_F = rest_F.copy()
        if count > 1:
            outside_F[piece] = np.inf
        best = int(np.argmin(outside_F))
        step = SAMPLE_RATE / RATE
        yield Tracked(
            name=f"{path.stem}:{n}",
            person=person,
            frames_FHW3=frames_FHW3[piece],
            mesh_FP3=mesh_FP3[piece],
            wav_T=wav_T[round(piece.start * step) : round(piece.stop * step)],
            portrait=Portrait(frames_FHW3[best], mesh_FP3[best], f"{path.stem}:{best}"),
        )
