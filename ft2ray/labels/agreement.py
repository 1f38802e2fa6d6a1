"""How far people agree with each other and with themselves.

Repetitions and clips under another sound are attention checks: they say how far an annotator can be trusted
and take no part in the agreement.

Shapes: N units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

from ft2ray.labels.answers import NO, QUESTION, REPEAT, WRONG_SOUND, YES, Answer


@dataclass(frozen=True)
class Agreement:
    """Of one dimension; alpha and kappas are None where they are not defined."""

    clips: int  # with an answer of anybody
    shared: int  # with answers of two people at least
    alpha: float | None
    kappas: Mapping[tuple[str, str], float | None]  # of two people


@dataclass(frozen=True)
class Reliability:
    """Of one annotator."""

    answers: int
    repeated: int  # clips that were shown twice
    repeated_alike: int  # of these, answered as the first time
    wrong_sound: int  # clips that were shown under another clip's sound
    wrong_sound_noticed: int
    seconds: float  # median time of an answer


def agreement(answers: Iterable[Answer]) -> dict[str, Agreement]:
    """Agreement on Yes or No by dimension.

    `answers`: the current ones.
    """
    tables: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for answer in answers:
        if answer.task.kind == QUESTION and answer.task.check is None and answer.answer in (YES, NO):
            tables[answer.task.dimension][answer.clip_id][answer.task.annotator] = answer.answer
    found = {}
    for dimension, units in tables.items():
        people = sorted({name for said in units.values() for name in said})
        kappas = {}
        for a, b in combinations(people, 2):
            both = [(said[a], said[b]) for said in units.values() if a in said and b in said]
            if both:
                kappas[a, b] = cohens_kappa(*zip(*both, strict=True))
        shared = [list(said.values()) for said in units.values() if len(said) > 1]
        found[dimension] = Agreement(len(units), len(shared), krippendorffs_alpha(shared), kappas)
    return found


def cohens_kappa(a_N: Sequence[Hashable], b_N: Sequence[Hashable]) -> float | None:
    """Agreement of two people beyond chance (Cohen 1960); None where chance alone would agree fully."""
    assert len(a_N) == len(b_N) > 0
    n = len(a_N)
    first, second = Counter(a_N), Counter(b_N)
    by_chance = sum(first[value] * second[value] for value in first) / n**2
    if by_chance == 1:
        return None
    return (sum(a == b for a, b in zip(a_N, b_N, strict=True)) / n - by_chance) / (1 - by_chance)


def krippendorffs_alpha(units: Iterable[Sequence[Hashable]]) -> float | None:
    """Agreement of any number of people, who need not have seen the same (Krippendorff 2011, nominal values).

    Args:
        units: what was said of each; those with fewer than two values are passed over.

    Returns:
        1 for full agreement, 0 for chance; None where no unit has two values, or all values are the same.
    """
    pairable = [Counter(unit) for unit in units if len(unit) > 1]
    totals: Counter[Hashable] = Counter()
    disagreed = 0.0
    for counts in pairable:
        totals.update(counts)
        size = counts.total()
        disagreed += (size**2 - sum(count**2 for count in counts.values())) / (size - 1)
    n = totals.total()
    expected = n**2 - sum(count**2 for count in totals.values())
    return None if expected == 0 else 1 - (n - 1) * disagreed / expected


def reliability(answers: Iterable[Answer]) -> dict[str, Reliability]:
    """How attentive each annotator was.

    `answers`: the current ones.
    """
    by_person: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_person[answer.task.annotator].append(answer)
    return {name: _reliability(said) for name, said in sorted(by_person.items())}


def _reliability(said: Sequence[Answer]) -> Reliability:
    first = {(a.task.dimension, a.task.clip): a.answer for a in said if a.task.check is None}
    repeats = [
        (first.get((a.task.dimension, a.task.clip)), a.answer)
        for a in said
        if a.task.check == REPEAT and a.answer in (YES, NO)
    ]
    repeats = [(before, again) for before, again in repeats if before in (YES, NO)]
    sounds = [a.answer for a in said if a.task.check == WRONG_SOUND and a.answer in (YES, NO)]
    return Reliability(
        answers=len(said),
        repeated=len(repeats),
        repeated_alike=sum(before == again for before, again in repeats),
        wrong_sound=len(sounds),
        wrong_sound_noticed=sounds.count(NO),
        seconds=median(a.seconds for a in said),
    )
