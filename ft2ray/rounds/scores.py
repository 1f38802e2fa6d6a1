"""What a run's store says of scores, read without its tensors, which are a thousand times as large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft2ray.config import AlignConfig
from ft2ray.pipeline.curation import group_store
from ft2ray.preference.rules import FULL
from ft2ray.preference.scored_rows import pairs_of_rows
from ft2ray.records import GROUP_INDEX
from ft2ray.rounds.schedule import Slot
from ft2ray.systems import SUM

BATCH_ROWS = 65_536


def scored_candidates(config: AlignConfig, slots: Sequence[Slot]) -> pa.Table:
    """The candidates of the committed groups of these slots, group by group in the order of their ids.

    Columns: group_id, round, critic, place (in its group, from 0), policy, error, and P(Yes) by dimension,
    null where the critic gave none.
    """
    wanted = pa.array([slot.group_id for slot in slots], pa.string())
    groups = group_store(config.run_dir).table(GROUP_INDEX)
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
        columns | {name: pc.list_element(scores, k) for k, name in enumerate(config.dimension_names)}
    )


def pair_counts(config: AlignConfig, candidates: pa.Table) -> dict[str, int]:
    """How many pairs every dimension, the summed score and stage 2 have in `scored_candidates`.

    ValueError where more than one critic gave the scores.
    """
    pools = (*config.dimension_names, SUM, FULL)
    counts = Counter(dict.fromkeys(pools, 0))
    batches = candidates.select(["group_id", "critic", *config.dimension_names]).to_batches(BATCH_ROWS)
    for pairs in pairs_of_rows(batches, config.dimension_names, config.pairs, pools):
        counts.update(pairs["dimension"].to_pylist())
    return dict(counts)


def critics(run_dir: str) -> set[str]:
    """Fingerprints of all critics whose scores the store holds."""
    return set(group_store(run_dir).table(["critic"])["critic"].to_pylist())
