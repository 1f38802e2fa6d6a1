"""The two parts that a user may replace: the generator and the critic, each named by one setting.

"embedded" is the package's own, a path or s3:// URL is a folder of weights for the same classes, and
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
from ft2ray.storage import local_folder

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load_generator(weights: str) -> Generator:
    """The generator that `generator.weights` names; ValueError where there is none."""
    if _FACTORY.fullmatch(weights):
        return _call(weights)
    kind, folder = _generator(weights)
    return kind.load(folder)


def generator_fingerprint(weights: str) -> str:
    """The fingerprint of `load_generator(weights)`, from the files alone where it is one of ours."""
    if _FACTORY.fullmatch(weights):
        return _call(weights).fingerprint
    kind, folder = _generator(weights)
    return kind.fingerprint_of(folder)


def _generator(weights: str) -> tuple[type[Generator], str | Path]:
    if weights == "embedded":
        return Generator, weights
    folder = local_folder(weights)
    codec = read_config(folder)["codec"]
    if codec == "portrait":
        return Generator, folder
    if codec == "wan":
        from ft2ray.generator.generator_wan import WanGenerator  # its encoders take seconds to import

        return WanGenerator, folder
    raise ValueError(f"generator: {weights} wants the codec {codec!r}, known: portrait, wan")


def load_critic(weights: str) -> Critic:
    """The critic that `critic.weights` names; ValueError where there is none."""
    if _FACTORY.fullmatch(weights):
        return _call(weights)
    return TalkingCritic.load(weights if weights == "embedded" else local_folder(weights))


def critic_identity(weights: str) -> tuple[str, tuple[str, ...]]:
    """Fingerprint and dimensions of `load_critic(weights)`, from the files alone where it is one of ours."""
    if _FACTORY.fullmatch(weights):
        critic = _call(weights)
        return critic.fingerprint, critic.dimensions
    return TalkingCritic.identity_of(weights if weights == "embedded" else local_folder(weights))


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
