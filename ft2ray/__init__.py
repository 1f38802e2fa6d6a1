"""ft2ray: align audio-driven portrait generators with human preferences, on Ray.

The public names below are imported when they are first used: Ray and torch take seconds, and most processes
need one of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ft2ray import errors as errors
    from ft2ray.config import AlignConfig as AlignConfig
    from ft2ray.config import load_config as load_config
    from ft2ray.critic.base import Critic as Critic
    from ft2ray.critic.viewer import Viewer as Viewer
    from ft2ray.dimensions import Dimension as Dimension
    from ft2ray.generator.base import Generator as Generator
    from ft2ray.generator.sampler import Conditions as Conditions
    from ft2ray.loaders import load_critic as load_critic
    from ft2ray.loaders import load_generator as load_generator
    from ft2ray.pipeline.align import align as align
    from ft2ray.run import Run as Run
    from ft2ray.tlpo.policy import load_policy as load_policy

__version__ = "0.1.0"

_HOMES = {
    "AlignConfig": "ft2ray.config",
    "Conditions": "ft2ray.generator.sampler",
    "Critic": "ft2ray.critic.base",
    "Dimension": "ft2ray.dimensions",
    "Generator": "ft2ray.generator.base",
    "Run": "ft2ray.run",
    "Viewer": "ft2ray.critic.viewer",
    "align": "ft2ray.pipeline.align",
    "load_config": "ft2ray.config",
    "load_critic": "ft2ray.loaders",
    "load_generator": "ft2ray.loaders",
    "load_policy": "ft2ray.tlpo.policy",
}
__all__ = sorted([*_HOMES, "errors"])


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("ft2ray.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'ft2ray' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
