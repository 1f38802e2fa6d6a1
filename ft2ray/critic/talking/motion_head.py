"""What the critic reads from motion and speech themselves, beside the pictures that the thinker sees.

Thumbnails of 56 pixels hold little of a motion. The head takes the tracked face as channels of the motion
basis and the speech as Whisper's features, and answers the same questions; its margins join the thinker's.

- Sync: speech and lips are each mapped to CURVES curves over time; the correlation of each pair of curves is
  one number, and their weighted sum is added to the answer about lip-sync.
- Motion: learned filters over time and channels; the logarithm of each filter's energy goes through two
  layers.

Shape suffixes: B windows, C motion channels, D speech features, F frames, E curves or filters, K questions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HEAD = "motion_head.safetensors"
CURVES, FILTERS, HIDDEN, SPAN = 16, 48, 64, 9


class MotionHead(nn.Module):
    """Margins (Yes minus No) of every question.

    Args:
        channels: of the motion basis.
        mouth: how many of them, from the first on, move the lips.
        speech: width of the speech features.
        questions: K.
        sync: place of the question about lip-sync.
    """

    def __init__(self, channels: int, mouth: int, speech: int, questions: int, sync: int) -> None:
        super().__init__()
        self.mouth = mouth
        self.hear = nn.Sequential(
            nn.Conv1d(speech, HIDDEN, 1),
            nn.GELU(),
            nn.Conv1d(HIDDEN, HIDDEN, SPAN, padding=SPAN // 2),
            nn.GELU(),
            nn.Conv1d(HIDDEN, CURVES, 5, padding=2),
        )
        self.see = nn.Sequential(
            nn.Conv1d(mouth, HIDDEN, 3, padding=1), nn.GELU(), nn.Conv1d(HIDDEN, CURVES, 3, padding=1)
        )
        self.agree = nn.Linear(CURVES, 1)
        self.filters = nn.Conv1d(channels, FILTERS, SPAN)
        self.answer = nn.Sequential(nn.Linear(FILTERS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, questions))
        self.motion_scale_C: Tensor
        self.speech_scale_D: Tensor
        self.thinker_K: Tensor
        self.sync_K: Tensor
        self.register_buffer("motion_scale_C", torch.ones(channels))
        self.register_buffer("speech_scale_D", torch.ones(speech))
        self.register_buffer("thinker_K", torch.ones(questions))  # weight of the thinker's margins
        self.register_buffer("sync_K", nn.functional.one_hot(torch.tensor(sync), questions).float())

    @classmethod
    def load(cls, path: Path) -> MotionHead:
        """Read what `save` wrote."""
        tensors = load_file(path)
        head = cls(
            channels=len(tensors["motion_scale_C"]),
            mouth=tensors["see.0.weight"].shape[1],
            speech=len(tensors["speech_scale_D"]),
            questions=len(tensors["thinker_K"]),
            sync=int(tensors["sync_K"].argmax()),
        )
        head.load_state_dict(tensors)
        return head.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, path)

    def forward(self, motion_BCF: Tensor, speech_BDF: Tensor) -> Tensor:
        """Margins [B, K] of whitened motion and speech features, both at 25 frames a second."""
        return self.answers(*self.features(motion_BCF, speech_BDF))

    def features(self, motion_BCF: Tensor, speech_BDF: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the filters' energies [B, E], and correlations of speech and lips [B, E]."""
        motion_BCF, speech_BDF = self.standard(motion_BCF, speech_BDF)
        energy_BE = self.filters(motion_BCF).square().mean(dim=-1)
        return (energy_BE + 1e-4).log(), correlation(self.hear(speech_BDF), self.lips(motion_BCF))

    def answers(self, energy_BE: Tensor, agreement_BE: Tensor) -> Tensor:
        """Margins [B, K] of `features`."""
        return self.answer(energy_BE) + self.agree(agreement_BE) * self.sync_K

    def standard(self, motion_BCF: Tensor, speech_BDF: Tensor) -> tuple[Tensor, Tensor]:
        """What moves, in units of the training clips: each window's own mean is taken off."""
        motion_BCF = (motion_BCF - motion_BCF.mean(-1, keepdim=True)) / self.motion_scale_C[:, None]
        speech_BDF = (speech_BDF - speech_BDF.mean(-1, keepdim=True)) / self.speech_scale_D[:, None]
        return motion_BCF, speech_BDF

    def lips(self, motion_BCF: Tensor) -> Tensor:
        """Curves of the lips that are seen [B, E, F], from standard motion."""
        return self.see(motion_BCF[:, : self.mouth])


def correlation(a_BEF: Tensor, b_BEF: Tensor) -> Tensor:
    """Pearson's r over time of each pair of curves [B, E]; 0 where one does not move."""
    a_BEF = a_BEF - a_BEF.mean(dim=-1, keepdim=True)
    b_BEF = b_BEF - b_BEF.mean(dim=-1, keepdim=True)
    norm_BE = (a_BEF.square().sum(-1) * b_BEF.square().sum(-1) + 1e-8).sqrt()
    return (a_BEF * b_BEF).sum(-1) / norm_BE
