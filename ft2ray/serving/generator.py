"""POST /v1/generate: a portrait and a recording in, a talking clip out.

    serve run ft2ray.serving.generator:build run_dir=runs/demo            or serve deploy serve/platform.yaml

The answer is the mp4 itself, a reference to it in the result store, or, for long clips, a line of JSON for
every step and in the end the reference. Lines on the open connection, not a job to come back to: they need no
store of jobs that outlives its replicas and nothing to clean up, a client that leaves stops the work, and
admission, deadline and replacement of a dead replica are those of every other request.
"""

# Without `from __future__ import annotations`, which would hide the class of build's argument from Serve.

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response, StreamingResponse

from ft2ray import storage
from ft2ray.serving.calls import http_host, stream
from ft2ray.serving.front import INTERNAL, REFUSALS, Deadline, body_of, deadline_missed, front, log
from ft2ray.serving.orders import Event, Made, Order
from ft2ray.serving.portrait_generator import PortraitGenerator
from ft2ray.serving.references import answering
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import GeneratorServeConfig, check_exposure
from ft2ray.serving.uploads import Kind, Media, place, read_fields

ROUTE = "/v1/generate"
NDJSON = "application/x-ndjson"

Generate = Callable[[Order], AsyncIterator[Event]]


def _from_json(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:  # what is nested too deep
        raise ValueError(f"not valid JSON: {error}") from error


class GenerateRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    portrait: Media = Field(
        description="one frontal face, lips closed: jpg, png or webp", examples=["s3://media/ada.jpg"]
    )
    audio: Media = Field(
        description="speech: wav, flac, mp3, ogg or a video with sound", examples=["s3://media/one.flac"]
    )
    seed: int = Field(0, ge=0, lt=2**32)
    system: str | None = Field(
        None, description="tlpo, uniform, expert_ls, ..., base; without it the best that the policy has"
    )
    weights: Annotated[
        dict[str, Annotated[float, Field(ge=-4, le=4)]] | None, BeforeValidator(_from_json)
    ] = Field(
        None,
        description="weight of each dimension, which multiplies the gate's (in a form: as JSON)",
        examples=[{"mn": 1.0, "ls": 1.5, "vq": 1.0}],
    )
    audio_scale: float | None = Field(
        None, ge=0, le=20, description="guidance: how strongly the speech rules"
    )
    steps: int | None = Field(None, ge=1, description="sampling steps")
    result: Literal["mp4", "reference", "progress"] = Field(
        "mp4", description="the clip itself, a reference to it, or lines of progress and then the reference"
    )


class GenerateAnswer(BaseModel):
    url: str = Field(examples=["s3://results/5f0c6ffb2e0e6c7e.mp4"])
    link: str | None = Field(description="where anybody can read it for a while; s3 stores only")
    frames: int = Field(examples=[75])
    seconds: float = Field(examples=[3.0])
    seed: int
    system: str = Field(examples=["tlpo"])
    policy: str = Field(description="fingerprint, or base", examples=["c0ffee0123456789"])
    generator: str = Field(description="fingerprint of the base", examples=["0123456789abcdef"])


MP4_ANSWER: dict[str, Any] = {
    "description": "the clip; headers X-FT2Ray-Frames, -Seed, -System, -Policy and -Generator. With "
    "result=reference the JSON below, with result=progress lines like "
    '{"state": "sampling", "share": 0.4}, at last {"state": "done", "url": ...} or {"state": "failed", ...}',
    "model": GenerateAnswer,
    "content": {"video/mp4": {"schema": {"type": "string", "format": "binary"}}, NDJSON: {}},
}


def generator_api(settings: GeneratorServeConfig, generate: Generate) -> FastAPI:
    api = front(
        ROUTE,
        settings,
        "Portrait generator",
        "Lets a portrait speak a recording, by the base generator or by the aligned policy of a run.",
    )
    example = {"portrait": "s3://media/ada.jpg", "audio": "s3://media/one.flac", "result": "reference"}

    @api.post(
        ROUTE,
        responses={200: MP4_ANSWER, **REFUSALS},
        response_class=Response,
        summary="Animate a portrait",
        openapi_extra=body_of(GenerateRequest, ["portrait", "audio"], {"references": {"value": example}}),
    )
    async def animate(request: Request) -> Response:
        asked = GenerateRequest(**await read_fields(request))
        if asked.result != "mp4" and settings.result_store is None:
            raise Refusal(422, "no_result_store", "no result_store is set up here; ask for result=mp4.")
        if asked.steps is not None and asked.steps > settings.max_steps:
            raise Refusal(422, "too_many_steps", f"steps may be {settings.max_steps} at most.")
        events = generate(await asyncio.to_thread(order, asked))
        if asked.result == "progress":
            first = await anext(events)  # a refusal is still a status code here, later only a line
            if isinstance(first, Refusal):
                raise first
            lines = progress_lines(first, events, asked.seed, request.scope["deadline"])
            return StreamingResponse(lines, media_type=NDJSON)
        clip = await last(events)
        if asked.result == "reference":
            answer = await asyncio.to_thread(keep, clip, asked.seed)
            return Response(answer.model_dump_json(), media_type="application/json")
        made = facts(clip, asked.seed)
        headers = {
            f"X-FT2Ray-{name.title()}": str(value) for name, value in made.items() if name != "seconds"
        }
        return Response(clip["mp4"], media_type="video/mp4", headers=headers)

    def order(asked: GenerateRequest) -> Order:
        def media(name: str, kind: Kind, folder: Path) -> tuple[bytes, str]:
            path = place(getattr(asked, name), name, kind, folder, settings)
            return path.read_bytes(), path.suffix

        with tempfile.TemporaryDirectory() as folder:
            return Order(
                portrait=media("portrait", "picture", Path(folder)),
                audio=media("audio", "audio", Path(folder)),
                seed=asked.seed,
                system=asked.system,
                weights=asked.weights,
                steps=asked.steps,
                audio_scale=asked.audio_scale,
            )

    def keep(clip: Made, seed: int) -> GenerateAnswer:
        """Into the result store, under a name that its content gives: made twice it is kept once."""
        assert settings.result_store is not None
        url = storage.join(settings.result_store, hashlib.sha256(clip["mp4"]).hexdigest()[:16] + ".mp4")
        with answering(url):
            storage.write_atomically(url, clip["mp4"])
            link = storage.presigned(url, settings.link_seconds)
        return GenerateAnswer(url=url, link=link, **facts(clip, seed))

    async def progress_lines(
        event: Event, events: AsyncIterator[Event], seed: int, deadline: Deadline
    ) -> AsyncIterator[str]:
        try:
            while isinstance(event, tuple | Refusal):
                if isinstance(event, Refusal):
                    raise event
                yield line(state=event[0], share=event[1])
                async with asyncio.timeout_at(deadline.at):
                    event = await anext(events)
            async with asyncio.timeout_at(deadline.at):
                answer = await asyncio.to_thread(keep, event, seed)
            yield line(state="done", **answer.model_dump())
        except TimeoutError:
            yield line(state="failed", **deadline_missed(deadline.seconds).problem)
        except Refusal as refusal:
            yield line(state="failed", **refusal.problem)
        except Exception:
            log.exception("a clip failed")
            yield line(state="failed", **INTERNAL.problem)

    return api


async def last(events: AsyncIterator[Event]) -> Made:
    async for event in events:
        if isinstance(event, Refusal):
            raise event
        if not isinstance(event, tuple):
            return event
    raise AssertionError("a generator ends with a clip or with a refusal")


def facts(clip: Made, seed: int) -> dict[str, Any]:
    said = {name: value for name, value in clip.items() if name != "mp4"}
    return {"seed": seed, **said}


def line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


@serve.deployment(name="GeneratorFront")
@serve.ingress()
class GeneratorFront:
    def __init__(self, settings: GeneratorServeConfig, generator: DeploymentHandle):
        check_exposure(http_host(), settings.token())
        self.settings, self.generator = settings, generator

    def __serve_build_asgi_app__(self) -> FastAPI:
        return generator_api(self.settings, lambda order: stream(self.generator.animate, order))


def build(args: GeneratorServeConfig) -> serve.Application:
    """The application; limits and scaling are those of the deployments below, or of the config file."""
    busy = {"retry_after_s": args.retry_after_seconds}
    generator = PortraitGenerator.options(  # type: ignore[attr-defined]  # the decorators make Deployments
        max_ongoing_requests=1,
        max_queued_requests=8,
        backpressure_config=busy,
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 1},
        ray_actor_options={"num_cpus": 0.5},
        health_check_period_s=30,
        health_check_timeout_s=60,
    ).bind(args)
    return GeneratorFront.options(  # type: ignore[attr-defined]
        max_ongoing_requests=16,
        max_queued_requests=16,
        backpressure_config=busy,
        autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 8},
        ray_actor_options={"num_cpus": 0.2},
    ).bind(args, generator)
