"""What both `build` functions do: check everything first, then put the front before the service.

A build that raises leaves the application that is being served at work; a replica that fails does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.serve.exceptions import RayServeException

from ft2ray import storage
from ft2ray.errors import ConfigurationError
from ft2ray.serving.calls import http_host
from ft2ray.serving.settings import FrontSettings, check_exposure

CHECK_SECONDS = 600.0  # weights on S3 come into the node's cache first


def application(
    front: Any,
    settings: FrontSettings,
    behind: Any,
    arguments: tuple,
    check: Callable[[], None],
    stores: tuple[str, ...],
) -> serve.Application:
    """The front over the deployment behind it.

    Args:
        front: a deployment with its limits and scaling, which a config file may override.
        settings: of the front, and its only argument beside the handle of `behind`.
        behind: the deployment that works, likewise.
        arguments: of `behind`.
        check: raises where the weights or the run cannot be served.
        stores: folders that must be there.

    Raises:
        FT2RayError: one sentence that says what cannot work.
    """
    token = settings.token()
    if ray.is_initialized():
        check_exposure(_host(), token)
        _check_on_the_cluster(check, stores)
    else:
        _check(check, stores)
    busy = {"retry_after_s": settings.retry_after_seconds}
    handle = behind.options(backpressure_config=busy).bind(*arguments)
    return front.options(backpressure_config=busy).bind(settings, handle)


def _check(check: Callable[[], None], stores: tuple[str, ...]) -> None:
    check()
    for store in stores:
        local = storage.local_path(store)
        if local is not None and not (local.is_dir() and os.access(local, os.R_OK | os.X_OK)):
            raise ConfigurationError(f"the store {store} is not a folder that can be read here; mount it")
        if local is None:
            storage.list_folders(store)  # raises where the bucket cannot be read


@ray.remote(num_cpus=0.01, max_retries=1)
def _check_on_a_worker(check: Callable[[], None], stores: tuple[str, ...]) -> None:
    """Check where replicas run: a head without CPUs may lack the volumes and the memory."""
    _check(check, stores)


def _check_on_the_cluster(check: Callable[[], None], stores: tuple[str, ...]) -> None:
    try:
        ray.get(_check_on_a_worker.remote(check, stores), timeout=CHECK_SECONDS)
    except RayTaskError as error:
        raise error.cause from None
    except GetTimeoutError:
        raise ConfigurationError(
            f"weights and stores could not be checked within {CHECK_SECONDS:g} s: no node has a CPU to "
            "spare, or the weights take longer to arrive"
        ) from None


def _host() -> str | None:
    """Where Serve listens; None where no Serve runs yet, whose replicas look again."""
    try:
        return http_host()
    except RayServeException:
        return None
