"""What the child processes of the fronts do with files of clients.

Each function imports what it needs: the fronts only name them. F frames, H height, W width, 3 rgb, T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ft2ray.media.portrait import Portrait


def clip_reader(
    weights: str, fps: float | None, pixels: int | None, max_seconds: float
) -> Callable[[Path], tuple[Any, float]]:
    """Return a function from a clip to the critic's view of it and its seconds."""
    from ft2ray.loaders import load_viewer
    from ft2ray.media.face import FaceMesher
    from ft2ray.media.video import FPS, read_video

    viewer, mesher = load_viewer(weights, fps, pixels, allow_code=True), FaceMesher()

    def read(path: Path) -> tuple[Any, float]:
        frames_FHW3, wav_T = read_video(path, fps=FPS, max_seconds=max_seconds)
        return viewer.view(frames_FHW3, wav_T, FPS, mesher), len(frames_FHW3) / FPS

    return read


def prompt_reader(size: int, max_seconds: float) -> Callable[[Path, Path], tuple[Portrait, np.ndarray]]:
    """Return a function from a picture and a recording to the checked portrait and speech."""
    from ft2ray.media.audio import check_speech, read_audio
    from ft2ray.media.face import FaceMesher
    from ft2ray.media.portrait import load_portrait

    mesher = FaceMesher()

    def read(picture: Path, recording: Path) -> tuple[Portrait, np.ndarray]:
        portrait = load_portrait(picture, size, mesher)
        wav_T = read_audio(recording, max_seconds)
        check_speech(wav_T, recording.name, max_seconds=max_seconds)
        return portrait, wav_T

    return read
