"""Motion for the critic's training clips: lips that fit a recording, heads that move like people's.

Lips come from real talking clips, or from a ridge regression of those clips' lips on speech
features (a teacher that turns any recording into fitting lips). Head, brows and lids come from
the same real clips, re-timed, mirrored, mixed and scaled, or from smooth random movement with
blinks. Everything lives in the whitened channels of `MotionBasis`.

Shapes: C motion channels, F frames (25 a second), L speech steps (50 a second), D feature width,
T audio samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ft2ray.generator.portrait.motion import GRID_AUDIO_OFFSET_FRAMES, MotionBasis
from ft2ray.media.audio import SAMPLE_RATE
from recipes.embedded.base_teacher import LipTeacher, context_rows

FPS = 25
RIDGE = 0.1  # relative to the mean variance of the speech features
MOST_GAIN = 1.8  # beyond it a channel that speech hardly predicts would be amplified error
POSE_SPREAD = (1.2, 8.0)  # of head motion; seated GRID speakers have about 1, people in interviews up to 10
BLINK = (0.35, 0.9, 1.0, 0.75, 0.45, 0.2, 0.05)  # closure of the lids frame by frame


@dataclass(frozen=True, eq=False)
class Recording:
    """Speech with its features; `name` tells recordings apart."""

    name: str
    wav_T: np.ndarray
    feat_LD: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.wav_T) * FPS // SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class RealClip:
    """A real talking clip: its sound, and its motion with the sound's own timing."""

    recording: Recording
    x_CF: np.ndarray


def real_clip(
    name: str,
    mesh_FP3: np.ndarray,
    wav_T: np.ndarray,
    encoder: Callable[[np.ndarray], np.ndarray],
    basis: MotionBasis,
) -> RealClip:
    """Encode a tracked clip; late pictures (`picture_delay`) are moved forward."""
    delay = picture_delay(name)
    x_CF = basis.encode(mesh_FP3)
    if delay:
        x_CF = np.concatenate([x_CF[:, delay:], x_CF[:, -1:].repeat(delay, axis=1)], axis=1)
    return RealClip(Recording(name, wav_T, encoder(wav_T)), x_CF)


def at_speed(
    name: str, wav_T: np.ndarray, speed: float, encoder: Callable[[np.ndarray], np.ndarray]
) -> Recording:
    """A recording played faster or slower: another voice as well, since the pitch goes along."""
    count = int(len(wav_T) / speed)
    played = np.interp(np.arange(count) * speed, np.arange(len(wav_T)), wav_T).astype(np.float32)
    return Recording(f"{name}@{speed:g}", played, encoder(played))


class LipSource:
    """Lips for any recording: the speech-to-lips ridge of the base generator, at the spread of real lips.

    Attributes:
        residuals: for each clip, its lips minus the prediction of a ridge fitted without it [C, F].
    """

    def __init__(self, clips: Sequence[RealClip], mouth: slice) -> None:
        inputs = [context_rows(clip.recording.feat_LD)[: clip.x_CF.shape[1]] for clip in clips]
        lips = [clip.x_CF[mouth, : len(rows)].T for clip, rows in zip(clips, inputs, strict=True)]
        self._ridge = LipTeacher.fit(np.concatenate(inputs), np.concatenate(lips), RIDGE)
        predicted = []
        for index in range(len(clips)):
            others = [n for n in range(len(clips)) if n != index]
            ridge = LipTeacher.fit(
                np.concatenate([inputs[n] for n in others]), np.concatenate([lips[n] for n in others]), RIDGE
            )
            predicted.append(ridge(clips[index].recording.feat_LD)[:, : len(lips[index])].T)
        self.residuals = [(own - guess).T for own, guess in zip(lips, predicted, strict=True)]
        actual = np.concatenate(lips)
        # A regression shrinks what it cannot explain: bring the channels back towards the real spread.
        self._gain_C = np.minimum(actual.std(axis=0) / np.concatenate(predicted).std(axis=0), MOST_GAIN)
        self._mean_C = actual.mean(axis=0)

    def __call__(self, recording: Recording) -> np.ndarray:
        """Lips for a whole recording: [C mouth, F]."""
        lips_CF = self._ridge(recording.feat_LD)
        mean_C1, gain_C1 = self._mean_C[:, None], self._gain_C[:, None]
        return ((lips_CF - mean_C1) * gain_C1 + mean_C1).astype(np.float32)


