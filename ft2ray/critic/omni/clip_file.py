"""Reading the few pictures of a clip that a critic looks at, and its sound.

Shapes: F frames, H W 3 pixels, T audio samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ft2ray.errors import MediaError
from ft2ray.media.audio import read_audio
from ft2ray.media.containers import decoding, opened, require_content
from ft2ray.media.packets import main_track
from ft2ray.media.video import MAX_SECONDS, read_video


def read_clip(
    path: str | Path, fps: float, sound: str | Path | None = None, max_seconds: float = MAX_SECONDS
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pictures at `fps`, each the one shown in the middle of its time, and the sound.

    Args:
        sound: a file whose sound takes the place of the clip's own.

    Returns:
        frames_FHW3 uint8 RGB; wav_T 16 kHz mono float32 from the first picture on, None for a silent film.

    Raises:
        MediaError: what `read_video` and `read_audio` raise.
    """
    frames_FHW3, wav_T = read_video(path, fps, max_seconds)
    return frames_FHW3, wav_T if sound is None else read_audio(sound)


def header_fault(path: str | Path, needs_sound: bool = True) -> str | None:
    """What a file's header says against it, None if nothing; it is not decoded."""
    path = Path(path)
    try:
        require_content(path)
        with decoding(path.name, "a video"), opened(path, "a video") as container:
            if main_track(container, "video") is None:
                return "has no pictures"
            return "has no sound" if needs_sound and main_track(container, "audio") is None else None
    except MediaError as error:
        return f"is not a readable video ({error})"
