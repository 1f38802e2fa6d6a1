"""When every group was made and every stretch of steps was trained: rows beside the groups.

The store tells what was done, the timeline when and by whom. It decides nothing: a run without it goes on
just as well, and nothing that must repeat bitwise reads it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ft2ray.records import content_id
from ft2ray.storage import RowStore


@dataclass(frozen=True)
class Span:
    kind: str
    lane: str
    name: str
    round: int
    version: int
    began: float
    ended: float


def commit_spans(store: RowStore, spans: list[Span]) -> None:
    rows = [{"span_id": content_id(asdict(span)), **asdict(span)} for span in spans]
    if rows:
        store.commit(rows)


def read_spans(store: RowStore) -> list[Span]:
    """All spans by the time they began."""
    spans = [
        Span(**{name: value for name, value in row.items() if name != "span_id"}) for row in store.rows()
    ]
    return sorted(spans, key=lambda span: (span.began, span.lane))


class TrainingClock:
    """Stretches of training steps, without the time spent waiting for groups or saving."""

    def __init__(self, store: RowStore, lane: str):
        self.store, self.lane = store, lane
        self.began, self.first = time.time(), 0
        self.spans: list[Span] = []

    def start(self, step: int) -> None:
        self.began, self.first = time.time(), step

    def stop(self, step: int, round: int) -> None:
        if step > self.first:
            name = f"steps {self.first} to {step - 1}"
            self.spans.append(Span("train", self.lane, name, round, round, self.began, time.time()))

    def commit(self) -> None:
        commit_spans(self.store, self.spans)
        self.spans = []


def busy_seconds(spans: Iterable[Span]) -> float:
    """Length of the union of the spans: seconds in which at least one of them was going on."""
    total, until = 0.0, float("-inf")
    for began, ended in sorted((span.began, span.ended) for span in spans):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total


def overlap_seconds(spans: list[Span]) -> float:
    """Seconds in which generation and training both went on."""
    kinds = [[span for span in spans if span.kind == kind] for kind in ("generate", "train")]
    return sum(map(busy_seconds, kinds)) - busy_seconds(spans)


def chrome_trace(spans: list[Span]) -> str:
    """The timeline in the trace event format, which Perfetto and chrome://tracing open."""
    lanes = {lane: n for n, lane in enumerate(sorted({(span.kind, span.lane) for span in spans}))}
    start = min((span.began for span in spans), default=0.0)
    events: list[dict] = [
        {"ph": "M", "pid": 0, "tid": n, "name": "thread_name", "args": {"name": f"{kind} {lane}"}}
        for (kind, lane), n in lanes.items()
    ]
    events += [
        {
            "ph": "X",
            "pid": 0,
            "tid": lanes[span.kind, span.lane],
            "cat": span.kind,
            "name": span.name,
            "ts": round((span.began - start) * 1e6),
            "dur": round((span.ended - span.began) * 1e6),
            "args": {"round": span.round, "policy": span.version},
        }
        for span in spans
    ]
    return json.dumps({"traceEvents": events})
