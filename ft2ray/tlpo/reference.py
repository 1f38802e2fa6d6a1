"""Errors of the reference (adapters off) that are computed once, since the frozen base never changes.

With `DrawRule.per_group` every prompt group has that many draws of noise and time, shared by its pairs in
all dimensions. So the error of a candidate under a draw is wanted again and again: by pairs with the same
winner or loser, by every expert, the baseline and the gate, and each time the group comes up again.

What is computed at once does not depend on who asks: all candidates that are in any pair of the group. The
numbers are therefore the same bits in every worker and after a resume, and need not be saved.

Shapes: K candidates of one group, C latent channels, F latent frames, H W latent grid; M = 2: whole frame,
lip region.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.losses import velocity_error
from ft2ray.tlpo.step import Velocity


@torch.no_grad()
def reference_errors(
    velocity: Velocity,
    experts: Experts,
    x_KCFHW: Tensor,
    mask_KCFHW: Tensor,
    condition: Any,
    eps_CFHW: Tensor,
    t: Tensor,
    samples: int | None = None,
) -> Tensor:
    """Velocity errors [K, M] of the base under one draw, `samples` candidates at a time (None: all)."""
    found = []
    for start in range(0, len(x_KCFHW), samples or len(x_KCFHW)):
        part = slice(start, start + (samples or len(x_KCFHW)))
        x0_KCFHW = x_KCFHW[part]
        eps_KCFHW = eps_CFHW.expand_as(x0_KCFHW)
        t_K = t.expand(len(x0_KCFHW))
        with experts.reference():
            v_KCFHW = velocity((1 - t) * x0_KCFHW + t * eps_KCFHW, t_K, [condition] * len(x0_KCFHW))
        target_KCFHW = eps_KCFHW - x0_KCFHW
        whole_K = velocity_error(v_KCFHW, target_KCFHW)
        masked_K = velocity_error(v_KCFHW, target_KCFHW, mask_KCFHW[part])
        found.append(torch.stack([whole_K, masked_K], dim=1))
    return torch.cat(found)
