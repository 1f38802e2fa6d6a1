"""Rendered training clips on disk, and the batches drawn from them.

Rendering is the dear part, so each clip is rendered once and met many times: with its own sound,
with a shifted or a foreign one, and mirrored. The sound decides the lip-sync label.

Shapes: N clips, B batch, F frames, H W 3 pixels, K stills, G target channels, T audio samples,
M mel bins, J mel frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ft2ray.critic.processor import SAMPLE_RATE, ProcessorConfig, log_mel, patches
from ft2ray.critic.talking.model import ClipBatch
from ft2ray.critic.talking.view import FPS, WINDOW_FRAMES, at_loudness
from recipes.embedded.synthesis import SyntheticClip
from recipes.embedded.toy_thinker import TOY_PROCESSOR

FRAME_SAMPLES = SAMPLE_RATE // FPS
SHORT_SLACK = 5  # frames that a recording may be longer than one window and still count as short
SHARD = 25  # clips in one file
ARRAYS = ("video_FHW3", "stills_KHW3", "target_FG", "mn", "vq", "lips", "recording", "start", "fault")


def write_shard(path: Path, clips: Sequence[SyntheticClip]) -> None:
    """One .npz of clips; written under another name first, so no half shard is ever read."""
    partial = path.with_suffix(".partial.npz")
    arrays: dict[str, Any] = {name: np.stack([getattr(clip, name) for clip in clips]) for name in ARRAYS}
    np.savez(partial, **arrays)
    partial.rename(path)


def read_shards(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """All clips of some shards, stacked.

    Raises:
        ValueError: if there is no shard.
    """
    if not paths:
        raise ValueError("there are no training clips yet; run the job with --clips first")
    shards = [dict(np.load(path)) for path in sorted(paths)]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in ARRAYS}


@dataclass(frozen=True)
class SoundMix:
    """Which sounds a clip meets: its own, and a wrong one that is its own shifted or a foreign one.

    The sound alone must not tell: short recordings, whose own sound always begins at their beginning,
    are not shifted but swapped among themselves.
    """

    slack_frames: int = 1  # own sound may be this much early or late: still in sync
    shifted: float = 0.65  # of the wrong sounds
    least_shift: int = 5
    most_shift: int = 25

    def slack(self, rng: np.random.Generator) -> int:
        return int(rng.integers(-self.slack_frames, self.slack_frames + 1))


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """B clips, each with its own sound and with a wrong one.

    clips: pictures with their own sound. wrong_mel_BMJ: log-mel of the wrong sound.
    label_SBK: 1, 0 or NaN for mn, ls, vq; S is 2, own sound first.
    target_BFG: motion to regress. heard_SBFG: lips that each sound asks for.
    """

    clips: ClipBatch
    wrong_mel_BMJ: torch.Tensor
    label_SBK: torch.Tensor
    target_BFG: torch.Tensor
    heard_SBFG: torch.Tensor


class ClipData:
    """Rendered clips with the recordings that sound under them, and the lips that those ask for."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        sounds: Mapping[str, np.ndarray],
        lips: Mapping[str, np.ndarray],
    ) -> None:
        self.arrays, self.sounds, self.lips = arrays, sounds, lips
        self.config = TOY_PROCESSOR

    def __len__(self) -> int:
        return len(self.arrays["mn"])

    def batches(self, rng: np.random.Generator, size: int, mix: SoundMix) -> Iterator[TrainingBatch]:
        """Endless augmented batches, each epoch in a new order."""
        while True:
            order = rng.permutation(len(self))
            for start in range(0, len(order) - size + 1, size):
                yield self.batch(order[start : start + size], rng, mix, augment=True)

    def batch(
        self, index_B: np.ndarray, rng: np.random.Generator, mix: SoundMix, augment: bool
    ) -> TrainingBatch:
        """The given clips, each with two sounds drawn for it."""
        videos, stills, labels = [], [], []
        mels: tuple[list, list] = ([], [])
        heard: tuple[list, list] = ([], [])
        for row in index_B:
            video, crops = self.arrays["video_FHW3"][row], self.arrays["stills_KHW3"][row]
            if augment and rng.random() < 0.5:  # the mirror image
                video, crops = video[:, :, ::-1], crops[:, :, ::-1]
            videos.append(patches(video, self.config, still=False)[0])
            stills.append(torch.cat([patches(crop[None], self.config, still=True)[0] for crop in crops]))
            for kind, place in enumerate((self.own(row, rng, mix), self.wrong(row, rng, mix))):
                wav_T, lips_FG = self.window(*place)
                wav_T = _disturb(wav_T, rng) if augment else at_loudness(wav_T)
                mels[kind].append(torch.from_numpy(log_mel(wav_T, self.config)))
                heard[kind].append(torch.from_numpy(lips_FG))
            mn, vq, lips = (float(self.arrays[name][row]) for name in ("mn", "vq", "lips"))
            labels.append([[mn, lips, vq], [mn, 0.0, vq]])
        clips = ClipBatch(
            video_BSE=torch.stack(videos),
            video_grid=_grid(self.arrays["video_FHW3"].shape[1:], self.config),
            stills_BSE=torch.stack(stills),
            still_grids=(_grid((1, *self.arrays["stills_KHW3"].shape[2:]), self.config),)
            * self.arrays["stills_KHW3"].shape[1],
            mel_BMJ=torch.stack(mels[0]),
        )
        return TrainingBatch(
            clips,
            torch.stack(mels[1]),
            torch.tensor(labels).transpose(0, 1),
            torch.from_numpy(self.arrays["target_FG"][index_B]).float(),
            torch.stack([torch.stack(heard[0]), torch.stack(heard[1])]).float(),
        )

    def speech(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows of sound alone, with the lips that they ask for: mel_BMJ, heard_BFG."""
        mels, heard = [], []
        for _ in range(size):
            wav_T, lips_FG = self.window(*self._anywhere(rng))
            mels.append(torch.from_numpy(log_mel(_disturb(wav_T, rng), self.config)))
            heard.append(torch.from_numpy(lips_FG))
        return torch.stack(mels), torch.stack(heard).float()

    def own(self, row: int, rng: np.random.Generator, mix: SoundMix) -> tuple[str, int]:
        """Recording and frame of a clip's own sound, at most `slack_frames` off."""
        return str(self.arrays["recording"][row]), int(self.arrays["start"][row]) + mix.slack(rng)

    def wrong(self, row: int, rng: np.random.Generator, mix: SoundMix) -> tuple[str, int]:
        """Recording and frame of a sound that does not fit a clip."""
        name, start = str(self.arrays["recording"][row]), int(self.arrays["start"][row])
        if rng.random() < mix.shifted:
            shifts = np.r_[-mix.most_shift : -mix.least_shift + 1, mix.least_shift : mix.most_shift + 1]
            inside = shifts[(start + shifts >= 0) & (start + shifts <= self._last_start(name))]
            if len(inside):
                return name, start + int(rng.choice(inside))
        other, start = self._anywhere(rng, like=name, but=name)
        return other, start + mix.slack(rng)

    def _anywhere(
        self, rng: np.random.Generator, like: str | None = None, but: str | None = None
    ) -> tuple[str, int]:
        """A window of any recording; `like`: of those that are short, or long, as this one is."""
        names = [name for name in self.sounds if name != but]
        if like is not None:
            short = self._last_start(like) < SHORT_SLACK
            names = [name for name in names if (self._last_start(name) < SHORT_SLACK) == short] or names
        name = names[int(rng.integers(len(names)))]
        return name, int(rng.integers(self._last_start(name) + 1))

    def _last_start(self, name: str) -> int:
        """Last frame where a whole window begins; 0 for a recording that is just one window or less."""
        return max(0, len(self.sounds[name]) // FRAME_SAMPLES - WINDOW_FRAMES)

    def window(self, name: str, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Three seconds of sound from a frame on, and its lips_FG; past the ends it goes round."""
        wav_T, lips_GF = self.sounds[name], self.lips[name]
        frames = len(wav_T) // FRAME_SAMPLES
        samples = (start * FRAME_SAMPLES + np.arange(WINDOW_FRAMES * FRAME_SAMPLES)) % (
            frames * FRAME_SAMPLES
        )
        return wav_T[samples], lips_GF[:, (start + np.arange(WINDOW_FRAMES)) % frames].T


def _grid(shape: Sequence[int], config: ProcessorConfig) -> tuple[int, int, int]:
    frames, height, width = shape[:3]
    return -(-frames // config.temporal_patch_size), height // config.patch_size, width // config.patch_size


def _disturb(wav_T: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another loudness, microphone and room noise."""
    out = wav_T
    if rng.random() < 0.5:  # a first-order tilt of the spectrum
        tilt = rng.uniform(-0.7, 0.7)
        out = out - tilt * np.concatenate([out[:1], out[:-1]])
    level = float(np.sqrt(np.mean(out**2))) + 1e-6
    out = out * (0.05 * np.exp(rng.normal(0, 0.5)) / level)
    snr = rng.uniform(8.0, 45.0)
    return (out + 0.05 * 10 ** (-snr / 20) * rng.standard_normal(len(out))).astype(np.float32)
