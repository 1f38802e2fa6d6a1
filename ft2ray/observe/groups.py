"""The prompt groups of a run as people look through them: candidates, scores, pairs; no tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from ft2ray.preference.scored_rows import pairs_of_rows
from ft2ray.preference.wrong_pairs import WrongPair
from ft2ray.records import Prompt
from ft2ray.rounds.scores import candidate_video, candidates_of, kept_videos, scored_candidates
from ft2ray.run import Run


@dataclass(frozen=True)
class CandidateView:
    """A candidate: place in its group, clip in the run folder (None: not kept), what the critic said."""

    place: int
    video: str | None
    policy: str
    p_yes: Mapping[str, float]
    error: str | None


@dataclass(frozen=True)
class GroupView:
    """A group with the pairs that its scores make, wrong ones included, and their margins."""

    group_id: str
    round: int
    prompt: Prompt
    candidates: tuple[CandidateView, ...]
    pairs: tuple[tuple[WrongPair, float], ...]


def find_groups(run: Run, search: str = "", policy: str = "") -> list[tuple[str, str]]:
    """Ids of the committed groups and words for each.

    `search`: part of the portrait's or the recording's path, in small letters or large.
    `policy`: the beginning of the fingerprint of the policy that made the candidates.
    """
    candidates = scored_candidates(run)
    first = candidates.filter(pc.equal(candidates["place"], 0)).select(["group_id", "policy"])
    policies = dict(zip(first["group_id"].to_pylist(), first["policy"].to_pylist(), strict=True))
    return [
        (spec.group_id, _words(spec.prompt, spec.round))
        for spec in run.specs
        if spec.group_id in policies
        and policies[spec.group_id].startswith(policy)
        and search.lower() in f"{spec.prompt.portrait} {spec.prompt.speech}".lower()
    ]


def read_group(run: Run, group_id: str) -> GroupView:
    """One committed group."""
    spec = next(spec for spec in run.specs if spec.group_id == group_id)
    names = run.config.dimension_names
    kept = kept_videos(run)
    rows = candidates_of(run, [group_id])
    candidates = []
    for row in rows.to_pylist():
        video = candidate_video(run, spec.prompt.prompt_id, row)
        candidates.append(
            CandidateView(
                row["place"],
                video if video in kept else None,
                row["policy"],
                {name: row[name] for name in names if row[name] is not None},
                row["error"],
            )
        )
    pairs = [
        (WrongPair(group_id, pair["dimension"], pair["winner"], pair["loser"]), pair["margin"])
        for table in pairs_of_rows(rows.select(["group_id", *names]).to_batches(), names, run.config.pairs)
        for pair in table.to_pylist()
    ]
    return GroupView(group_id, spec.round, spec.prompt, tuple(candidates), tuple(pairs))


def scores_by_dimension(run: Run) -> dict[str, list[float]]:
    """P(Yes) of all candidates that have a score."""
    candidates = scored_candidates(run)
    return {name: candidates[name].drop_null().to_pylist() for name in run.config.dimension_names}


def refusals(run: Run) -> list[tuple[str, str, str]]:
    """File, reason and sentence of all that was quarantined or given up."""
    found = [(q.path, q.reason, q.message) for q in run.plan.quarantined]
    return found + [(row["path"], row["reason"], row["message"]) for row in run.refused.rows()]


def _words(prompt: Prompt, round: int) -> str:
    portrait, speech = Path(prompt.portrait).stem, Path(prompt.speech).stem
    return f"{portrait} with {speech} from {prompt.start_seconds:g} s, round {round + 1}"
