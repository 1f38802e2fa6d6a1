"""What becomes of a group whose scores fail, and for which policy a generator waits."""

from types import SimpleNamespace
from typing import Any

import pytest

from ft2ray.config import load_config
from ft2ray.errors import CriticError
from ft2ray.observe.timeline import Span
from ft2ray.pipeline import curation
from ft2ray.pipeline.curation import GenerateGroup, ScoreAndCommit
from ft2ray.records import Prompt
from ft2ray.rounds.schedule import GroupSpec
from ft2ray.run import Run, group_store, refused_store, span_store
from ft2ray.storage import join, write_atomically
from ft2ray.tlpo import policy
from tests.pipeline.test_critic_service import FakeHandle
from tests.runs import stated
from tests.test_records import make_group


def scorer(run_dir: str, failures: dict[str, int]) -> ScoreAndCommit:
    actor: Any = ScoreAndCommit.__new__(ScoreAndCommit)
    actor.config, actor.critic = load_config(None, [f"run_dir={run_dir}"]), "told"
    actor.handle, actor.groupwise = FakeHandle(failures), False
    actor.groups, actor.refused, actor.spans = (
        group_store(run_dir),
        refused_store(run_dir),
        span_store(run_dir),
    )
    return actor


def row(views: list[str | None]) -> dict[str, Any]:
    group, prompt = make_group(n=len(views), scores=False), Prompt("p", "a.jpg", "b.wav", 0.0, 3.0)
    for candidate, view in zip(group.candidates, views, strict=True):
        candidate.error = None if view else "no face"
    span = Span("generate", "here", group.group_id, 0, 0, 0.0, 1.0)
    return {
        "spec": GroupSpec(group.group_id, 0, prompt),
        "group": group,
        "views": views,
        "refused": None,
        "span": span,
    }


def test_a_clip_that_the_critic_fails_on_is_null_with_its_reason(tmp_path):
    summary = scorer(str(tmp_path), {"b": 9})(row(["a", "b", None]))
    assert summary["unscored"] == 2
    candidates = group_store(str(tmp_path)).get("g0")["candidates"]
    assert [c["error"] for c in candidates] == [None, "TimeoutError: no answer within 120.0 s", "no face"]
    assert [c["scores"] is None for c in candidates] == [False, True, True]


def test_a_group_that_the_critic_fails_on_is_not_committed_and_scored_by_the_next_attempt(tmp_path):
    with pytest.raises(CriticError, match=r"2 of 3 clips of a group: TimeoutError: no answer"):
        scorer(str(tmp_path), {"a": 9, "b": 9})(row(["a", "b", "c", None]))
    assert group_store(str(tmp_path)).keys() == set()
    assert scorer(str(tmp_path), {})(row(["a", "b", "c", None]))["unscored"] == 1
    assert group_store(str(tmp_path)).keys() == {"g0"}


def test_a_group_of_which_nothing_can_be_seen_is_given_up_and_not_tried_again(tmp_path):
    assert scorer(str(tmp_path), {})(row([None, None]))["unscored"] == 0
    assert group_store(str(tmp_path)).keys() == set(), "without a single score it would never be a pair"
    (refused,) = refused_store(str(tmp_path)).rows()
    assert (refused["group_id"], refused["reason"], refused["message"]) == ("g0", "no_score", "no face")


def stated_at(tmp_path) -> Run:
    return stated(load_config(None, [f"run_dir={tmp_path}"]))


class Loaded:
    fingerprint = "first"


@pytest.fixture
def generator(tmp_path, monkeypatch) -> GenerateGroup:
    """Of a run of three rounds that may be one round ahead; its policies hold nothing."""
    actor: Any = GenerateGroup.__new__(GenerateGroup)
    settings = ["schedule.rounds=3", "schedule.max_staleness=1", f"run_dir={tmp_path}"]
    actor.run = stated(load_config(None, settings))
    actor.config = actor.run.config
    actor.generator, actor.version, actor.policy = (
        SimpleNamespace(fingerprint="g", transformer=None),
        0,
        "base",
    )
    monkeypatch.setattr(policy, "load_policy", lambda folder, base: Loaded)
    monkeypatch.setattr(policy, "apply_system", lambda *_: None)
    return actor


def publish(tmp_path, version: int) -> None:
    write_atomically(join(stated_at(tmp_path).policy(version), "policy.json"), b"{}")


def test_a_generator_waits_for_the_oldest_policy_that_its_round_may_use(generator, tmp_path, monkeypatch):
    write_atomically(stated_at(tmp_path).training, b"")
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            publish(tmp_path, 1)

    monkeypatch.setattr(curation.time, "sleep", sleep)
    assert generator.take_newest_policy(1) and generator.version == 0 and not waits, (
        "the base is recent enough"
    )
    assert generator.take_newest_policy(2) and len(waits) == 3
    assert (generator.version, generator.policy) == (1, "first")


def test_a_generator_does_not_wait_for_a_training_that_has_ended(generator, tmp_path):
    assert not generator.take_newest_policy(2)
    publish(tmp_path, 1)
    assert generator.take_newest_policy(2), "what is published may be used all the same"


def test_in_turns_no_round_begins_before_its_policy(generator):
    generator.config = load_config(None, ["schedule.rounds=2", f"run_dir={generator.config.run_dir}"])
    with pytest.raises(AssertionError, match="before its policy was published"):
        generator.take_newest_policy(1)