class MotionSource:
    """Draws motions that are natural and in sync: what corruptions then start from."""

    def __init__(
        self,
        recordings: Sequence[Recording],
        clips: Sequence[RealClip],
        basis: MotionBasis,
        lip_source: LipSource | None = None,
    ) -> None:
        self.recordings, self.clips, self.basis = list(recordings), list(clips), basis
        self.lip_source = lip_source or LipSource(clips, basis.mouth)
        self.lips = {recording.name: self.lip_source(recording) for recording in recordings}

    def draw(self, rng: np.random.Generator, frames: int, real: bool) -> tuple[np.ndarray, Recording, int]:
        """One natural motion.

        Args:
            real: lips of a real clip (which is then as long as the clip) instead of the teacher's.

        Returns:
            x_CF, the recording that it fits, and the frame of the recording where it begins.
        """
        if real:
            clip = self.clips[rng.integers(len(self.clips))]
            mouth, recording, start = clip.x_CF[self.basis.mouth].copy(), clip.recording, 0
            mouth = mouth[:, :frames] * rng.uniform(0.85, 1.3)
        else:
            usable = [recording for recording in self.recordings if recording.frames >= frames]
            seconds = np.array([recording.frames for recording in usable], float)
            recording = usable[rng.choice(len(usable), p=seconds / seconds.sum())]
            start = int(rng.integers(recording.frames - frames + 1))
            mouth = self.lips[recording.name][:, start : start + frames] * rng.uniform(0.8, 1.4)
            mouth = mouth + self.residual(rng, frames) * rng.uniform(0.0, 0.6)
            if rng.random() < 0.5:
                mouth = gaussian_filter1d(mouth, rng.uniform(0.4, 1.1), axis=1)
        x_CF = np.concatenate([mouth, self.head(rng, frames)])
        return self._maybe_mirror(x_CF, rng).astype(np.float32), recording, start

    def residual(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Real lip movement that speech does not explain: [C mouth, F]."""
        residuals = self.lip_source.residuals
        return _segment(residuals[rng.integers(len(residuals))], frames, rng)

    def head(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Natural lids, brows and pose: [C upper + pose, F]."""
        basis, rest = self.basis, slice(self.basis.upper.start, self.basis.channels)
        if rng.random() < 0.5:
            most = min(2, len(self.clips))
            picked = rng.choice(len(self.clips), size=rng.integers(1, most + 1), replace=False)
            parts = [_segment(self._maybe_mirror(self.clips[n].x_CF, rng)[rest], frames, rng) for n in picked]
            x = np.sum(parts, axis=0) / np.sqrt(len(parts))
            if rng.random() < 0.6:
                x[1:] = gaussian_filter1d(x[1:], rng.uniform(0.7, 2.0), axis=1)
        else:
            x = np.stack([_wander(rng, frames) for _ in range(basis.channels - rest.start)])
            x[1 : basis.upper.stop - rest.start] *= rng.uniform(0.5, 2.0)
            x[0] = self._blinks(rng, frames)
        pose = slice(basis.pose.start - rest.start, None)
        spread = np.exp(rng.uniform(*np.log(POSE_SPREAD)))
        x[pose] *= spread / max(float(x[pose].std(axis=1).mean()), 0.1) * rng.uniform(0.7, 1.3, (6, 1))
        return x

    def _blinks(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Channel of the lids: open with a small drift, and at least one blink in three seconds."""
        basis = self.basis
        shut = (1.0 - basis.mean_C[basis.lid]) / basis.std_C[basis.lid]
        x = basis.rest_C[basis.lid] + 0.25 * _wander(rng, frames)
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(-2, frames))
            for offset, closure in enumerate(BLINK):
                if 0 <= start + offset < frames:
                    x[start + offset] += closure * (shut - x[start + offset])
        return x

    def _maybe_mirror(self, x_CF: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.basis.mirror(x_CF) if rng.random() < 0.5 else x_CF


def _segment(x_CF: np.ndarray, frames: int, rng: np.random.Generator) -> np.ndarray:
    """A piece of a motion at another speed and direction of time, swinging back where it ends."""
    speed = rng.uniform(0.75, 1.25) * (1 if rng.random() < 0.5 else -1)
    position = rng.uniform(0, x_CF.shape[1]) + speed * np.arange(frames)
    last = x_CF.shape[1] - 1
    position = last - np.abs(position % (2 * last) - last)  # a triangle wave through the clip
    left = np.minimum(position.astype(int), last - 1)
    share = position - left
    return x_CF[:, left] * (1 - share) + x_CF[:, left + 1] * share


def _wander(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Smooth random movement of unit spread: noise low-passed to about 0.3 to 1 Hz, plus a slow drift."""
    slow = gaussian_filter1d(rng.standard_normal(frames + 100), rng.uniform(4.0, 12.0))[50:-50]
    drift = gaussian_filter1d(rng.standard_normal(frames + 200), 25.0)[100:-100]
    mixed = slow / slow.std() + rng.uniform(0.3, 1.2) * (drift - drift.mean()) / drift.std()
    return (mixed - mixed.mean()) / mixed.std()


def picture_delay(name: str) -> int:
    """Frames by which a clip's pictures are late: the GRID corpus has one (its name tells)."""
    return GRID_AUDIO_OFFSET_FRAMES if name.startswith("grid_") else 0
