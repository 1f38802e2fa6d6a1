"""The front door of both applications: who may come in, how much they may bring, how long it may take.

The token is checked before the body is read. A body is read before the request takes one of the few slots, so
that slow senders hold up only themselves, and one below the least rate is broken off. The deadline
counts from the arrival at this replica, which takes far more connections than it has slots.

Headers are read by Ray's HTTP proxy, which limits neither their size nor their time: an ingress has to.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any, NamedTuple

from fastapi import FastAPI, Request, Security
from fastapi.encoders import jsonable_encoder
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ft2ray.errors import FT2RayError
from ft2ray.serving.refusal import Problem, Refusal, refusal_of
from ft2ray.serving.settings import FrontSettings

DEADLINE_HEADER = "X-Deadline-Seconds"
GRACE_SECONDS = 5.0  # before the rate of a body counts
REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "the body is not a form, or not HTTP"},
    401: {"model": Problem, "description": "the token is missing or wrong"},
    408: {"model": Problem, "description": "the body came too slowly"},
    413: {"model": Problem, "description": "the body, or a file that is referred to, is too large"},
    415: {"model": Problem, "description": "the body is neither JSON nor a form"},
    422: {"model": Problem, "description": "a file, a reference or a field cannot be used"},
    500: {"model": Problem, "description": "the service failed; its log has the details under the id"},
    502: {"model": Problem, "description": "a store or the critic behind the service failed"},
    503: {
        "model": Problem,
        "description": "too many requests wait, or a replica is lost; try again after Retry-After seconds",
        "content": {"text/plain": {"schema": {"type": "string"}}},  # Ray's own, where no replica takes it
    },
    504: {"model": Problem, "description": "not done within the deadline"},
}
BEARER = HTTPBearer(auto_error=False, description="the service's token")


class Deadline(NamedTuple):
    """In the scope of every request; `at` is on the clock of the event loop."""

    seconds: float
    at: float


class Slots:
    """How many requests are worked on at once; a bounded number of others waits."""

    def __init__(self, settings: FrontSettings):
        self.free, self.waiting = asyncio.Semaphore(settings.slots), 0
        self.settings = settings

    def check(self) -> None:
        """Refuse early, before a body is read, where no more may wait."""
        if self.free.locked() and self.waiting >= self.settings.waiting:
            raise Refusal(
                503, "busy", "too many requests wait; try again later.", self.settings.retry_after_seconds
            )

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        self.check()
        self.waiting += 1
        try:
            await self.free.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self.free.release()


def front(
    route: str,
    settings: FrontSettings,
    title: str,
    description: str,
    lifespan: AbstractAsyncContextManager | None = None,
) -> FastAPI:
    """A FastAPI application behind the door; every answer that is not a success is a Problem.

    Args:
        route: of the application; its pages lie below.
        settings: token and limits.
        title: of the pages.
        description: of the pages.
        lifespan: entered when the application starts.
    """
    token = settings.token()

    async def known(given: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)]) -> None:
        if token is None:
            return
        if given is None or not hmac.compare_digest(given.credentials.strip().encode(), token.encode()):
            raise Refusal(401, "unauthorised", "send the service's token as 'Authorization: Bearer TOKEN'.")

    @asynccontextmanager
    async def alive(_api: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            yield
        else:
            async with lifespan:
                yield

    async def refused(_request: Request, error: Exception) -> Response:
        return refusal_of(error).response

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        problem = Problem(reason=f"http_{error.status_code}", detail=str(error.detail))
        return JSONResponse(problem.model_dump(), error.status_code, error.headers)

    api = FastAPI(
        title=title,
        description=description,
        docs_url=f"{route}/docs",
        redoc_url=None,
        openapi_url=f"{route}/openapi.json",
        dependencies=[Security(known)],
        exception_handlers={FT2RayError: refused, HTTPException: http},
        lifespan=alive,
    )
    api.add_middleware(Bounds, route=route, settings=settings)
    return api


def body_of(model: type[BaseModel], files: Sequence[str], examples: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of a body that comes as JSON, or as a form in which `files` may be files."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    form = jsonable_encoder(schema)
    for name in files:
        described = form["properties"][name]["description"]
        form["properties"][name] = {"type": "string", "format": "binary", "description": described}
    content = {
        "multipart/form-data": {"schema": form},
        "application/json": {"schema": schema, "examples": examples},
    }
    return {"requestBody": {"required": True, "content": content}}


class Bounds:
    """ASGI middleware: size and rate of the body, the deadline, and an answer to uncaught errors."""

    def __init__(self, app: ASGIApp, route: str, settings: FrontSettings):
        self.app, self.route, self.settings = app, route, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The routes carry their full path, wherever Serve has put the application.
        scope = dict(scope, root_path=scope.get("root_path", "").removesuffix(self.route))
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            if started:
                timeout.reschedule(None)  # what streams keeps the deadline itself
            await send(message)

        try:
            headers = Headers(scope=scope)
            self._check_length(headers.get("content-length", "0"))
            seconds = self._seconds(headers.get(DEADLINE_HEADER))
            scope["deadline"] = Deadline(seconds, asyncio.get_running_loop().time() + seconds)
            async with asyncio.timeout(seconds) as timeout:
                await self.app(scope, self._limited(receive), watched_send)
        except Exception as error:  # the last resort: an answer with the id under which the log has it
            if started:
                raise
            late = isinstance(error, TimeoutError) and timeout.expired()
            refusal = deadline_missed(seconds) if late else refusal_of(error)
            await refusal.response(scope, receive, send)

    def _check_length(self, length: str) -> None:
        if length.isdecimal() and int(length) > self.settings.max_bytes:
            raise self._too_large()

    def _seconds(self, asked: str | None) -> float:
        if asked is None:
            return self.settings.deadline_seconds
        try:
            seconds = float(asked)
        except ValueError:
            seconds = math.nan
        if not seconds > 0:
            raise Refusal(422, "bad_deadline", f"{DEADLINE_HEADER} must be a positive number of seconds.")
        return min(seconds, self.settings.deadline_seconds)

    def _limited(self, receive: Receive) -> Receive:
        """Count the body as it comes, since a length that is promised may be missing or a lie."""
        clock, least = asyncio.get_running_loop().time, self.settings.min_kb_per_second * 1e3
        began, size, more = clock(), 0, True

        async def limited() -> Message:
            nonlocal size, more
            if not more:  # what comes now is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(began + GRACE_SECONDS + size / least) as slow:
                    message = await receive()
            except TimeoutError:
                if not slow.expired():
                    raise
                raise Refusal(
                    408, "too_slow", f"a body must come with {least / 1e3:g} kB a second at least."
                ) from None
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            if size > self.settings.max_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "too_large",
            f"a request may have {self.settings.max_bytes} bytes; send a smaller file or a reference.",
        )


def deadline_missed(seconds: float) -> Refusal:
    return Refusal(
        504, "deadline", f"not done within the deadline of {seconds:g} s; send less, or try again later."
    )
