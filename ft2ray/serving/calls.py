"""Calls from a front to the deployment behind it: cancelled with their request, repeated when a replica dies.

Only calls that have no effect but their answer are made this way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import OutOfMemoryError, RayTaskError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from ft2ray.errors import FT2RayError
from ft2ray.pipeline.failures import LOST
from ft2ray.serving.refusal import Refusal

ATTEMPTS = 2
RETRY_AFTER_SECONDS = 10.0  # a new replica loads its weights first
log = logging.getLogger("ray.serve")


async def ask(method: DeploymentHandle, *args: Any) -> Any:
    """The answer of one call."""
    for left in reversed(range(ATTEMPTS)):
        call = method.remote(*args)
        try:
            return await call
        except asyncio.CancelledError:
            call.cancel()
            raise
        except (*LOST, BackPressureError, DeploymentUnavailableError) as error:
            _refuse_unless_worth_another_try(error, left)
        except RayTaskError as error:
            raise _cause(error) from error


async def stream(method: DeploymentHandle, *args: Any) -> AsyncGenerator[Any, None]:
    """What a generator method yields; after the death of its replica from the start again, on another one."""
    for left in reversed(range(ATTEMPTS)):
        call: Any = method.options(stream=True).remote(*args)
        try:
            async for item in call:
                yield item
            return
        except (asyncio.CancelledError, GeneratorExit):
            call.cancel()
            raise
        except (*LOST, BackPressureError, DeploymentUnavailableError) as error:
            _refuse_unless_worth_another_try(error, left)
        except RayTaskError as error:
            raise _cause(error) from error


def _cause(error: RayTaskError) -> Exception:
    """What the replica raised where it is a sentence; Ray's own wrapper would put a traceback into it."""
    return error.cause if isinstance(error.cause, FT2RayError) else error


def _refuse_unless_worth_another_try(error: Exception, left: int) -> None:
    if isinstance(error, BackPressureError):
        raise Refusal(
            503, "busy", "too many requests wait; try again later.", retry_after=error.retry_after_s or 1.0
        ) from error
    if isinstance(error, DeploymentUnavailableError) or not left:
        sentence = f"no replica could finish this: {_why(error)}; try again later."
        raise Refusal(503, "replica_died", sentence, RETRY_AFTER_SECONDS) from error
    log.warning("a replica died at work, asking another one: %s", error)


def _why(error: Exception) -> str:
    if isinstance(error, DeploymentUnavailableError):
        return "none gets ready"
    if isinstance(error, OutOfMemoryError):
        return "the last one that tried ran out of memory"
    return "the last one that tried died"


def http_host() -> str | None:
    """Where this cluster's Serve listens for HTTP; None where it does not."""
    client = _get_global_client()
    assert client is not None, "a replica runs below a Serve controller"
    return client.http_config.host
