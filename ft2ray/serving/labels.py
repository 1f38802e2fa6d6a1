"""GET and POST /v1/labels: answers of people for teams, in the store of one run or folder.

    serve run ft2ray.serving.labels:build source=runs/mine

A POST carries answers; those that are there already stay as they are, so that a client may send its answers
again. A GET returns the current answers and how far people agree.
"""

# Without `from __future__ import annotations`, which would hide the class of build's argument from Serve.

import asyncio
import time
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from ft2ray import storage
from ft2ray.labels.agreement import agreement
from ft2ray.labels.answers import QUESTION, Answer, Task, annotator_name, answer_store, current, read_answers
from ft2ray.labels.clips import Source, open_source
from ft2ray.records import content_id
from ft2ray.serving.calls import http_host
from ft2ray.serving.front import REFUSALS, Slots, front
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import FrontSettings, check_exposure
from ft2ray.serving.uploads import read_request

ROUTE = "/v1/labels"


class LabelServeConfig(FrontSettings):
    source: str
    """A run folder or a folder of clips; its answers are kept in it."""


class Given(BaseModel):
    model_config = ConfigDict(extra="forbid")

    clip: str = Field(description="path of the clip below the served folder", examples=["store/videos/a.mp4"])
    dimension: str = Field(examples=["ls"])
    answer: Literal["yes", "no", "skip"]
    seconds: float = Field(0.0, ge=0, allow_inf_nan=False, description="that the annotator took")


class LabelRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    annotator: str = Field(min_length=1, max_length=80, examples=["Anna"])
    answers: list[Given] = Field(min_length=1, max_length=100)


CONTENT = {"application/json": {"schema": LabelRequest.model_json_schema()}}
BODY: dict[str, Any] = {"requestBody": {"required": True, "content": CONTENT}}


class Kept(BaseModel):
    new: int = Field(description="of the answers sent; the others were there already")
    current: int = Field(description="answers of this annotator by now")


class Labels(BaseModel):
    answers: list[dict[str, Any]] = Field(
        description="annotator, clip, clip_id, dimension and answer of each"
    )
    alpha: dict[str, float | None] = Field(description="Krippendorff's alpha by dimension")


def labels_api(settings: LabelServeConfig) -> FastAPI:
    source, slots = open_source(settings.source), Slots(settings)
    api = front(ROUTE, settings, "Labels", "What people say of clips.")

    @api.post(ROUTE, response_model=Kept, responses=REFUSALS, summary="Give answers", openapi_extra=BODY)
    async def give(request: Request) -> Kept:
        slots.check()
        asked = await read_request(request, LabelRequest)
        async with slots.one():
            return await asyncio.to_thread(keep, source, asked)

    @api.get(ROUTE, response_model=Labels, responses=REFUSALS, summary="The current answers")
    async def read() -> Labels:
        async with slots.one():
            return await asyncio.to_thread(current_labels, source)

    return api


def keep(source: Source, asked: LabelRequest) -> Kept:
    """Commit the answers of one annotator.

    Raises Refusal that names a clip or dimension that is not there; then nothing is kept.
    """
    annotator, store = annotator_name(asked.annotator), answer_store(source.url)
    clips = {clip.path: clip for clip in source.clips}
    dimensions = {dimension.name for dimension in source.dimensions}
    rows = []
    for number, given in enumerate(asked.answers):
        if given.clip not in clips or not storage.exists(storage.join(source.url, given.clip)):
            raise Refusal(422, "not_found", f"answers.{number}.clip: there is no such clip here.")
        if given.dimension not in dimensions:
            raise Refusal(
                422, "bad_field", f"answers.{number}.dimension: known are {', '.join(sorted(dimensions))}."
            )
        task = Task(QUESTION, annotator, given.dimension, given.clip, group=clips[given.clip].group)
        content = content_id(storage.read_bytes(storage.join(source.url, given.clip)))
        answer = Answer(task, given.answer, 0, content, seconds=given.seconds, answered=time.time())
        rows.append(answer.to_row())
    new = sum(store.commit_once([row]) for row in rows)
    mine = [answer for answer in current(read_answers(store)) if answer.task.annotator == annotator]
    return Kept(new=new, current=len(mine))


def current_labels(source: Source) -> Labels:
    answers = current(read_answers(answer_store(source.url)))
    return Labels(
        answers=[
            {
                "annotator": answer.task.annotator,
                "clip": answer.task.clip,
                "clip_id": answer.clip_id,
                "dimension": answer.task.dimension,
                "answer": answer.answer,
            }
            for answer in answers
            if answer.task.kind == QUESTION and answer.task.check is None
        ],
        alpha={name: found.alpha for name, found in agreement(answers).items()},
    )


@serve.deployment(
    name="LabelFront",
    max_ongoing_requests=64,
    max_queued_requests=64,
    ray_actor_options={"num_cpus": 0.5},
)
@serve.ingress()
class LabelFront:
    def __init__(self, settings: LabelServeConfig):
        check_exposure(http_host(), settings.token())
        self.settings = settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        return labels_api(self.settings)


def build(args: LabelServeConfig) -> serve.Application:
    """The application; a config file may override its limits and scaling."""
    open_source(args.source)  # raises where there is nothing to label
    return LabelFront.bind(args)  # type: ignore[attr-defined]  # the decorators make a Deployment
