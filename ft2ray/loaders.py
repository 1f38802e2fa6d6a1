"""The two parts that a user may replace: the generator and the critic, each named by one setting.

"embedded" is the package's own, a path or s3:// URL is a folder of weights for the same classes (a critic may
also be a Qwen2.5-Omni folder or hub name, or a tuned critic's folder), and "package.module:name" (or
"package.module:Class.load") is called without arguments and returns the user's own object: for the generator
anything with the verbs of `ft2ray.generator.portrait.generator.Generator`, for the critic anything that fits
`ft2ray.critic.talking.critic.Critic`.

Every process loads one or the other, so each function imports what it needs: together they take five seconds.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ft2ray.errors import ConfigurationError
from ft2ray.storage import local_folder

if TYPE_CHECKING:
    import numpy as np

    from ft2ray.critic.omni.card import CriticCard
    from ft2ray.critic.talking.critic import Critic
    from ft2ray.generator.portrait.generator import Generator
    from ft2ray.media.face import FaceMesher

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
    from ft2ray.generator.checkpoint import read_config
    from ft2ray.generator.portrait.generator import Generator

    if weights == "embedded":
        return Generator, weights
    folder = local_folder(weights)
    codec = read_config(folder)["codec"]
    if codec == "portrait":
        return Generator, folder
    if codec == "wan":
        from ft2ray.generator.wan.generator import WanGenerator

        return WanGenerator, folder
    raise ConfigurationError(f"generator: {weights} wants the codec {codec!r}, known: portrait, wan")


def load_critic(weights: str, fps: float | None = None, pixels: int | None = None) -> Critic:
    """The critic that `critic.weights` names; ValueError where there is none.

    fps, pixels: how a full-size critic looks at clips, None for its own; the others have a view of their own.
    """
    if _FACTORY.fullmatch(weights):
        return _call(weights)
    folder = _critic_folder(weights)
    if _is_full_size(folder):
        from ft2ray.critic.omni.critic import OmniCritic

        return OmniCritic.load(folder, fps, pixels)
    from ft2ray.critic.talking.critic import TalkingCritic

    return TalkingCritic.load(folder)


def critic_identity(
    weights: str, fps: float | None = None, pixels: int | None = None
) -> tuple[str, tuple[str, ...]]:
    """Fingerprint and dimensions of `load_critic(...)`, from the files alone where it is one of ours."""
    if not _FACTORY.fullmatch(weights) and not _is_full_size(folder := _critic_folder(weights)):
        from ft2ray.critic.talking.critic import TalkingCritic

        return TalkingCritic.identity_of(folder)
    card = critic_card(weights, fps, pixels)
    return card.fingerprint, card.dimensions


def critic_card(weights: str, fps: float | None = None, pixels: int | None = None) -> CriticCard | Critic:
    """Dimensions, fingerprint, calibration of `load_critic(...)`; a full-size one's from its files alone."""
    folder = weights if _FACTORY.fullmatch(weights) else _critic_folder(weights)
    if _is_full_size(folder):
        from ft2ray.critic.omni.card import read_card

        return read_card(folder, fps, pixels)
    return load_critic(weights)


class Look(Protocol):
    """Makes of a clip what a critic's `score` takes: anything with `frames`, what it costs in pictures."""

    def __call__(
        self, frames_FHW3: np.ndarray, wav_T: np.ndarray | None, fps: float, mesher: FaceMesher
    ) -> Any: ...


def critic_look(weights: str, fps: float | None = None, pixels: int | None = None) -> Look:
    """How the critic that `critic.weights` names looks at clips, without loading it.

    A class of the user's may have a static method `look`; without one its critic gets a `ClipView`.
    """
    from ft2ray.critic.omni.card import read_sight
    from ft2ray.critic.talking.view import clip_view

    if _FACTORY.fullmatch(weights):
        owners = [found.look for found in _found(weights)[1:] if hasattr(found, "look")]
        return owners[-1] if owners else clip_view
    folder = _critic_folder(weights)
    return read_sight(folder, fps, pixels) if _is_full_size(folder) else clip_view


def _critic_folder(weights: str) -> str | Path:
    return weights if weights == "embedded" else local_folder(weights)


def _is_full_size(folder: str | Path) -> bool:
    if not isinstance(folder, Path):
        return False
    from ft2ray.critic.omni.card import is_omni

    return is_omni(folder)


def _call(factory: str) -> Any:
    return _found(factory)[-1]()


def _found(factory: str) -> list[Any]:
    """The module that a factory names, and what lies on the way from there to what it names."""
    module, _, name = factory.partition(":")
    try:
        found: list[Any] = [importlib.import_module(module)]
        for attribute in name.split("."):
            found.append(getattr(found[-1], attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{factory} can not be loaded: {error}; name something that can be imported"
        ) from error
    return found
