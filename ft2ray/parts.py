"""The two parts that a user may replace: the generator and the critic, each named by one setting.

"embedded" is the package's own, a path is a folder of weights for the same classes, and
"package.module:name" (or "package.module:Class.load") is called without arguments and returns the user's own
object: for the generator anything with the verbs of `ft2ray.generator.generator.Generator`, for the critic
anything that fits `ft2ray.critic.critic.Critic`.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from ft2ray.critic.critic import Critic, TalkingCritic
from ft2ray.generator.checkpoint import read_config
from ft2ray.generator.generator import Generator

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load_generator(weights: str) -> Generator:
    """The generator that `generator.weights` names; ValueError where there is none."""
    if _FACTORY.fullmatch(weights):
        return _call(weights)
    if weights == "embedded":
        return Generator.load()
    codec = read_config(Path(weights))["codec"]
    if codec == "portrait":
        return Generator.load(weights)
    if codec == "wan":
        from ft2ray.generator.generator_wan import WanGenerator  # its encoders take seconds to import

        return WanGenerator.load(weights)
    raise ValueError(f"generator: {weights} wants the codec {codec!r}, known: portrait, wan")


def load_critic(weights: str) -> Critic:
    """The critic that `critic.weights` names; ValueError where there is none."""
    return _call(weights) if _FACTORY.fullmatch(weights) else TalkingCritic.load(weights)


def _call(factory: str) -> Any:
    module, _, name = factory.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in name.split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{factory} can not be loaded: {error}; name something that can be imported"
        ) from error
    return found()
