"""A failed call is tried again, then becomes a null with its reason: never a number."""

import asyncio
import threading
import time
from dataclasses import dataclass, field
from unittest.mock import MagicMock

import numpy as np
import pytest
from ray.exceptions import GetTimeoutError

from ft2ray.critic.base import Critic
from ft2ray.critic.settings import CriticSettings
from ft2ray.critic.talking.critic import TalkingCritic
from ft2ray.critic.talking.view import ClipView
from ft2ray.errors import CriticError, RunEnded
from ft2ray.pipeline import critic_service
from ft2ray.pipeline.critic_service import (
    CriticService,
    call_seconds,
    clip_frames,
    critic_app,
    first_answer,
    score_views,
)
from ft2ray.resources import Pool


@dataclass
class FakeHandle:
    """Answers like a Serve handle; `failures[view]` is how often a view's call fails first."""

    failures: dict[str, int]
    calls: list[str] = field(default_factory=list)

    @property
    def score(self):
        return self

    def remote(self, view, critic=None):
        self.calls.append(view)
        return FakeResponse(view, self)


@dataclass
class FakeResponse:
    view: str
    handle: FakeHandle

    def result(self, timeout_s):
        if self.handle.failures.get(self.view, 0) > 0:
            self.handle.failures[self.view] -= 1
            raise TimeoutError(f"no answer within {timeout_s} s")
        return [0.1, 0.2, 0.3]


def test_a_passing_failure_is_retried_and_only_that_view():
    handle = FakeHandle({"b": 1})
    results = score_views(handle, ["a", "b"], timeout_seconds=5.0, retries=1)
    assert results == [([0.1, 0.2, 0.3], None)] * 2
    assert handle.calls == ["a", "b", "b"]


def test_a_permanent_failure_is_null_with_its_reason():
    handle = FakeHandle({"b": 9})
    results = score_views(handle, ["a", "b", "c"], timeout_seconds=5.0, retries=1)
    assert [scores for scores, _ in results] == [[0.1, 0.2, 0.3], None, [0.1, 0.2, 0.3]]
    assert results[1][1] == "TimeoutError: no answer within 5.0 s"
    assert handle.calls.count("b") == 2


def test_nothing_to_score_asks_nothing():
    handle = FakeHandle({})
    assert score_views(handle, [], timeout_seconds=5.0, retries=1) == [] and not handle.calls


class Told(Critic):
    """A critic whose answers the test sets; `bad` clips break whatever batch they are in."""

    dimensions = ("mn", "ls", "vq")
    fingerprint = "told"

    def __init__(self):
        self.p, self.calls = 0.25, []

    def score(self, views):
        self.calls.append(len(views))
        if any(view == "bad" for view in views):
            raise ValueError("not finite")
        return np.full((len(views), 3), self.p)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr("ft2ray.loaders.load_critic", lambda *critic, **allow: Told())
    return CriticService.func_or_class("told", batch_frames=100, timeout_seconds=5.0)


def test_a_batch_is_as_large_as_its_frames():
    view = ClipView(np.zeros((2, 75, 1, 1, 3)), *[np.zeros(0)] * 4)
    assert clip_frames([view], most=1000) == 150 and clip_frames([view, view], most=200) == 300
    assert clip_frames([view], most=100) == 100  # a long clip is not refused, it goes alone


def test_a_bad_clip_fails_nobody_else(service):
    good, bad, other = service._score_all(["a", "bad", "c"])
    assert good == other == [0.25] * 3
    assert isinstance(bad, ValueError) and service.critic.calls[-4:] == [3, 1, 1, 1]


@pytest.mark.parametrize("p", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_no_score(service, p):
    service.critic.p = p
    (answer,) = service._score_all(["a"])
    assert isinstance(answer, CriticError) and "not 1 x 3 probabilities" in str(answer)
    with pytest.raises(CriticError, match="not 2 x 3 probabilities"):
        asyncio.run(service.score_together(["a", "b"]))


def test_a_replica_that_started_again_on_other_weights_says_so(service):
    assert asyncio.run(service.score_together(["a"], "told")) == [[0.25] * 3]
    for call in (service.score("a", "the run's"), service.score_together(["a"], "the run's")):
        with pytest.raises(CriticError, match="fingerprint is told, that of the run is the run's"):
            asyncio.run(call)


def test_other_weights_are_nobodys_null():
    """Whatever share of a group's clips it is: the run ends, and asks for the old weights."""

    class Changed(FakeResponse):
        def result(self, timeout_s):
            raise CriticError("weights have changed")

    handle = FakeHandle({})
    handle.remote = lambda view, critic: Changed(view, handle)
    with pytest.raises(CriticError, match="weights have changed"):
        score_views(handle, ["a", "b"], timeout_seconds=5.0, retries=1, critic="the run's")


def test_healthy_while_the_built_in_clip_is_scored_as_ever(service):
    asyncio.run(service.check_health())
    service.critic.p = 0.26
    with pytest.raises(RuntimeError, match="built-in clip"):
        asyncio.run(service.check_health())


def test_a_batch_that_hangs_is_a_failure(service):
    service.batch_began = time.monotonic() - 4.0
    asyncio.run(service.check_health())
    service.batch_began = time.monotonic() - 6.0
    with pytest.raises(RuntimeError, match="6 s, the limit is 5 s"):
        asyncio.run(service.check_health())


def test_the_built_in_clip_is_one_that_the_critic_can_judge():
    critic = TalkingCritic.load()
    p_NK = critic.score([Critic.viewer.probe(), Critic.viewer.probe()])
    assert np.isfinite(p_NK).all() and (p_NK[0] == p_NK[1]).all()


def test_a_critic_that_does_not_even_score_the_built_in_clip_is_not_deployed():
    class Hanging:
        def score(self, views):
            released.wait()

    released = threading.Event()
    with pytest.raises(RuntimeError, match="did not score the built-in clip within 0.1 s"):
        first_answer(Hanging(), Critic.viewer.probe(), 0.1)
    released.set()


def test_a_replica_that_hangs_is_replaced_before_its_call_gives_up():
    """Else the next try would wait for the same replica in vain."""
    critic = CriticSettings(timeout_seconds=60.0)
    serve = critic_app(critic, Pool(), {})._bound_deployment._deployment_config
    checks = 3  # bad ones, until Serve replaces the replica; the first may come a whole period late
    found_out = critic.timeout_seconds + checks * serve.health_check_period_s
    assert found_out + serve.graceful_shutdown_timeout_s < call_seconds(critic)


def test_a_start_that_serve_never_speaks_of_ends_when_too_many_have_died(monkeypatch):
    """Where memory is short Serve's own controller dies too, and starts again, without an end."""
    looks = []

    def look():
        looks.append(None)
        if len(looks) == 3:
            raise RunEnded("processes died 6 times")

    monkeypatch.setattr(critic_service, "serve", MagicMock())
    monkeypatch.setattr(critic_service, "Refusals", MagicMock())
    monkeypatch.setattr(critic_service, "critic_app", MagicMock())
    monkeypatch.setattr(critic_service, "START_POLL_SECONDS", 0.0)
    monkeypatch.setattr(critic_service, "_get_global_client", MagicMock())
    monkeypatch.setattr(critic_service.ray, "get", MagicMock(side_effect=GetTimeoutError))
    with pytest.raises(RunEnded, match="died 6 times"):
        critic_service.start_critic(CriticSettings(), Pool(), {}, look)
