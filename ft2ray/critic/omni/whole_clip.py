"""What a full-size critic sees and hears of a clip: the whole picture, a few times a second, and the sound.

Shapes: F frames, H W 3 pixels, T audio samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ft2ray.critic.omni.clip_file import read_clip
from ft2ray.critic.processor import SAMPLE_RATE
from ft2ray.critic.viewer import Viewer
from ft2ray.errors import ConfigurationError, MediaError
from ft2ray.media.face import FaceMesher
from ft2ray.media.video import MAX_SECONDS

FPS, PIXELS = 10.0, 448  # of a critic that was not tuned to other values
LEAST_LIP_FPS, MOST_FPS = 8.0, 25.0
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class WholeClip:
    """One clip as `OmniCritic` takes it.

    frames_FHW3: uint8 RGB at `fps`, sides multiples of the critic's blocks. wav_T: float32, 16 kHz mono, as
    long as the pictures: sample 0 sounds when frame 0 begins.
    """

    frames_FHW3: np.ndarray
    wav_T: np.ndarray
    fps: float

    @property
    def frames(self) -> int:
        """What the clip costs to score, in pictures."""
        return len(self.frames_FHW3)


@dataclass(frozen=True)
class WholeClipViewer(Viewer):
    """Makes a `WholeClip`: pictures a second, their largest area (pixels x pixels), their blocks."""

    fps: float = FPS
    pixels: int = PIXELS
    block: int = 28

    def view(
        self,
        frames_FHW3: np.ndarray,
        wav_T: np.ndarray | None,
        fps: float,
        mesher: FaceMesher | None = None,
    ) -> WholeClip:
        """Show the clip at this rate and size: each frame is the one shown in the middle of its time.

        No face is searched for. Silence is appended to a sound that is shorter than the pictures.

        Raises:
            MediaError: for a clip without sound or shorter than a second.
        """
        seconds = len(frames_FHW3) / fps
        middle = (np.arange(max(0, math.ceil(seconds * self.fps - 0.5))) + 0.5) / self.fps
        return self.of(frames_FHW3[(middle * fps).astype(int)], wav_T)

    def read(
        self, path: str | Path, mesher: FaceMesher | None = None, max_seconds: float = MAX_SECONDS
    ) -> WholeClip:
        """Make a view of a video file, of which only the pictures that are wanted are decoded."""
        return self.of(*read_clip(path, self.fps, max_seconds=max_seconds))

    def read_labelled(self, path: str | Path, sound: str | Path | None) -> WholeClip:
        """Make a view of a file, with the sound of another one where that is given."""
        return self.of(*read_clip(path, self.fps, sound))

    def of(self, frames_FHW3: np.ndarray, wav_T: np.ndarray | None) -> WholeClip:
        """A clip from frames that have this critic's rate already."""
        if wav_T is None or len(wav_T) == 0:
            raise MediaError(
                "no_sound", "the clip has no sound, so lip-sync cannot be judged; mux its speech in first."
            )
        seconds = len(frames_FHW3) / self.fps
        if seconds < SHORTEST_SECONDS:
            raise MediaError(
                "too_short",
                f"the clip lasts {seconds:.2f} s; the critic needs at least {SHORTEST_SECONDS:g} s.",
            )
        samples = round(seconds * SAMPLE_RATE)
        wav_T = np.pad(wav_T[:samples].astype(np.float32), (0, max(0, samples - len(wav_T))))
        return WholeClip(scaled(frames_FHW3, self.size(*frames_FHW3.shape[1:3])), wav_T, self.fps)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in whole blocks, near the clip's own, in an area of at most pixels x pixels."""
        scale = min(1.0, self.pixels / math.sqrt(height * width))
        rows, columns = (max(1, round(side * scale / self.block)) for side in (height, width))
        if rows * columns * self.block**2 > self.pixels**2:
            rows, columns = (max(1, int(side * scale / self.block)) for side in (height, width))
        return rows * self.block, columns * self.block


def scaled(frames_FHW3: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames at `size`, bicubic with antialiasing: what Qwen's own loading does."""
    if frames_FHW3.shape[1:3] == size:
        return frames_FHW3
    pixels = torch.from_numpy(np.ascontiguousarray(frames_FHW3)).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255).round()
    return resized.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def check_fps(fps: float, questions: Mapping[str, str]) -> None:
    """ValueError where lips cannot be judged at this rate, or the rate is none."""
    if not 0 < fps <= MOST_FPS:
        raise ConfigurationError(
            f"critic: {fps:g} pictures a second is not in (0, {MOST_FPS:g}]; take 8 to 12"
        )
    asked = [name for name, text in questions.items() if name == "ls" or "lip" in text.lower()]
    if asked and fps < LEAST_LIP_FPS:
        raise ConfigurationError(
            f"critic: at {fps:g} fps a clip of 3.5 s is {math.ceil(3.5 * fps)} pictures, but lips open "
            f"and close several times a second, so question {asked[0]} would be a guess; take 8 to 12 fps"
        )
