"""What a run's store says of scores, read without its tensors, which are a thousand times as large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft2ray.config import AlignConfig
from ft2ray.errors import DataError, StoredDataError
from ft2ray.preference.rules import FULL, Pair
from ft2ray.preference.scored_rows import pairs_of_rows
from ft2ray.preference.wrong_pairs import WrongPair, without
from ft2ray.records import GROUP_INDEX, VIDEOS, video_of
from ft2ray.rounds.schedule import candidate_draws
from ft2ray.run import Run
from ft2ray.storage import list_files
from ft2ray.systems import SUM

BATCH_ROWS = 65_536
GROUPS_AT_A_TIME = 8_192


def scored_candidates(run: Run) -> pa.Table:
    """The candidates of the committed groups of the run: `candidates_of` their ids."""
    return candidates_of(run, [spec.group_id for spec in run.specs])


def candidates_of(run: Run, group_ids: Sequence[str]) -> pa.Table:
    """The candidates of those of these groups that are committed, group by group in the order of their ids.

    Columns: group_id, round, critic, place (in its group, from 0), policy, error, and P(Yes) by dimension,
    null where the critic gave none.
    """
    wanted = pa.array(group_ids, pa.string())
    groups = run.groups.table(GROUP_INDEX)
    groups = groups.filter(pc.is_in(groups["group_id"], wanted)).sort_by("group_id")
    lists = groups["candidates"].combine_chunks()
    group = pc.list_parent_indices(lists)
    candidates = lists.flatten()
    columns = {name: groups[name].take(group) for name in ("group_id", "round", "critic")}
    starts = np.cumsum(lists.value_lengths()) - lists.value_lengths()
    columns["place"] = pa.array(np.arange(len(group)) - np.asarray(starts)[group])
    columns |= {name: candidates.field(name) for name in ("policy", "error")}
    scores = candidates.field("scores")
    return pa.table(
        columns | {name: pc.list_element(scores, k) for k, name in enumerate(run.config.dimension_names)}
    )


def candidate_video(run: Run, prompt_id: str, row: Mapping[str, Any]) -> str:
    """Where the run folder has the video of a row of `candidates_of`, if videos are kept."""
    draw = candidate_draws(run.config, row["round"], prompt_id)[row["place"]]
    return video_of(draw.candidate_id(prompt_id, run.generator, row["policy"]))


def kept_videos(run: Run) -> set[str]:
    """The paths of all videos that the run folder has."""
    return {f"{VIDEOS}/{name}" for name in list_files(run.file(VIDEOS))}


def pair_counts(
    config: AlignConfig, candidates: pa.Table, wrong: Collection[WrongPair] = ()
) -> dict[str, int]:
    """How many pairs every dimension, the summed score and stage 2 have in `scored_candidates`.

    `wrong`: pairs that do not count.

    ValueError where more than one critic gave the scores.
    """
    pools = (*config.dimension_names, SUM, FULL)
    counts = Counter(dict.fromkeys(pools, 0))
    batches = candidates.select(["group_id", "critic", *config.dimension_names]).to_batches(BATCH_ROWS)
    for pairs in pairs_of_rows(batches, config.dimension_names, config.pairs, pools):
        counts.update(pairs["dimension"].to_pylist())
        if wrong:
            counts.subtract(left_out(pairs, wrong))
    return dict(counts)


def left_out(pairs: pa.Table, wrong: Collection[WrongPair]) -> Counter[str]:
    """How many of these pairs are wrong, by pool."""
    marked = pairs.filter(
        pc.is_in(pairs["group_id"], pa.array({mark.group_id for mark in wrong}, pa.string()))
    )
    counts: Counter[str] = Counter()
    for row in marked.to_pylist():
        pair = Pair(row["winner"], row["loser"], row["margin"])
        counts[row["dimension"]] += not without(row["group_id"], {row["dimension"]: [pair]}, wrong)[
            row["dimension"]
        ]
    return counts


def pairs_by_group(run: Run, group_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, list[Pair]]]]:
    """Read the pairs of committed groups.

    Args:
        run: with one critic's scores.
        group_ids: committed groups; their scores come from the index, no tensor is read.

    Yields:
        Group id, and its pairs of every dimension, of the summed score and of stage 2, in order.

    Raises:
        DataError: where another critic gave the scores.
        StoredDataError: where a group is not in the store any more.
    """
    config, critic = run.config, run.critic
    names, pools = config.dimension_names, (*config.dimension_names, SUM, FULL)
    candidates = candidates_of(run, group_ids)
    others = set(candidates["critic"].unique().to_pylist()) - {critic}
    if others:
        raise DataError(
            f"groups of this run were scored by critic {', '.join(map(str, others))}, now it is {critic}: "
            "scores of two critics cannot be mixed; take that critic again, or a new run_dir"
        )
    lost = set(group_ids) - set(candidates["group_id"].unique().to_pylist())
    if lost:
        raise StoredDataError(run.groups.root, f"the prompt group {min(lost)} is missing", "it is made again")
    for start in range(0, len(group_ids), GROUPS_AT_A_TIME):
        some = sorted(group_ids)[start : start + GROUPS_AT_A_TIME]
        found: dict[str, dict[str, list[Pair]]] = {
            group_id: {name: [] for name in pools} for group_id in some
        }
        rows = candidates.filter(pc.is_in(candidates["group_id"], pa.array(some, pa.string())))
        for table in pairs_of_rows(
            rows.select(["group_id", *names]).to_batches(), names, config.pairs, pools
        ):
            columns = (column.to_pylist() for column in table.columns)
            for pool, group_id, *pair in zip(*columns, strict=True):
                found[group_id][pool].append(Pair(*pair))
        for group_id, pairs in found.items():
            yield group_id, without(group_id, pairs, run.wrong_pairs)


def critics(run: Run) -> set[str]:
    """Fingerprints of all critics whose scores the store holds."""
    return set(run.groups.table(["critic"])["critic"].to_pylist())
