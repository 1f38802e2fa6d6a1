"""A low-rank update of the motion head on people's answers; the thinker stays as it is.

The head is what tells candidates of one prompt apart. The layers behind its features get LoRA adapters
(peft), which are merged when they have learnt; the features stay, which a hundred answers could not teach.

Shape suffixes: N clips, W windows of all clips, E features, K questions.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ft2ray.critic.calibration import fit_scaling
from ft2ray.critic.talking.motion_head import MotionHead

RANK, STEPS, LEARNING_RATE, WEIGHT_DECAY = 4, 30, 3e-3, 1e-2  # chosen on validation people, see the lab log
LAYERS = ["answer.0", "answer.2", "agree"]


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """A head's `features` of clips: energy_WE, agreement_WE, and the clip that each window is of."""

    energy_WE: Tensor
    agreement_WE: Tensor
    clip_W: Tensor

    @classmethod
    def of(cls, head: MotionHead, clips: Sequence[tuple[np.ndarray, np.ndarray]]) -> HeadInputs:
        """From motion_WCF and speech_WDF, clip by clip."""
        features = [head.features(*map(torch.from_numpy, clip)) for clip in clips]
        energy, agreement = (torch.cat(parts) for parts in zip(*features, strict=True))
        windows = torch.tensor([len(m_WCF) for m_WCF, _ in clips])
        return cls(energy, agreement, torch.arange(len(clips)).repeat_interleave(windows))

    def margins(self, head: MotionHead) -> Tensor:
        """Margins [N, K], averaged over each clip's windows."""
        margin_WK = head.answers(self.energy_WE, self.agreement_WE)
        windows_N = torch.bincount(self.clip_W)
        sum_NK = margin_WK.new_zeros(len(windows_N), margin_WK.shape[1]).index_add(0, self.clip_W, margin_WK)
        return sum_NK / windows_N[:, None]


def updated(head: MotionHead, inputs: HeadInputs, margin_NK: np.ndarray, label_NK: np.ndarray) -> MotionHead:
    """Train the head for STEPS steps on these clips.

    Args:
        head: of the critic that gave the margins.
        inputs: of the clips.
        margin_NK: of the whole critic, unscaled.
        label_NK: 1, 0, or NaN where not known; NaN in all of a clip that is held out.

    Returns:
        The updated head.
    """
    known_NK = torch.from_numpy(~np.isnan(label_NK))
    label = torch.from_numpy(label_NK)[known_NK].float()
    scale_K, shift_K = torch.ones(label_NK.shape[1]), torch.zeros(label_NK.shape[1])
    weight_NK = np.ones_like(label_NK)
    for k in np.flatnonzero(known_NK.any(0)):
        scale_K[k], shift_K[k] = fit_scaling(margin_NK[:, k], label_NK[:, k])
        share = np.nanmean(label_NK[:, k])
        weight_NK[:, k] = np.where(label_NK[:, k] == 1, 0.5 / share, 0.5 / (1 - share))
    weight = torch.from_numpy(weight_NK)[known_NK].float()  # both answers count the same
    rest_NK = torch.from_numpy(margin_NK).float() - inputs.margins(head)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS)
        changed = copy.deepcopy(head)
        adapted = get_peft_model(changed, config)  # puts the adapters into `changed`
    optimizer = torch.optim.AdamW(
        [p for p in adapted.parameters() if p.requires_grad], LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    for _ in range(STEPS):
        logit_NK = scale_K * (rest_NK + inputs.margins(changed)) + shift_K
        loss = binary_cross_entropy_with_logits(logit_NK[known_NK], label, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    merged = adapted.merge_and_unload()
    assert isinstance(merged, MotionHead)
    return merged.eval().requires_grad_(False)


def held_out_margins(
    head: MotionHead, inputs: HeadInputs, margin_NK: np.ndarray, label_NK: np.ndarray, half_N: np.ndarray
) -> np.ndarray:
    """Margins [N, K] of each half of the clips by a head that was updated on the other half."""
    out_NK, before_NK = margin_NK.copy(), inputs.margins(head)
    for half in (0, 1):
        taught_NK = np.where((half_N == half)[:, None], np.nan, label_NK)
        change_NK = inputs.margins(updated(head, inputs, margin_NK, taught_NK)) - before_NK
        out_NK[half_N == half] += change_NK.numpy()[half_N == half]
    return out_NK
