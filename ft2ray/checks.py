"""What can be found wrong with a configuration before anything is started: places that are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ft2ray.config import AlignConfig
from ft2ray.dimensions import Dimension, questions
from ft2ray.errors import ConfigurationError, WeightsError
from ft2ray.loaders import (
    PACKAGED,
    critic_card,
    generator_fingerprint,
    is_code,
    is_remote,
    load_generator,
)
from ft2ray.rounds.prompts import media_files
from ft2ray.storage import exists, list_files, local_path
from ft2ray.tlpo.settings import TARGETS

if TYPE_CHECKING:
    from ft2ray.critic.base import CriticCard

LONGEST_NAME = 255  # bytes of a file name on the usual file systems


def check_inputs(config: AlignConfig) -> None:
    """Look for the media, the weights and a run folder that can be written to.

    Weights of the user's own are left to a cluster's nodes, which load them: this machine may lack them.

    Raises:
        UserError: for the first that cannot work.
    """
    check_run_dir(config.run_dir)
    places = config.generator.weights, config.critic.weights, config.evaluation.reference_clips
    for place in filter(None, places):
        local_path(place)  # raises for a scheme that is not read
    if config.resources.address is None:
        check_weights(config)
        clips = config.evaluation.reference_clips
        if clips is not None and not exists(clips) and not list_files(clips, recursive=True):
            raise ConfigurationError(
                f"evaluation.reference_clips: {clips} is neither a judge nor a folder with clips in it"
            )
    check_packaged(config)
    media_files(config.prompts.portraits, "portraits")
    media_files(config.prompts.speech, "speech")


def check_packaged(config: AlignConfig) -> None:
    """Compare the settings with the packaged weights, which are the same on every machine.

    Args:
        config: the settings of a run.

    Raises:
        UserError: for the first that cannot work.
    """
    check_targets(config)
    if config.generator.weights in PACKAGED:
        generator_fingerprint(config.generator.weights)
    if config.critic.weights in PACKAGED:
        check_dimensions(config.dimensions, critic_card(config.critic.weights))


def check_weights(config: AlignConfig) -> None:
    """Look for the files that the settings name: no node is asked for to find a folder missing.

    Args:
        config: the settings of a run.

    Raises:
        WeightsError: a folder that is not there, or holds no weights.
        ConfigurationError: an endpoint or a URL that cannot be.
    """
    for setting, weights in (
        ("generator.weights", config.generator.weights),
        ("critic.weights", config.critic.weights),
    ):
        if is_remote(weights) and setting == "critic.weights":
            from ft2ray.critic.remote import endpoint  # needs Pillow and transformers

            endpoint(weights)
            continue
        a_path = local_path(weights) is None or weights.startswith(("/", ".")) or "/" not in weights
        if weights in PACKAGED or is_code(weights) or not a_path:  # else maybe a name on the hub
            continue
        if not list_files(weights, ".safetensors", recursive=True):
            raise WeightsError(
                f"{setting}: {weights} holds no .safetensors file; give the folder of the weights, and on a "
                "cluster mount it on the head too"
            )


def check_targets(config: AlignConfig) -> None:
    """Refuse a pattern of adapted layers that finds none in the packaged generator.

    Args:
        config: the settings of a run.

    Raises:
        ConfigurationError: with the pattern.
    """
    targets = config.tlpo.experts.targets
    if config.generator.weights not in PACKAGED or targets == TARGETS:
        return
    from torch import nn  # takes seconds, and most configurations name no pattern

    modules = load_generator(config.generator.weights).transformer.named_modules()
    if not any(re.fullmatch(targets, name) for name, module in modules if isinstance(module, nn.Linear)):
        raise ConfigurationError(
            f"tlpo.experts.targets {targets!r} is the name of no linear layer of {config.generator.weights}; "
            f"the default is {TARGETS!r}"
        )


def check_run_dir(run_dir: str) -> None:
    """Refuse a local folder that cannot be made or written to.

    Raises:
        ConfigurationError: with the folder that is in the way.
    """
    path = local_path(run_dir)
    if path is None:
        return  # the store's first answer tells
    path = path.absolute()
    long = [part for part in path.parts if len(os.fsencode(part)) > LONGEST_NAME]
    if long:
        raise ConfigurationError(
            f"run_dir: the name {long[0][:40]}... has more than {LONGEST_NAME} bytes; choose a shorter one"
        )
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise ConfigurationError(f"run_dir {run_dir}: {there} is a file; choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"run_dir {run_dir}: {there} cannot be written to; change its permissions or choose another"
        )


def check_dimensions(wanted: Sequence[Dimension], critic: CriticCard) -> None:
    """Refuse a list of dimensions that is not the critic's, and questions that it is not asked.

    Raises:
        ConfigurationError: with both lists, or both questions.
    """
    names = [dimension.name for dimension in wanted]
    if names != list(critic.dimensions):
        raise ConfigurationError(f"dimensions {names} are not the critic's {list(critic.dimensions)}")
    for name, question in questions(wanted).items():
        asked = question if critic.questions is None else critic.questions[name]
        if asked != question:
            raise ConfigurationError(f"dimension {name} asks {question!r}, but its critic is asked {asked!r}")
