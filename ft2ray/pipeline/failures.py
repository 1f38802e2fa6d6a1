"""Ends a run that something outside stopped in one sentence; the same command continues it.

What went wrong in an actor or a train worker arrives at the driver inside exceptions of Ray, each of which
keeps the original one: it is found by its type. (Ray Data keeps it where its context says
`raise_original_map_exception`.)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from ft2ray.errors import FT2RayError, RunEnded
from ft2ray.observe.deaths import reason
from ft2ray.observe.last_error import LastError, forget_last_error, write_last_error
from ft2ray.storage.local import explained

GOES_ON = "what is committed stays, and the same command goes on from there"
log = logging.getLogger(__name__)
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, OutOfMemoryError, RaySystemError)


@contextmanager
def as_user_error(run_dir: str) -> Iterator[None]:
    """Raise what the user has to know, wherever it happened, and keep the traceback of everything else.

    Raises:
        RunEnded: where the same command may work later: no answer, a full disk, a process that Ray lost.
        FT2RayError: any other one, as it was raised.
    """
    try:
        yield
    except Exception as error:
        found = user_error(error, run_dir)
        if found is None:
            raise
        if found.exit_code == RunEnded.exit_code and not isinstance(found, RunEnded):
            found = RunEnded(f"{found}; {GOES_ON}")
        raise found from error


@contextmanager
def keep_last_error(run_dir: str) -> Iterator[None]:
    """Keep the sentence that an attempt ends with in the run folder; a new attempt takes the old one away."""
    forget_last_error(run_dir)
    try:
        yield
    except FT2RayError as error:
        try:
            write_last_error(run_dir, LastError(str(error), error.exit_code, time.time()))
        except (FT2RayError, OSError) as unwritten:  # most likely what the attempt ended for
            log.debug("the end of this attempt is not in the run folder: %s", unwritten)
        raise


def user_error(error: BaseException, run_dir: str) -> FT2RayError | None:
    """The FT2RayError that `error` is, holds or stands for; None for a bug."""
    if isinstance(error, RayTaskError):  # also an instance of the class of its cause
        return user_error(error.cause, run_dir)
    if isinstance(error, FT2RayError):
        return error
    if isinstance(error, OSError):
        try:
            with explained(error.filename or run_dir):
                raise error
        except FT2RayError as named:
            return named
        except OSError:
            return None
    if isinstance(error, OutOfMemoryError):
        _, used, limit = reason("NODE_OUT_OF_MEMORY", str(error))
        numbers = f" ({used:g} of {limit:g} GB were in use)" if limit is not None else ""
        advice = "give the nodes more memory, or raise resources.pools.*.memory so that fewer share one"
        return RunEnded(
            f"Ray ended a process because its node ran out of memory{numbers}; {advice}; {GOES_ON}"
        )
    if isinstance(error, LOST):
        return RunEnded(f"Ray lost a process ({str(error).splitlines()[0]}); {GOES_ON}")
    # Ray Train has the errors of all workers by rank, each with the one that its loop raised.
    inner = [*getattr(error, "worker_failures", {}).values(), getattr(error, "_base_exc", None)]
    found = [user_error(held, run_dir) for held in inner if held is not None]
    return next((held for held in found if held is not None), None)
