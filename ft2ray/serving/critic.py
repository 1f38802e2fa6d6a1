"""POST /v1/score: what Talking-Critic says of a clip.

    serve run ft2ray.serving.critic:build            or serve deploy serve/platform.yaml

The front reads the clip and makes the view of it; the critic itself is the deployment that curation uses.
"""

# Without `from __future__ import annotations`, which would hide the class of build's argument from Serve.

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from ft2ray.loaders import critic_card
from ft2ray.pipeline.critic_service import CriticService
from ft2ray.scratch import remove_leftovers, scratch_folder
from ft2ray.serving.application import application
from ft2ray.serving.calls import ask, http_host
from ft2ray.serving.deaths import DEATHS, ReplicaDeaths, soon
from ft2ray.serving.decoding import Decoders
from ft2ray.serving.front import REFUSALS, Slots, body_of, front
from ft2ray.serving.readers import clip_reader
from ft2ray.serving.settings import CriticServeConfig, check_exposure
from ft2ray.serving.uploads import Media, named_by_field, place, read_request

ROUTE = "/v1/score"
YES = 0.5

# (view) -> (P(Yes) by dimension, fingerprint of the critic)
Judge = Callable[[Any], Awaitable[tuple[dict[str, float], str]]]


class ScoreRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    video: Media = Field(
        description="the clip with its sound: MP4, MOV, MKV, WebM, AVI or MPEG",
        examples=["s3://clips/one.mp4"],
    )


class ScoreAnswer(BaseModel):
    p_yes: dict[str, float] = Field(
        description="probability of the answer Yes, by dimension",
        examples=[{"mn": 0.815, "ls": 0.995, "vq": 0.902}],
    )
    answers: dict[str, Literal["Yes", "No"]] = Field(examples=[{"mn": "Yes", "ls": "Yes", "vq": "Yes"}])
    critic: str = Field(
        description="fingerprint: scores of two critics do not compare", examples=["df406fc3d5d1c4ad"]
    )
    seconds: float = Field(description="length of the clip", examples=[3.0])


class CriticHealth(BaseModel):
    critic: str = Field(description="fingerprint", examples=["df406fc3d5d1c4ad"])
    deaths: list[str] = DEATHS


def critic_api(
    settings: CriticServeConfig,
    judge: Judge,
    fingerprint: Callable[[], Awaitable[str]],
    deaths: Callable[[], list[str]],
) -> FastAPI:
    """The application: `judge` and `fingerprint` ask a replica, `deaths` says which replicas died."""
    read = partial(clip_reader, settings.weights, settings.fps, settings.pixels, settings.max_seconds)
    decode, slots = Decoders(read, settings), Slots(settings)
    api = front(
        ROUTE,
        settings,
        "Talking-Critic",
        "Judges talking clips: natural motion (mn), lips in sync (ls), good pictures (vq).",
        lifespan=decode,
    )

    @api.post(
        ROUTE,
        response_model=ScoreAnswer,
        responses=REFUSALS,
        summary="Score a clip",
        openapi_extra=body_of(
            ScoreRequest, ["video"], {"reference": {"value": {"video": "s3://clips/one.mp4"}}}
        ),
    )
    async def score(request: Request) -> ScoreAnswer:
        slots.check()
        asked = await read_request(request, ScoreRequest)
        async with slots.one():
            with scratch_folder() as folder, named_by_field(folder):
                path = await asyncio.to_thread(place, asked.video, "video", folder, settings)
                view, seconds = await decode(path)
            p_yes, critic = await judge(view)
        answers: dict[str, Any] = {name: "Yes" if p > YES else "No" for name, p in p_yes.items()}
        return ScoreAnswer(p_yes=p_yes, answers=answers, critic=critic, seconds=seconds)

    @api.get(
        f"{ROUTE}/health", summary="Which critic is at work, and which replicas died", responses=REFUSALS
    )
    async def health() -> CriticHealth:
        return CriticHealth(critic=await soon(fingerprint(), deaths), deaths=deaths())

    return api


@serve.deployment(
    name="CriticFront",
    max_ongoing_requests=64,  # connections; FrontSettings.slots is how many are worked on
    max_queued_requests=64,  # a burst of them, which Serve hands on one by one
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4},
    ray_actor_options={"num_cpus": 0.5},
)
@serve.ingress()
class CriticFront:
    def __init__(self, settings: CriticServeConfig, critic: DeploymentHandle):
        check_exposure(http_host(), settings.token())
        remove_leftovers()
        self.settings, self.critic = settings, critic
        self.deaths = ReplicaDeaths("CriticFront", "TalkingCritic")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return critic_api(
            self.settings,
            lambda view: ask(self.critic.judge, view),
            lambda: ask(self.critic.at_work),
            self.deaths.lines,
        )


def check(settings: CriticServeConfig) -> None:
    """Raise where the critic cannot be served; its network is not loaded."""
    critic_card(settings.weights, settings.fps, settings.pixels, allow_code=True)


def build(args: CriticServeConfig) -> serve.Application:
    """The application; a config file may override the limits and scaling of its deployments."""
    critic = CriticService.options(  # type: ignore[attr-defined]  # the decorators make Deployments
        max_ongoing_requests=32,
        max_queued_requests=64,
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
        ray_actor_options={"num_cpus": 0.5},
    )
    arguments = args.weights, args.batch_frames, args.batch_timeout_seconds, args.fps, args.pixels
    return application(CriticFront, args, critic, arguments, partial(check, args), args.stores)
