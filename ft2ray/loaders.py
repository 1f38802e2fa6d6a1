"""The generator and the critic that two settings name.

"embedded" is the package's own, a path or s3:// URL is a folder of weights for the same classes (a critic may
also be a Qwen2.5-Omni folder or hub name, a tuned critic's folder, or "openai:MODEL@URL"), and
"package.module:name" (or "package.module:Class.load") is called without arguments and returns your own
`ft2ray.generator.base.Generator` or `ft2ray.critic.base.Critic`.

Every process loads one or the other, so each function imports what it needs: together they take five seconds.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft2ray.errors import ConfigurationError
from ft2ray.storage import local_folder

if TYPE_CHECKING:
    from ft2ray.critic.base import Critic, CriticCard
    from ft2ray.critic.viewer import Viewer
    from ft2ray.generator.base import Generator

PACKAGED = ("embedded", "embedded-uncurated")  # names of weights that come with the package
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load_generator(weights: str, allow_code: bool = False) -> Generator:
    """Load the generator that `weights` names.

    Args:
        weights: "embedded" or "embedded-uncurated", a folder, or "package.module:name".
        allow_code: whether a "package.module:name" may be imported and called.

    Raises:
        ConfigurationError, WeightsError: where there is none, or it does not fit.
    """
    from ft2ray.generator.base import Generator

    if is_code(weights):
        return _made(weights, Generator, "generator.weights", allow_code)
    kind, folder = _generator(weights)
    return kind.load(folder)


def generator_fingerprint(weights: str, allow_code: bool = False) -> str:
    """The fingerprint of `load_generator(weights)`, from the files alone where it is one of ours."""
    if is_code(weights):
        return load_generator(weights, allow_code).fingerprint
    kind, folder = _generator(weights)
    return kind.fingerprint_of(folder)


def _generator(weights: str) -> tuple[Any, str | Path]:
    from ft2ray.generator.checkpoint import read_config
    from ft2ray.generator.portrait.generator import PACKAGED, PortraitGenerator

    if weights in PACKAGED:
        return PortraitGenerator, weights
    folder = local_folder(weights)
    codec = read_config(folder)["codec"]
    if codec == "portrait":
        return PortraitGenerator, folder
    if codec == "wan":
        from ft2ray.generator.wan.generator import WanGenerator

        return WanGenerator, folder
    raise ConfigurationError(f"generator: {weights} needs the codec {codec!r}; known: portrait, wan")


def load_critic(
    weights: str,
    fps: float | None = None,
    pixels: int | None = None,
    questions: Mapping[str, str] | None = None,
    allow_code: bool = False,
) -> Critic:
    """Load the critic that `weights` names.

    Args:
        weights: "embedded", a folder, a Qwen2.5-Omni hub name, "openai:MODEL@URL", or "package.module:name".
        fps: pictures a second that a full-size critic looks at, None for its own; others have a fixed view.
        pixels: largest area of these pictures, pixels x pixels.
        questions: what an untuned model is asked, by dimension; the others have their own.
        allow_code: whether a "package.module:name" may be imported and called.

    Raises:
        ConfigurationError, WeightsError: where there is none, or it does not fit.
    """
    from ft2ray.critic.base import Critic

    if is_code(weights):
        return _made(weights, Critic, "critic.weights", allow_code)
    if is_remote(weights):
        from ft2ray.critic.remote import RemoteCritic

        return RemoteCritic.load(weights, fps, pixels, questions)
    folder = _critic_folder(weights)
    if _is_full_size(folder):
        from ft2ray.critic.omni.critic import OmniCritic

        return OmniCritic.load(folder, fps, pixels, questions)
    from ft2ray.critic.talking.critic import TalkingCritic

    return TalkingCritic.load(folder)


def critic_card(
    weights: str,
    fps: float | None = None,
    pixels: int | None = None,
    questions: Mapping[str, str] | None = None,
    allow_code: bool = False,
) -> CriticCard:
    """What is known of `load_critic(...)`, from the files alone where it is one of ours."""
    from ft2ray.critic.base import CriticCard

    if is_code(weights):
        critic = load_critic(weights, allow_code=allow_code)
        return CriticCard(critic.dimensions, critic.fingerprint, critic.calibration)
    if is_remote(weights):
        from ft2ray.critic.remote import remote_card

        return remote_card(weights, fps, pixels, questions)
    folder = _critic_folder(weights)
    if _is_full_size(folder):
        from ft2ray.critic.omni.card import read_card

        card = read_card(folder, fps, pixels, questions)
        return CriticCard(card.dimensions, card.fingerprint, card.calibration, card.questions)
    from ft2ray.critic.talking.critic import TalkingCritic

    return TalkingCritic.card(folder)


def load_viewer(
    weights: str, fps: float | None = None, pixels: int | None = None, allow_code: bool = False
) -> Viewer:
    """How the critic that `weights` names looks at clips; its network is not loaded.

    A critic of yours is loaded only where `weights` names no class whose `viewer` could be asked.
    """
    from ft2ray.critic.base import Critic
    from ft2ray.critic.omni.card import read_viewer

    if is_code(weights):
        for found in reversed(_found(weights, "critic.weights", allow_code)):
            if isinstance(found, type) and issubclass(found, Critic):
                return found.viewer
        return load_critic(weights, allow_code=allow_code).viewer
    if is_remote(weights):
        from ft2ray.critic.remote import remote_viewer

        return remote_viewer(weights, fps, pixels)
    folder = _critic_folder(weights)
    return read_viewer(folder, fps, pixels) if _is_full_size(folder) else Critic.viewer


def _critic_folder(weights: str) -> str | Path:
    return weights if weights == "embedded" else local_folder(weights)


def _is_full_size(folder: str | Path) -> bool:
    if not isinstance(folder, Path):
        return False
    from ft2ray.critic.omni.card import is_omni

    return is_omni(folder)


def is_remote(weights: str) -> bool:
    """Whether `weights` names an OpenAI-compatible endpoint, "openai:MODEL@URL"."""
    return weights.startswith("openai:")


def is_code(weights: str) -> bool:
    """Whether `weights` is a "package.module:name" instead of data."""
    return not is_remote(weights) and _FACTORY.fullmatch(weights) is not None


def _made(factory: str, kind: Any, setting: str, allow_code: bool) -> Any:
    made = _found(factory, setting, allow_code)[-1]()
    if not isinstance(made, kind):
        raise ConfigurationError(
            f"{setting}: {factory} gave a {type(made).__name__}; it must give a subclass of "
            f"{kind.__module__}.{kind.__name__}"
        )
    return made


def _found(factory: str, setting: str, allow_code: bool) -> list[Any]:
    """The module that a factory names, and what lies on the way from there to what it names."""
    if not allow_code:
        raise ConfigurationError(
            f"{setting} names code, {factory}, which would be imported and called; where you trust whoever "
            "wrote that, permit it with --allow-code (allow_code of a service, allow_code=True in Python)"
        )
    module, _, name = factory.partition(":")
    try:
        found: list[Any] = [importlib.import_module(module)]
        for attribute in name.split("."):
            found.append(getattr(found[-1], attribute))
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"{factory} cannot be loaded: {error}; name something that can be imported"
        ) from error
    return found
