"""One view of a run, while it goes on and afterwards, read from its folder alone: from any machine."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import pyarrow.compute as pc

from ft2ray.errors import DataError
from ft2ray.observe.deaths import read_deaths, summary
from ft2ray.observe.last_error import LastError, read_last_error
from ft2ray.observe.timeline import Span, busy_seconds, overlap_seconds, read_spans
from ft2ray.records import BASE_POLICY
from ft2ray.rounds.schedule import last_step
from ft2ray.rounds.scores import pair_counts, scored_candidates
from ft2ray.run import Run
from ft2ray.storage import exists
from ft2ray.tlpo.description import published_fingerprint

RECENT_SECONDS = 300.0


@dataclass(frozen=True)
class Status:
    """Figures of a run; `staleness` counts groups by rounds between them and the policy that made them."""

    run_dir: str
    rounds: list[tuple[int, int]]  # groups of each round: (committed, all)
    refused: list[str]
    unscored: int
    candidates: int
    pairs: dict[str, int]
    staleness: dict[int, int]
    groups_per_minute: float | None  # in the last five minutes of generation
    generators_busy: float | None  # share of the generators' time, from the first group to the last
    overlap_seconds: float
    step: int
    last_step: int
    policies: int
    quarantined: list[str]
    finished: bool
    deaths: list[str]  # one line for each pool whose processes died
    last_error: LastError | None  # of the last attempt, where it gave up

    def __str__(self) -> str:
        lines = [f"run         {self.run_dir}" + (" (finished)" if self.finished else "")]
        for round, (done, total) in enumerate(self.rounds):
            lines.append(f"round {round + 1:<5} {done} of {total} groups")
        late = self.staleness.items()
        lines += [
            f"candidates  {self.candidates}, {self.unscored} without a score",
            "pairs       " + ", ".join(f"{name} {count}" for name, count in self.pairs.items()),
            "staleness   "
            + (", ".join(f"{n} groups {rounds} rounds late" for rounds, n in late) or "no group"),
            "generation  " + self._generation(),
            f"training    step {self.step} of {self.last_step}, policies published: {self.policies}",
            f"overlap     {self.overlap_seconds:.0f} s with generation and training both at work",
        ]
        lines += [f"died        {text}" for text in self.deaths]
        lines += [f"ended       {self.last_error}"] if self.last_error else []
        lines += [f"quarantined {text}" for text in [*self.quarantined, *self.refused]]
        return "\n".join(lines)

    def _generation(self) -> str:
        if self.groups_per_minute is None or self.generators_busy is None:
            return "nothing yet"
        return f"{self.groups_per_minute:.1f} groups a minute, generators busy {self.generators_busy:.0%}"


def read_status(run_dir: str) -> Status:
    """Read the figures of a run.

    Raises:
        DataError: where there is no run, or none yet, with the end of its last attempt.
    """
    last_error = read_last_error(run_dir)
    try:
        return _status(Run.open(run_dir), last_error)
    except DataError as error:
        if last_error is None:
            raise
        raise DataError(f"{error}; the last attempt ended {last_error}") from error


def _status(run: Run, last_error: LastError | None) -> Status:
    config = run.config
    candidates = scored_candidates(run)
    groups = candidates.filter(pc.equal(candidates["place"], 0)).select(["round", "policy"]).to_pylist()
    committed = Counter(group["round"] for group in groups)
    total = Counter(spec.round for spec in run.specs)
    policies = run.newest_policy(config.schedule.rounds)
    version = {BASE_POLICY: 0} | {
        published_fingerprint(run.policy(number)): number for number in range(1, policies + 1)
    }
    stale = Counter(group["round"] - version[group["policy"]] for group in groups)
    spans = read_spans(run.spans)
    made = [span for span in spans if span.kind == "generate"]
    return Status(
        run_dir=run.url,
        rounds=[(committed[round], total[round]) for round in sorted(total)],
        refused=[f"{row['path']} [{row['reason']}]" for row in run.refused.rows()],
        unscored=candidates[config.dimension_names[0]].null_count,
        candidates=len(candidates),
        pairs=pair_counts(config, candidates, run.wrong_pairs),
        staleness=dict(sorted(stale.items())),
        groups_per_minute=_recent_rate(made),
        generators_busy=_busy_share(made),
        overlap_seconds=overlap_seconds(spans),
        step=run.step,
        last_step=last_step(config, config.schedule.rounds - 1),
        policies=policies,
        quarantined=[f"{q.path} [{q.reason}]" for q in run.plan.quarantined],
        # A report alone may be that of an earlier training in this folder.
        finished=policies == config.schedule.rounds and exists(run.file("report.json")),
        deaths=summary(read_deaths(run.url)),
        last_error=last_error,
    )


def watch(run_dir: str, every_seconds: float = 5.0) -> None:
    """Print the status again and again until the run is finished."""
    while True:
        status = read_status(run_dir)
        print(f"\n{time.strftime('%H:%M:%S')}\n{status}", flush=True)
        if status.finished:
            return
        time.sleep(every_seconds)


def _recent_rate(made: list[Span]) -> float | None:
    if not made:
        return None
    end = max(span.ended for span in made)
    recent = [span for span in made if span.ended > end - RECENT_SECONDS]
    return 60.0 * len(recent) / max(end - min(span.began for span in recent), 1e-9)


def _busy_share(made: list[Span]) -> float | None:
    """Of each actor's time from its first group to its last one."""
    lanes = {span.lane: [s for s in made if s.lane == span.lane] for span in made}
    there = sum(max(s.ended for s in lane) - min(s.began for s in lane) for lane in lanes.values())
    return sum(map(busy_seconds, lanes.values())) / there if there > 0 else None
