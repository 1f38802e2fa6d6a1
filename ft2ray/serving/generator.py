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
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response, StreamingResponse

from ft2ray import storage
from ft2ray.errors import StoreRefused
from ft2ray.loaders import generator_fingerprint
from ft2ray.media.generated_clip import GeneratedClip
from ft2ray.scratch import remove_leftovers, scratch_folder
from ft2ray.serving.application import application
from ft2ray.serving.calls import ask, http_host, stream
from ft2ray.serving.deaths import DEATHS, ReplicaDeaths, soon
from ft2ray.serving.decoding import Decoders
from ft2ray.serving.front import REFUSALS, Deadline, Slots, body_of, deadline_missed, front
from ft2ray.serving.messages import ClipRequest, Event, State
from ft2ray.serving.portrait_generator import GeneratorService, served_config, served_weights
from ft2ray.serving.readers import prompt_reader
from ft2ray.serving.refusal import Refusal, refusal_of
from ft2ray.serving.settings import GeneratorServeConfig, check_exposure
from ft2ray.serving.uploads import Media, named_by_field, place, read_request
from ft2ray.texts import strict_json

ROUTE = "/v1/generate"
NDJSON = "application/x-ndjson"

Generate = Callable[[ClipRequest], AsyncGenerator[Event, None]]


def _from_json(value: Any) -> Any:
    try:
        return strict_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"not valid JSON: {error}") from error


class GenerateRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    portrait: Media = Field(
        description="one frontal face, lips closed: JPEG, PNG, WebP, HEIC, AVIF, TIFF or GIF",
        examples=["s3://media/ada.jpg"],
    )
    audio: Media = Field(
        description="speech: WAV, FLAC, MP3, OGG, AAC, AIFF and others, or a film with sound",
        examples=["s3://media/one.flac"],
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


class GeneratorHealth(State):
    deaths: list[str] = DEATHS


def generator_api(
    settings: GeneratorServeConfig,
    size: int,
    generate: Generate,
    state: Callable[[], Awaitable[State]],
    deaths: Callable[[], list[str]],
) -> FastAPI:
    """The application: `size` is the side of portraits, `generate` and `state` ask a replica.

    `deaths` says which replicas died.
    """
    decode, slots = Decoders(partial(prompt_reader, size, settings.max_seconds), settings), Slots(settings)
    api = front(
        ROUTE,
        settings,
        "Portrait generator",
        "Lets a portrait speak a recording, by the base generator or by the aligned policy of a run.",
        lifespan=decode,
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
        slots.check()
        asked = await read_request(request, GenerateRequest)
        if asked.result != "mp4" and settings.result_store is None:
            raise Refusal(422, "no_result_store", "no result_store is set up here; ask for result=mp4.")
        if asked.steps is not None and asked.steps > settings.max_steps:
            raise Refusal(422, "too_many_steps", f"steps may be {settings.max_steps} at most.")
        if asked.result == "progress":
            events = work(asked)
            first = await anext(events)  # a refusal is still a status code here, later only a line
            if isinstance(first, Refusal):
                raise first
            lines = progress_lines(first, events, asked.seed, request.scope["deadline"])
            return StreamingResponse(lines, media_type=NDJSON)
        clip = await last(work(asked))
        if asked.result == "reference":
            answer = await asyncio.to_thread(keep, clip, asked.seed)
            return Response(answer.model_dump_json(), media_type="application/json")
        made = facts(clip, asked.seed)
        headers = {
            f"X-FT2Ray-{name.title()}": str(value) for name, value in made.items() if name != "seconds"
        }
        return Response(clip.mp4, media_type="video/mp4", headers=headers)

    @api.get(
        f"{ROUTE}/health", summary="Which policy is at work, and which replicas died", responses=REFUSALS
    )
    async def health() -> GeneratorHealth:
        """The policy of one replica, and why the run's current one is refused where it is."""
        found = await soon(state(), deaths)
        return GeneratorHealth(**found.model_dump(), deaths=deaths())

    async def work(asked: GenerateRequest) -> AsyncGenerator[Event, None]:
        """What the generator says of a request, in one of the slots."""
        async with slots.one():
            async for event in generate(await decoded(asked)):
                yield event

    async def decoded(asked: GenerateRequest) -> ClipRequest:
        with scratch_folder() as folder, named_by_field(folder):
            portrait = await asyncio.to_thread(place, asked.portrait, "portrait", folder, settings)
            audio = await asyncio.to_thread(place, asked.audio, "audio", folder, settings)
            loaded, wav_T = await decode(portrait, audio)
        return ClipRequest(
            portrait=loaded,
            wav_T=wav_T,
            seed=asked.seed,
            system=asked.system,
            weights=asked.weights,
            steps=asked.steps,
            audio_scale=asked.audio_scale,
        )

    def keep(clip: GeneratedClip, seed: int) -> GenerateAnswer:
        """Into the result store, under a name that its content gives: made twice it is kept once."""
        assert settings.result_store is not None
        url = storage.join(settings.result_store, hashlib.sha256(clip.mp4).hexdigest()[:16] + ".mp4")
        try:
            storage.write_atomically(url, clip.mp4)
            link = storage.presigned(url, settings.link_seconds)
        except OSError as error:  # no permission, no room
            raise StoreRefused(f"{url}: {error}") from error
        return GenerateAnswer(url=url, link=link, **facts(clip, seed))

    async def progress_lines(
        event: Event, events: AsyncGenerator[Event, None], seed: int, deadline: Deadline
    ) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(events):
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
        except Exception as error:  # the lines have begun: what would be a status code is the last of them
            yield line(state="failed", **refusal_of(error).problem)

    return api


async def last(events: AsyncGenerator[Event, None]) -> GeneratedClip:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Refusal):
                raise event
            if not isinstance(event, tuple):
                return event
    raise AssertionError("a generator ends with a clip or with a refusal")


def facts(clip: GeneratedClip, seed: int) -> dict[str, Any]:
    said = {name: value for name, value in vars(clip).items() if name != "mp4"}
    return {"seed": seed, **said}


def line(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


@serve.deployment(
    name="GeneratorFront",
    max_ongoing_requests=64,  # connections; FrontSettings.slots is how many are worked on
    max_queued_requests=64,  # a burst of them, which Serve hands on one by one
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 8},
    ray_actor_options={"num_cpus": 0.2},
)
@serve.ingress()
class GeneratorFront:
    def __init__(self, settings: GeneratorServeConfig, generator: DeploymentHandle):
        check_exposure(http_host(), settings.token())
        remove_leftovers()
        self.settings, self.generator = settings, generator
        self.deaths = ReplicaDeaths("GeneratorFront", "PortraitGenerator")

    def __serve_build_asgi_app__(self) -> FastAPI:
        size = served_config(self.settings).generator.size
        return generator_api(
            self.settings,
            size,
            lambda request: stream(self.generator.animate, request),
            lambda: ask(self.generator.state),
            self.deaths.lines,
        )


def check(settings: GeneratorServeConfig) -> None:
    """Raise where the generator cannot be served; it is not loaded."""
    weights, allow_code = served_weights(settings)
    generator_fingerprint(weights, allow_code)


def build(args: GeneratorServeConfig) -> serve.Application:
    """The application; a config file may override the limits and scaling of its deployments."""
    stores = args.stores if args.result_store is None else (*args.stores, args.result_store)
    return application(GeneratorFront, args, GeneratorService, (args,), partial(check, args), stores)
