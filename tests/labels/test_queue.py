"""What is asked next: everything once, in an order of one's own, with a stated share of attention checks."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.dimensions import DEFAULT_DIMENSIONS
from ft2ray.labels.answers import Answer, current
from ft2ray.labels.clips import Clip, Source
from ft2ray.labels.queue import REPEAT_AFTER, QueueSettings, next_task, queue

CLIPS = tuple(
    Clip(f"{n}.mp4", group=f"person {n % 4}", prompt=f"prompt {n % 8}", p_yes={"ls": (n + 1) / 41})
    for n in range(40)
)
SOURCE = Source("somewhere", CLIPS, DEFAULT_DIMENSIONS)
NAMES = ("mn", "ls", "vq")


def walk(source, chosen, word=lambda task: "yes", annotator="Anna"):
    """All answers of somebody who stays to the end."""
    tasks, said = queue(source, NAMES, annotator, chosen), []
    while (task := next_task(tasks, said, source, chosen)) is not None:
        said.append(Answer(task, word(task), 0, "id", answered=float(len(said))))
    return tasks, said


@given(st.integers(0, 99), st.floats(0, 0.5), st.text("ab", min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_every_question_is_asked_once_and_checks_come_in_their_share(seed, checks, annotator):
    tasks, said = walk(SOURCE, QueueSettings(seed=seed, checks=checks), annotator=annotator)
    regular = [a.task for a in said if a.task.check is None]
    assert regular == tasks and len(set(tasks)) == len(CLIPS) * len(NAMES)
    given_checks = len(said) - len(regular)
    expected = checks * len(said)
    assert abs(given_checks - expected) < 5 * max(expected, 4) ** 0.5 + 0.1 * expected
    assert len({a.task.task_id for a in said}) == len(said)


def test_a_repetition_comes_after_a_while_and_a_wrong_sound_is_of_another_person():
    tasks, said = walk(SOURCE, QueueSettings(checks=0.4))
    kinds = Counter(a.task.check for a in said)
    assert kinds["repeat"] > 5 and kinds["wrong_sound"] > 5
    person = {clip.path: clip.group for clip in CLIPS}
    for place, answer in enumerate(said):
        if answer.task.check == "repeat":
            first = next(
                n
                for n, a in enumerate(said)
                if (a.task.clip, a.task.dimension, a.task.check)
                == (answer.task.clip, answer.task.dimension, None)
            )
            assert place - first > REPEAT_AFTER
        if answer.task.check == "wrong_sound":
            assert answer.task.dimension == "ls" and person[answer.task.sound] != person[answer.task.clip]


def test_everybody_has_an_order_of_their_own_which_stays():
    orders = {name: [t.clip for t in queue(SOURCE, NAMES, name, QueueSettings())] for name in ("Anna", "Bob")}
    assert orders["Anna"] != orders["Bob"] and sorted(orders["Anna"]) == sorted(orders["Bob"])
    assert orders["Anna"] == [t.clip for t in queue(SOURCE, NAMES, "Anna", QueueSettings())]
    assert orders["Anna"] != [t.clip for t in queue(SOURCE, NAMES, "Anna", QueueSettings(seed=1))]


def test_where_the_critic_is_least_sure_comes_first_and_what_it_never_saw_last():
    tasks = queue(SOURCE, ("ls",), "Anna", QueueSettings(order="unsure"))
    p_yes = [CLIPS[int(task.clip.removesuffix(".mp4"))].p_yes["ls"] for task in tasks]
    distances = [abs(p - 0.5) for p in p_yes]
    assert distances == sorted(distances)
    unknown = Source("x", (Clip("new.mp4"), *CLIPS), DEFAULT_DIMENSIONS)
    assert queue(unknown, ("ls",), "Anna", QueueSettings(order="unsure"))[-1].clip == "new.mp4"


def test_two_clips_side_by_side_are_of_one_prompt_and_stand_on_either_side():
    tasks = queue(SOURCE, NAMES, "Anna", QueueSettings(kind="pair"))
    prompt = {clip.path: clip.prompt for clip in CLIPS}
    assert len(tasks) == 8 * 2 * 3  # five clips of a prompt make two pairs
    assert all(prompt[task.clip] == prompt[task.other] and task.clip != task.other for task in tasks)
    left_first = sum(int(task.clip[:-4]) < int(task.other[:-4]) for task in tasks)
    assert 10 < left_first < 38


def test_an_answer_taken_back_is_asked_again():
    chosen = QueueSettings(checks=0.3)
    tasks, said = walk(SOURCE, chosen)
    before = said[:30]
    again = current([*before, Answer(before[-1].task, None, 1, "", answered=99.0)])
    assert next_task(tasks, again, SOURCE, chosen) == before[-1].task


@pytest.mark.parametrize("clips", [CLIPS[:1], CLIPS[:1] * 1 + CLIPS[4:5]])
def test_a_source_of_one_person_has_no_wrong_sounds(clips):
    _, said = walk(Source("x", tuple(clips), DEFAULT_DIMENSIONS), QueueSettings(checks=0.5))
    assert all(a.task.check != "wrong_sound" for a in said)
