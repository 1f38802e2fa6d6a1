"""A request that is not served: its status, a slug for programs and a sentence for people."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse


class Problem(BaseModel):
    """The body of every answer that is not a success."""

    reason: str = Field(description="a slug for programs", examples=["too_long"])
    detail: str = Field(
        description="what is wrong and what to do about it",
        examples=["clip.mp4 is longer than the limit of 20 s; cut it."],
    )


class Refusal(Exception):
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
