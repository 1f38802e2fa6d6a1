"""Which part of a latent a dimension is about: its error counts there, and its anchor holds all the rest.

    all     the whole frame: no mask, nothing to hold
    lips    the candidate's own lip mask, made with it
    head    how the head moves: pose and lids where the codec has channels for them, else all but the lips
    shape   what shape the face has, where the codec has channels for it, else the whole frame

Shapes: C latent channels, F latent frames, H W latent grid.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def region_mask(region: str, lip_mask_CFHW: Tensor, channels: Mapping[str, Tensor]) -> Tensor | None:
    """Mask of `region`, broadcastable to a latent; None for the whole frame.

    Args:
        region: one of the above.
        lip_mask_CFHW: of the candidate, [C or 1, F, H, W].
        channels: regions that are channels of this generator's latents, each a mask [C].
    """
    if region in channels:
        return channels[region][:, None, None, None].to(lip_mask_CFHW)
    if region == "lips":
        return lip_mask_CFHW
    if region != "head":
        return None
    rest_CFHW = 1 - lip_mask_CFHW
    return rest_CFHW if rest_CFHW.any() else torch.ones_like(rest_CFHW)  # nothing is marked as lips
