"""The reader's own user study: base against aligned clips of held-out prompts, blinded.

As in the paper's user study, people say which of two clips of one prompt is better in one dimension; here
order and side are drawn anew for everybody. The rate of an answer has an exact binomial interval (Clopper and
Pearson). It takes the answers as independent, which several of one person or about one prompt are not; so the
numbers of both stand beside the rate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest

from ft2ray.errors import DataError, StoredDataError
from ft2ray.labels.answers import BLIND, FIRST, SECOND, TIE, Answer, Task, answer_store, current, read_answers
from ft2ray.labels.clips import Clip, Source
from ft2ray.records import content_id
from ft2ray.run import Run
from ft2ray.storage import exists, plain_json, read_bytes, write_atomically
from ft2ray.systems import BASE, TLPO
from ft2ray.tlpo.description import published_fingerprint

RESULT = "blind_test.json"
LEVEL = 0.95


@dataclass(frozen=True)
class Preference:
    """Of one dimension; rate and interval are None where nobody preferred either."""

    answers: int  # preferences and ties
    aligned: int  # the aligned clip was preferred
    base: int
    ties: int
    rate: float | None  # of aligned among the preferences
    interval: tuple[float, float] | None  # 95 %, exact
    p_value: float | None  # of a rate this far from one half, were there no difference
    prompts: int
    annotators: int


@dataclass(frozen=True)
class BlindPair:
    """Two clips of one prompt and seed: paths in the run folder."""

    prompt: str
    base: str
    aligned: str


def blind_pairs(run: Run, system: str = TLPO) -> list[BlindPair]:
    """The evaluation clips of the base and of `system` by the run's current policy.

    Raises DataError where no two stand beside each other.
    """
    policy = published_fingerprint(run.current_policy)
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in run.measurements.rows():
        if row["system"] in (BASE, system) and row["policy"] == policy and row["video"]:
            found.setdefault((row["prompt_id"], row["seed"]), {})[row["system"]] = row["video"]
    pairs = [
        BlindPair(f"{prompt_id}-{seed}", clips[BASE], clips[system])
        for (prompt_id, seed), clips in sorted(found.items())
        if len(clips) == 2
    ]
    if not pairs:
        raise DataError(
            f"blind test: {run.url} holds no evaluation clips of {BASE} and {system} side by side; run "
            "`ft2ray align` to its end first"
        )
    return pairs


def blind_source(run: Run, pairs: Sequence[BlindPair]) -> Source:
    """The clips of these pairs and the run's questions."""
    clips = (Clip(path, prompt=pair.prompt) for pair in pairs for path in (pair.base, pair.aligned))
    return Source(run.url, tuple(clips), run.config.dimensions)


def blind_tasks(
    pairs: Sequence[BlindPair], dimensions: Sequence[str], annotator: str, seed: int = 0
) -> list[Task]:
    """Every pair in every dimension, in an order and with sides that this annotator alone gets."""
    tasks = []
    for pair in pairs:
        for name in dimensions:
            key = content_id(seed, annotator, pair.prompt, name)
            a, b = (pair.base, pair.aligned) if int(key[-1], 16) % 2 else (pair.aligned, pair.base)
            tasks.append((key, Task(BLIND, annotator, name, a, b, group=pair.prompt)))
    return [task for _, task in sorted(tasks, key=lambda entry: entry[0])]


def preferences(answers: Iterable[Answer], aligned: Iterable[str]) -> dict[str, Preference]:
    """What people prefer, by dimension.

    `answers`: the current ones.
    `aligned`: paths of the aligned clips.
    """
    better = set(aligned)
    by_dimension: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.task.kind == BLIND and answer.answer in (FIRST, SECOND, TIE):
            by_dimension.setdefault(answer.task.dimension, []).append(answer)
    return {name: _preference(said, better) for name, said in by_dimension.items()}


def _preference(said: Sequence[Answer], better: set[str]) -> Preference:
    chosen = [a.task.clip if a.answer == FIRST else a.task.other for a in said if a.answer != TIE]
    wins, n = sum(clip in better for clip in chosen), len(chosen)
    test = binomtest(wins, n) if n else None
    bounds = test.proportion_ci(LEVEL, method="exact") if test else None
    return Preference(
        answers=len(said),
        aligned=wins,
        base=n - wins,
        ties=len(said) - n,
        rate=wins / n if n else None,
        interval=(float(bounds.low), float(bounds.high)) if bounds else None,
        p_value=float(test.pvalue) if test else None,
        prompts=len({a.task.group for a in said}),
        annotators=len({a.task.annotator for a in said}),
    )


def blind_result(run: Run, system: str = TLPO) -> dict[str, Any]:
    """The result of all answers so far about clips that still are what was seen."""
    pairs = blind_pairs(run, system)
    clips = [path for pair in pairs for path in (pair.base, pair.aligned)]
    contents = {
        path: content_id(read_bytes(run.file(path))) for path in sorted(clips) if exists(run.file(path))
    }
    answers = [
        answer
        for answer in current(read_answers(answer_store(run.url)))
        if answer.task.kind == BLIND
        and contents.get(answer.task.clip) == answer.clip_id
        and answer.task.other is not None
        and contents.get(answer.task.other) == answer.other_id
    ]
    found = preferences(answers, (pair.aligned for pair in pairs))
    return {
        "system": system,
        "policy": published_fingerprint(run.current_policy),
        "dimensions": {name: asdict(found[name]) for name in run.config.dimension_names if name in found},
        "clips": contents,
        "answers": sorted(content_id(answer.task.task_id, answer.revision) for answer in answers),
    }


def write_blind_result(run: Run, system: str = TLPO) -> str:
    """Write the result into the run folder, sealed with the ids of clips and answers; returns where.

    Raises DataError where there is no answer yet.
    """
    result = blind_result(run, system)
    if not result["dimensions"]:
        raise DataError(f"blind test: {run.url} holds no answers yet; give some with `ft2ray ui {run.url}`")
    out = run.file(RESULT)
    write_atomically(out, json.dumps(result | {"seal": content_id(result)}, indent=2).encode())
    return out


def read_blind_result(run: Run) -> dict[str, Any] | None:
    """The result of the run's current policy, None where there is none.

    Raises DataError where the file was changed by hand.
    """
    url = run.file(RESULT)
    if not exists(url):
        return None
    try:
        result = plain_json(url, "the result of the blind test", "write it again")
        seal = result.pop("seal", None)
        whole = content_id(result) == seal
    except (StoredDataError, AttributeError):
        whole = False
    if not whole:
        raise DataError(f"{url} was changed or damaged; write it again with `ft2ray blind-test {run.url}`")
    return result if result["policy"] == published_fingerprint(run.current_policy) else None


def sentences(run: Run) -> list[str]:
    """The stored result in words, a sentence for each dimension; none where there is none."""
    result = read_blind_result(run)
    if result is None:
        return []
    titles = {dimension.name: dimension.title for dimension in run.config.dimensions}
    return [
        _sentence(titles[name], result["system"], Preference(**found))
        for name, found in result["dimensions"].items()
    ]


def _sentence(title: str, system: str, found: Preference) -> str:
    asked = f"{found.prompts} prompts, {found.annotators} people, {found.ties} ties"
    if found.rate is None or found.interval is None:
        return f"Blind test, {title}: nobody preferred either clip ({asked})."
    low, high = found.interval
    return (
        f"Blind test, {title}: {system} was preferred to the base in {found.aligned} of "
        f"{found.aligned + found.base} choices ({found.rate:.0%}, 95 % interval {low:.0%} to "
        f"{high:.0%}; {asked})."
    )
