"""A request that is not served: its status, a slug for programs and a sentence for people."""

from __future__ import annotations

import logging
import math
import uuid
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from ft2ray.errors import (
    CriticError,
    FT2RayError,
    MediaError,
    NonFiniteError,
    StoreRefused,
    StoreUnavailable,
    UserError,
)

log = logging.getLogger("ray.serve")


class Problem(BaseModel):
    """The body of every answer that is not a success."""

    reason: str = Field(description="a slug for programs", examples=["too_long"])
    detail: str = Field(
        description="what is wrong and what to do about it",
        examples=["video is longer than the limit of 20 s; cut it."],
    )


class Refusal(FT2RayError):
    """Raise it anywhere below the front; it is answered as a Problem."""

    def __init__(self, status: int, reason: str, detail: str, retry_after: float | None = None):
        super().__init__(status, reason, detail, retry_after)  # all in `args`: it survives pickling
        self.status, self.reason, self.detail, self.retry_after = status, reason, detail, retry_after

    def __str__(self) -> str:
        return self.detail

    @property
    def problem(self) -> dict[str, str]:
        return Problem(reason=self.reason, detail=self.detail).model_dump()

    @property
    def response(self) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_after))
        return JSONResponse(self.problem, self.status, headers)


# What is the service's fault: the answer names no paths, endpoints or numbers, the log has them.
_FAULTS: dict[type[FT2RayError], tuple[int, str, str]] = {
    StoreRefused: (502, "store_refuses", "a store refuses this service"),
    StoreUnavailable: (503, "store_unavailable", "a store does not answer; try again later"),
    CriticError: (502, "critic_failed", "the critic gave no scores"),
    NonFiniteError: (500, "not_finite", "the model gave numbers that are not finite"),
}


def refusal_of(error: BaseException) -> Refusal:
    """The answer to what went wrong below the front; the log gets what the client cannot mend."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, MediaError):
        return Refusal(422, error.reason, error.sentence)
    if isinstance(error, UserError):
        return Refusal(422, "not_possible", f"{error}.")
    for kind, (status, reason, said) in _FAULTS.items():
        if isinstance(error, kind):
            return _with_id(error, status, reason, said)
    return _with_id(error, 500, "internal", "the service failed")


def _with_id(error: BaseException, status: int, reason: str, said: str) -> Refusal:
    found: Any = uuid.uuid4().hex[:12]
    log.error("%s: %s", found, error, exc_info=error)
    retry_after = 5.0 if status == 503 else None
    return Refusal(status, reason, f"{said}; its log has the details under {found}.", retry_after)
