"""Optional dependencies: what a missing one is needed for, and how to install it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ft2ray.errors import ConfigurationError

PURPOSE = {
    "serve": "serving over HTTP",
    "s3": "s3:// URLs",
    "zero": "resources.compute.zero_stage",
    "eval": "the evaluation of clips",
    "ui": "the page in the browser",
}


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the imports that an extra of pyproject.toml brings.

    Raises:
        ConfigurationError: where one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{PURPOSE[name]}: {error.name} is not installed; pip install 'ft2ray[{name}]'"
        ) from error
