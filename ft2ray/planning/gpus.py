"""Memory of cards by name, from their data sheets."""

from __future__ import annotations

import difflib

from ft2ray.errors import UserError

USABLE = 0.94
"""Share of the memory for tensors; the rest is for CUDA's context, kernels' workspaces and gaps (assumed)."""

# In GB of 1e9 bytes.
MEMORY_GB = {
    "A100-40GB": 40.0,
    "A100": 80.0,
    "H100": 80.0,
    "H200": 141.0,
    "B200": 180.0,
    "L40S": 48.0,
    "RTX4090": 24.0,
}


def memory_gb(card: str) -> float:
    """UserError with the nearest name for a card that is not known."""
    if card not in MEMORY_GB:
        near = difflib.get_close_matches(card, MEMORY_GB, n=1)
        raise UserError(
            f"plan: --gpu {card!r} is unknown{f'; did you mean {near[0]}?' if near else ''} "
            f"(known: {', '.join(MEMORY_GB)})"
        )
    return MEMORY_GB[card]
