"""What the critic reads from motion and speech themselves, beside the pictures that the thinker sees.

Thumbnails of 56 pixels hold little of a motion. The head takes the tracked face as channels of the motion basis
and the speech as Whisper's features, and answers the same questions: its margins are added to the thinker's.

- Sync: speech and lips are each mapped to CURVES curves over time; the correlation of each pair of curves, at
  lag 0, is one number, and a weighted sum of them is the answer.
- Motion: learned filters over time and channels; the logarithm of each one's energy goes through two layers.

Shape suffixes: B windows, C motion channels, D speech features, F frames, E curves or filters, K questions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CURVES, FILTERS, HIDDEN = 16, 48, 64


class MotionHead(nn.Module):
    """Margins (Yes minus No) of every question.

    Args:
        channels: of the motion basis.
        speech: width of the speech features.
        mouth: how many of the channels, from the first on, move the lips.
        questions: K; `sync` is the place of the one about lip-sync.
    """

    def __init__(self, channels: int, speech: int, mouth: int, questions: int, sync: int) -> None:
        super().__init__()
        self.mouth, self.sync = mouth, sync
        self.hear = nn.Sequential(
            nn.Conv1d(speech, HIDDEN, 1),
            nn.GELU(),
            nn.Conv1d(HIDDEN, HIDDEN, 9, padding=4),
            nn.GELU(),
            nn.Conv1d(HIDDEN, CURVES, 5, padding=2),
        )
        self.see = nn.Sequential(
            nn.Conv1d(mouth, HIDDEN, 3, padding=1), nn.GELU(), nn.Conv1d(HIDDEN, CURVES, 3, padding=1)
        )
        self.agree = nn.Linear(CURVES, 1)
        self.filters = nn.Conv1d(channels, FILTERS, 9)
        self.judge = nn.Sequential(nn.Linear(FILTERS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, questions))

    def forward(self, motion_BCF: Tensor, speech_BDF: Tensor) -> Tensor:
        """Margins [B, K]."""
        heard_BEF, seen_BEF = self.hear(speech_BDF), self.see(motion_BCF[:, : self.mouth])
        sync_B = self.agree(correlation(heard_BEF, seen_BEF))[:, 0]
        centred_BCF = motion_BCF - motion_BCF.mean(dim=-1, keepdim=True)
        energy_BE = self.filters(centred_BCF).square().mean(dim=-1)
        margin_BK = self.judge((energy_BE + 1e-4).log())
        place_K = nn.functional.one_hot(torch.tensor(self.sync), margin_BK.shape[1]).to(margin_BK)
        return margin_BK + sync_B[:, None] * place_K


def correlation(a_BEF: Tensor, b_BEF: Tensor) -> Tensor:
    """Pearson's r over time of each pair of curves [B, E]; 0 where one does not move."""
    a_BEF = a_BEF - a_BEF.mean(dim=-1, keepdim=True)
    b_BEF = b_BEF - b_BEF.mean(dim=-1, keepdim=True)
    norm_BE = (a_BEF.square().sum(-1) * b_BEF.square().sum(-1) + 1e-8).sqrt()
    return (a_BEF * b_BEF).sum(-1) / norm_BE
