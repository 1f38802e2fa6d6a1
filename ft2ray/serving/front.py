"""The front door of both applications: who may come in, how much they may bring, how long it may take.

    401  without the token                        413  the body or a referred file is too large
    422  media, reference or fields unusable      503  too many requests wait (Retry-After)
    504  not done within the deadline

The gate works before the body is read, so that a stranger's upload is never taken in. How many requests run
and wait is bounded by Ray Serve (max_ongoing_requests, max_queued_requests), whose 503 carries Retry-After.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Security
from fastapi.encoders import jsonable_encoder
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ft2ray.errors import MediaError
from ft2ray.serving.refusal import Problem, Refusal
from ft2ray.serving.settings import FrontSettings

DEADLINE_HEADER = "X-Deadline-Seconds"
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "the token is missing or wrong"},
    413: {"model": Problem, "description": "the body, or a file that is referred to, is too large"},
    422: {"model": Problem, "description": "a file, a reference or a field can not be used"},
    502: {"model": Problem, "description": "the store of a reference does not give the file"},
    503: {"model": Problem, "description": "too many requests wait; try again after Retry-After seconds"},
    504: {"model": Problem, "description": "not done within the deadline"},
}
INTERNAL = Refusal(500, "internal", "the service failed; its log has the details.")
log = logging.getLogger("ray.serve")


class Deadline(NamedTuple):
    """In the scope of every request; `at` is on the clock of the event loop."""

    seconds: float
    at: float


def front(route: str, settings: FrontSettings, title: str, description: str) -> FastAPI:
    """A FastAPI application behind the gate; every answer that is no success is a Problem."""
    api = FastAPI(
        title=title,
        description=description,
        docs_url=f"{route}/docs",
        redoc_url=None,
        openapi_url=f"{route}/openapi.json",
        dependencies=[Security(HTTPBearer(auto_error=False, description="the service's token"))],
    )
    token = settings.token()
    api.add_middleware(
        Gate,
        route=route,
        token=token,
        max_bytes=settings.max_bytes,
        deadline_seconds=settings.deadline_seconds,
    )

    @api.exception_handler(Refusal)
    async def refused(_request: Request, error: Refusal) -> Response:
        return error.response

    @api.exception_handler(MediaError)
    async def unusable(_request: Request, error: MediaError) -> Response:
        return Refusal(422, error.reason, error.sentence).response

    @api.exception_handler(ValidationError)
    async def invalid(_request: Request, error: ValidationError) -> Response:
        return Refusal(422, "bad_field", sentence(error)).response

    @api.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> Response:
        problem = Problem(reason=f"http_{error.status_code}", detail=str(error.detail))
        return JSONResponse(problem.model_dump(), error.status_code, error.headers)

    return api


def sentence(error: ValidationError) -> str:
    """What pydantic found wrong, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in error.errors()
    )


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


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, route: str, token: str | None, max_bytes: int, deadline_seconds: float):
        self.app, self.route = app, route
        self.token = None if token is None else _digest(token)
        self.max_bytes, self.deadline_seconds = max_bytes, deadline_seconds
        self.open_paths = (f"{route}/docs", f"{route}/openapi.json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # The routes carry their full path, wherever Serve has put the application.
        root = scope.get("root_path", "").removesuffix(self.route)
        scope = dict(scope, root_path=root)
        headers = Headers(scope=scope)
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            if started:
                timeout.reschedule(None)  # what streams keeps the deadline itself
            await send(message)

        try:
            if scope["path"].removeprefix(root) not in self.open_paths:
                self._check_token(headers.get("authorization", ""))
            self._check_length(headers.get("content-length", "0"))
            seconds = self._seconds(headers.get(DEADLINE_HEADER))
            scope["deadline"] = Deadline(seconds, asyncio.get_running_loop().time() + seconds)
            async with asyncio.timeout(seconds) as timeout:
                await self.app(scope, self._limited(receive), watched_send)
        except Refusal as refusal:
            if started:
                raise
            await refusal.response(scope, receive, send)
        except TimeoutError:
            if started:
                raise
            await deadline_missed(seconds).response(scope, receive, send)
        except Exception:
            if started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await INTERNAL.response(scope, receive, send)

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip() if scheme.lower() == "bearer" else "")
        if self.token is not None and not hmac.compare_digest(given, self.token):
            raise Refusal(401, "unauthorised", "send the service's token as 'Authorization: Bearer TOKEN'.")

    def _check_length(self, length: str) -> None:
        if length.isdecimal() and int(length) > self.max_bytes:
            raise self._too_large()

    def _seconds(self, asked: str | None) -> float:
        if asked is None:
            return self.deadline_seconds
        try:
            seconds = float(asked)
        except ValueError:
            seconds = -1.0
        if not seconds > 0:
            raise Refusal(422, "bad_deadline", f"{DEADLINE_HEADER} must be a positive number of seconds.")
        return min(seconds, self.deadline_seconds)

    def _limited(self, receive: Receive) -> Receive:
        """Counts the body as it comes, since a length that is promised may be missing or a lie."""
        left = self.max_bytes

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refusal:
        return Refusal(
            413,
            "too_large",
            f"a request may have {self.max_bytes} bytes; send a smaller file or a reference.",
        )


def deadline_missed(seconds: float) -> Refusal:
    return Refusal(
        504, "deadline", f"not done within the deadline of {seconds:g} s; send less, or try again later."
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()  # equal lengths, so comparing takes equal time
