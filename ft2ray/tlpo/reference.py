"""Velocities of the reference (adapters off) that are computed once, since the frozen base never changes.

With `DrawSettings.per_group` every prompt group has that many draws of noise and time, shared by its pairs in
all dimensions. So the reference of a candidate under a draw is wanted again and again: by pairs with the same
winner or loser, by every expert, the baseline and the gate, and each time the group comes up again. Its
velocity serves any mask and the anchor. They are kept in the host's memory: one latent each.

What is computed at once does not depend on who asks: all candidates that are in any pair of the group. The
numbers are therefore the same bits in every worker and after a resume, and need not be saved.

Shapes: K candidates of one group, C latent channels, F latent frames, H W latent grid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.step import Velocity


@torch.no_grad()
def reference_velocities(
    velocity: Velocity,
    experts: Experts,
    x_KCFHW: Tensor,
    condition: Any,
    eps_CFHW: Tensor,
    t: Tensor,
    samples: int | None = None,
) -> Tensor:
    """Velocities [K, C, F, H, W] of the base under one draw, `samples` candidates at a time (None: all)."""
    found = []
    for x0_KCFHW in x_KCFHW.split(samples or len(x_KCFHW)):
        eps_KCFHW = eps_CFHW.expand_as(x0_KCFHW)
        t_K = t.expand(len(x0_KCFHW))
        with experts.reference():
            found.append(velocity((1 - t) * x0_KCFHW + t * eps_KCFHW, t_K, [condition] * len(x0_KCFHW)))
    return torch.cat(found)
