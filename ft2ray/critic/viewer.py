"""How a critic looks at clips, apart from its weights: the process that makes a clip makes its view.

Shape suffixes: F frames, H W 3 pixels, T audio samples, P mesh points.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np

from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import load_portrait
from ft2ray.media.video import FPS, MAX_SECONDS, read_video


class View(Protocol):
    """A clip as a critic takes it: small, made once where the clip is, and sent to the critic."""

    @property
    def frames(self) -> int:
        """What the clip costs to score, in pictures."""


class Viewer(ABC):
    """How a critic looks at clips; needs none of its weights."""

    @abstractmethod
    def view(self, frames_FHW3: np.ndarray, wav_T: np.ndarray | None, fps: float, mesher: FaceMesher) -> View:
        """Make of a clip what `Critic.score` takes.

        Args:
            frames_FHW3: uint8 RGB, any size.
            wav_T: its sound, 16 kHz mono float32.
            fps: frames a second.
            mesher: face detector of this process.

        Raises:
            MediaError: for a clip that cannot be scored; a candidate then has no score.
        """

    def read(self, path: str | Path, mesher: FaceMesher, max_seconds: float = MAX_SECONDS) -> View:
        """Make a view of a video file."""
        frames_FHW3, wav_T = read_video(path, FPS, max_seconds)
        return self.view(frames_FHW3, wav_T, FPS, mesher)

    def probe(self) -> View:
        """Make a view of the built-in clip, for health checks."""
        frames_FHW3, _, wav_T = probe_clip()
        return self.view(frames_FHW3, wav_T, FPS, FaceMesher())


def probe_clip() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One second of the embedded portrait, nodding to embedded speech.

    Returns:
        frames_FHW3 uint8 RGB at 25 fps, the meshes mesh_FP3 of its face, wav_T at 16 kHz.
    """
    assets = Path(str(files("ft2ray") / "assets"))
    portrait = load_portrait(assets / "portraits" / "grace_hopper.jpg")
    wav_T = read_audio(assets / "speech" / "sense_and_sensibility_0870.flac")[:SAMPLE_RATE]
    nod_F = np.round(4 * np.sin(np.linspace(0, 2 * np.pi, FPS))).astype(int)
    frames_FHW3 = np.stack([np.roll(portrait.image_HW3, nod, axis=0) for nod in nod_F])
    mesh_FP3 = np.stack([portrait.mesh_P3 + np.array([0, nod, 0], np.float32) for nod in nod_F])
    return frames_FHW3, mesh_FP3, wav_T
