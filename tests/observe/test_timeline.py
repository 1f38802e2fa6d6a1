"""Spans add up: unions, overlaps, traces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.observe.timeline import (
    Span,
    TrainingClock,
    busy_seconds,
    chrome_trace,
    commit_spans,
    overlap_seconds,
    read_spans,
)
from ft2ray.run import span_store


def span(began, ended, kind="generate", lane="a"):
    return Span(kind, lane, "name", 0, 0, float(began), float(ended))


spans = st.lists(
    st.builds(
        lambda began, length, kind: span(began, began + length, kind),
        st.integers(0, 40),
        st.integers(0, 10),
        st.sampled_from(["generate", "train"]),
    ),
    max_size=12,
)


@given(spans)
def test_busy_and_overlap_count_every_second_once(found):
    def at_work(second, kind):
        return any(s.kind == kind and s.began <= second < s.ended for s in found)

    seconds = range(60)
    assert busy_seconds(found) == sum(at_work(s, "generate") or at_work(s, "train") for s in seconds)
    assert overlap_seconds(found) == sum(at_work(s, "generate") and at_work(s, "train") for s in seconds)


def test_spans_are_kept_and_read_in_order(tmp_path):
    late, early = span(5, 6), span(1, 2, "train", "b")
    commit_spans(span_store(tmp_path), [late])
    commit_spans(span_store(tmp_path), [early])
    commit_spans(span_store(tmp_path), [late])
    commit_spans(span_store(tmp_path), [])
    assert read_spans(span_store(tmp_path)) == [early, late]
    events = json.loads(chrome_trace([early, late]))["traceEvents"]
    assert [e["ts"] for e in events if e["ph"] == "X"] == [0, 4_000_000]
    assert {e["args"]["name"] for e in events if e["ph"] == "M"} == {"generate a", "train b"}


def test_the_training_clock_leaves_waiting_out(tmp_path, monkeypatch):
    now = iter([0.0, 10.0, 12.0, 50.0, 53.0])
    monkeypatch.setattr("ft2ray.observe.timeline.time.time", lambda: next(now))
    clock = TrainingClock(span_store(tmp_path), "trainer")
    clock.start(0)
    clock.stop(2, round=0)
    clock.start(2)
    clock.stop(2, round=0)  # nothing was trained in between
    clock.stop(3, round=1)
    clock.commit()
    assert [(s.name, s.began, s.ended) for s in read_spans(span_store(tmp_path))] == [
        ("steps 0 to 1", 10.0, 12.0),
        ("steps 2 to 2", 50.0, pytest.approx(53.0)),
    ]
