"""A failed call is tried again, then becomes a null with its reason: never a number."""

from dataclasses import dataclass, field

from ft2ray.pipeline.critic_service import score_views


@dataclass
class FakeHandle:
    """Answers like a Serve handle; `failures[view]` is how often a view's call fails first."""

    failures: dict[str, int]
    calls: list[str] = field(default_factory=list)

    @property
    def score(self):
        return self

    def remote(self, view):
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


def test_a_lasting_failure_is_null_with_its_reason():
    handle = FakeHandle({"b": 9})
    results = score_views(handle, ["a", "b", "c"], timeout_seconds=5.0, retries=1)
    assert [scores for scores, _ in results] == [[0.1, 0.2, 0.3], None, [0.1, 0.2, 0.3]]
    assert results[1][1] == "TimeoutError: no answer within 5.0 s"
    assert handle.calls.count("b") == 2


def test_nothing_to_score_asks_nothing():
    handle = FakeHandle({})
    assert score_views(handle, [], timeout_seconds=5.0, retries=1) == [] and not handle.calls
