"""What an annotator is asked next: a pure function of the clips, the answers so far and a seed.

The order is another one for every annotator. Nothing is kept beside the answers: whoever comes back, or takes
an answer back, meets the same task again.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from pydantic import Field

from ft2ray.labels.answers import NO, PAIR, QUESTION, REPEAT, WRONG_SOUND, YES, Answer, Task
from ft2ray.labels.clips import Clip, Source
from ft2ray.records import content_id
from ft2ray.settings import Settings

REPEAT_AFTER = 5  # answers between a clip and its repetition
LIP_SYNC = "ls"  # the figure of the dimension whose answer is No under another clip's sound


class QueueSettings(Settings):
    """What is asked, and in which order."""

    kind: Literal["question", "pair"] = "question"  # one clip, or two of a prompt side by side
    order: Literal["random", "unsure"] = "random"  # "unsure": where the critic's P(Yes) is nearest to 0.5
    checks: float = Field(0.1, ge=0, le=0.5)  # share of tasks that are attention checks
    seed: int = 0


def queue(source: Source, dimensions: Sequence[str], annotator: str, settings: QueueSettings) -> list[Task]:
    """All that this annotator can be asked, attention checks apart, in order."""
    if settings.kind == PAIR:
        found = list(_pair_tasks(source, dimensions, annotator, settings.seed))
    else:
        found = [
            (Task(QUESTION, annotator, name, clip.path, group=clip.group), _doubt(clip, name))
            for clip in source.clips
            for name in dimensions
        ]
    drawn = hashlib.sha256(content_id(settings.seed, annotator).encode())

    def by_chance(task: Task) -> bytes:  # of thousands of tasks before the first clip is on the screen
        own = drawn.copy()
        own.update(f"{task.dimension} {task.clip}".encode())
        return own.digest()

    if settings.order == "unsure":
        found.sort(key=lambda entry: (entry[1], by_chance(entry[0])))
    else:
        found.sort(key=lambda entry: by_chance(entry[0]))
    return [task for task, _ in found]


def next_task(
    tasks: Sequence[Task], said: Sequence[Answer], source: Source, settings: QueueSettings
) -> Task | None:
    """The first task without an answer, or an attention check where one is due; None where all are answered.

    `tasks`: of `queue`.
    `said`: the annotator's current answers, in the order given.
    """
    done = {answer.task.task_id for answer in said}
    task = next((task for task in tasks if task.task_id not in done), None)
    if task is None or task.kind != QUESTION:
        return task
    if _share(settings.seed, task.annotator, "check", len(said)) >= settings.checks:
        return task
    return _check(task, said, done, source, settings) or task


def _check(
    task: Task, said: Sequence[Answer], done: set[str], source: Source, settings: QueueSettings
) -> Task | None:
    """A wrong sound or a repetition, as chance takes, or else the other one; None where neither can be."""
    makers = [_wrong_sound, _repetition]
    if _share(settings.seed, task.annotator, "which", len(said)) < 0.5:
        makers.reverse()
    for make in makers:
        found = make(task, said, source, settings)
        if found is not None and found.task_id not in done:
            return found
    return None


def _repetition(task: Task, said: Sequence[Answer], source: Source, settings: QueueSettings) -> Task | None:
    earlier = [a.task for a in said[:-REPEAT_AFTER] if a.task.check is None and a.answer in (YES, NO)]
    if not earlier:
        return None
    old = earlier[_hash(settings.seed, task.annotator, "repeat", len(said)) % len(earlier)]
    return Task(QUESTION, old.annotator, old.dimension, old.clip, group=old.group, check=REPEAT)


def _wrong_sound(task: Task, said: Sequence[Answer], source: Source, settings: QueueSettings) -> Task | None:
    asked = [d.name for d in source.dimensions if d.metric == LIP_SYNC]
    if task.dimension not in asked:
        return None
    key = _hash(settings.seed, task.annotator, "sound", len(said))
    clip = source.clips[key % len(source.clips)]
    others = [other for other in source.clips if other.group != clip.group]
    if not others:
        return None
    sound = others[key // len(source.clips) % len(others)].path
    return Task(
        QUESTION, task.annotator, task.dimension, clip.path, None, clip.group, sound, check=WRONG_SOUND
    )


def _pair_tasks(
    source: Source, dimensions: Sequence[str], annotator: str, seed: int
) -> Iterator[tuple[Task, float]]:
    """Candidates of one prompt, two and two; side and company are drawn anew for each annotator."""
    prompts: dict[str, list[Clip]] = defaultdict(list)
    for clip in source.clips:
        if clip.prompt is not None:
            prompts[clip.prompt].append(clip)
    for clips in prompts.values():
        for name in dimensions:
            drawn = sorted(clips, key=partial(_place, seed, annotator, name))
            for a, b in zip(drawn[::2], drawn[1::2], strict=False):
                gap = abs(_logit(a, name) - _logit(b, name))
                yield (
                    Task(PAIR, annotator, name, a.path, b.path, a.group),
                    gap if math.isfinite(gap) else math.inf,
                )


def _place(seed: int, annotator: str, dimension: str, clip: Clip) -> int:
    return _hash(seed, annotator, "side", dimension, clip.path)


def _doubt(clip: Clip, dimension: str) -> float:
    """Small where the critic is unsure; infinite where it said nothing."""
    distance = abs(_logit(clip, dimension))
    return math.inf if math.isnan(distance) else distance


def _logit(clip: Clip, dimension: str) -> float:
    p = clip.p_yes.get(dimension, math.nan)
    return math.nan if math.isnan(p) else math.log(max(p, 1e-12)) - math.log(max(1 - p, 1e-12))


def _hash(*parts: object) -> int:
    return int(content_id(*parts), 16)


def _share(*parts: object) -> float:
    return _hash(*parts) / 16**16
