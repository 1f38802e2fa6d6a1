"""POST /v1/score: what Talking-Critic says of a clip.

    serve run ft2ray.serving.critic:build            or serve deploy serve/platform.yaml

The front reads the clip and makes the view of it; the critic itself is the deployment that curation uses.
"""

# Without `from __future__ import annotations`, which would hide the class of build's argument from Serve.

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.handle import DeploymentHandle

from ft2ray.critic.talking.view import FPS
from ft2ray.loaders import load_viewer
from ft2ray.media.face import FaceMesher
from ft2ray.media.video import read_video
from ft2ray.pipeline.critic_service import CriticService
from ft2ray.serving.calls import ask, http_host
from ft2ray.serving.front import REFUSALS, body_of, front
from ft2ray.serving.settings import CriticServeConfig, check_exposure
from ft2ray.serving.uploads import Media, place, read_fields

ROUTE = "/v1/score"
YES = 0.5

# (view) -> (P(Yes) by dimension, fingerprint of the critic)
Judge = Callable[[Any], Awaitable[tuple[dict[str, float], str]]]


class ScoreRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    video: Media = Field(
        description="the clip with its sound: mp4, mkv, webm, avi or mpg", examples=["s3://clips/one.mp4"]
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


def critic_api(settings: CriticServeConfig, judge: Judge) -> FastAPI:
    api = front(
        ROUTE,
        settings,
        "Talking-Critic",
        "Judges talking clips: natural motion (mn), lips in sync (ls), good pictures (vq).",
    )
    mesher, viewer = (
        FaceMesher(),
        load_viewer(settings.weights, settings.fps, settings.pixels, allow_code=True),
    )
    worker = ThreadPoolExecutor(1)  # the mesher keeps state, and the frames of one clip fill memory enough

    @api.post(
        ROUTE,
        response_model=ScoreAnswer,
        responses=REFUSALS,
        summary="Score a clip",
        openapi_extra=body_of(
            ScoreRequest, ["video"], {"reference": {"value": {"video": "s3://clips/one.mp4"}}}
        ),
    )
    async def score(request: Request) -> Any:
        asked = ScoreRequest(**await read_fields(request))
        # After a missed deadline a thread may still be writing there.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = await asyncio.to_thread(place, asked.video, "video", "video", Path(folder), settings)
            view, seconds = await asyncio.get_running_loop().run_in_executor(worker, look, path)
        p_yes, critic = await judge(view)
        answers: dict[str, Any] = {name: "Yes" if p > YES else "No" for name, p in p_yes.items()}
        return ScoreAnswer(p_yes=p_yes, answers=answers, critic=critic, seconds=seconds)

    def look(path: Path) -> tuple[Any, float]:
        frames_FHW3, wav_T = read_video(path, fps=FPS, max_seconds=settings.max_seconds)
        return viewer.view(frames_FHW3, wav_T, FPS, mesher), len(frames_FHW3) / FPS

    return api


@serve.deployment(name="CriticFront")
@serve.ingress()
class CriticFront:
    def __init__(self, settings: CriticServeConfig, critic: DeploymentHandle):
        check_exposure(http_host(), settings.token())
        self.settings, self.critic = settings, critic

    def __serve_build_asgi_app__(self) -> FastAPI:
        return critic_api(self.settings, lambda view: ask(self.critic.judge, view))


def build(args: CriticServeConfig) -> serve.Application:
    """The application; limits and scaling are those of the deployments below, or of the config file."""
    busy = {"retry_after_s": args.retry_after_seconds}
    critic = CriticService.options(  # type: ignore[attr-defined]  # the decorators make Deployments
        max_ongoing_requests=32,
        max_queued_requests=64,
        backpressure_config=busy,
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8},
        ray_actor_options={"num_cpus": 0.5},
    ).bind(args.weights, args.batch_frames, args.batch_timeout_seconds, args.fps, args.pixels)
    return CriticFront.options(  # type: ignore[attr-defined]
        max_ongoing_requests=8,
        max_queued_requests=16,
        backpressure_config=busy,
        autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 4},
        ray_actor_options={"num_cpus": 0.5},
    ).bind(args, critic)
