"""Preference pairs of any number of scored rows: Arrow batches in, a table of pairs out for each.

A row is a candidate: the id of its group and P(Yes) in every dimension, null where the critic gave none. The
rows of a group follow each other. A column `critic`, where there is one, holds the fingerprint of the critic,
one and the same in all rows. The pairs are those of `ft2ray.preference.rules`, found for all groups of
one size in one array operation; no more than a batch and one group are held in memory.

    file = pq.ParquetFile("scores.parquet")
    for table in pairs_of_rows(file.iter_batches(), ("mn", "ls", "vq"), PairRule()): ...

Shapes: R rows, G groups, N candidates, K dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ft2ray.errors import DataError
from ft2ray.preference.rules import PairRule, admissible_in, checked, ranked

GROUP_ID, CRITIC = "group_id", "critic"
PAIR = pa.schema(
    [
        ("dimension", pa.string()),  # or another pool: SUM, FULL
        (GROUP_ID, pa.string()),
        ("winner", pa.int32()),  # place of the row in its group, from 0
        ("loser", pa.int32()),
        ("margin", pa.float64()),  # in the unit of the rule
    ]
)


def pairs_of_rows(
    batches: Iterable[pa.RecordBatch],
    dimensions: Sequence[str],
    rule: PairRule,
    pools: Sequence[str] | None = None,
) -> Iterator[pa.Table]:
    """Build the pairs of scored candidates.

    Args:
        batches: of rows; a batch may cut a group in two.
        dimensions: the columns of the scores.
        rule: what counts as a pair.
        pools: whose pairs are wanted: dimensions, SUM or FULL; None stands for every dimension.

    Yields:
        Pairs (schema PAIR) by pool, then group, then falling margin.

    Raises:
        ValueError: for scores that are not probabilities, or of more than one critic.
    """
    pools = dimensions if pools is None else pools
    kept: pa.Table | None = None
    critics: set[str | None] = set()
    for batch in batches:
        if CRITIC in batch.schema.names:
            critics |= set(pc.unique(batch[CRITIC]).to_pylist())
            if len(critics) > 1:
                names = ", ".join(sorted(map(str, critics)))
                raise DataError(
                    f"the rows hold scores of the critics {names}: scores of two critics cannot be "
                    "mixed; give the rows of one"
                )
        new = pa.Table.from_batches([batch])
        rows = new if kept is None else pa.concat_tables([kept, new])
        ids = rows[GROUP_ID]
        last = int(pc.index(ids, ids[-1]).as_py()) if len(ids) else 0  # its group may go on in the next batch
        if last:
            yield _pairs(rows.slice(0, last), dimensions, rule, pools)
        kept = rows.slice(last)
    if kept is not None and kept.num_rows:
        yield _pairs(kept, dimensions, rule, pools)


def _pairs(rows: pa.Table, dimensions: Sequence[str], rule: PairRule, pools: Sequence[str]) -> pa.Table:
    runs = pc.run_end_encode(rows[GROUP_ID].combine_chunks())
    end_G = runs.run_ends.to_numpy()
    size_G = np.diff(end_G, prepend=0)
    p_RK = checked(np.column_stack([rows[name].to_numpy() for name in dimensions]))
    tables = []
    for name in pools:
        found = []
        for size in np.unique(size_G):
            chosen_G = np.flatnonzero(size_G == size)
            p_GNK = p_RK[end_G[chosen_G, None] - size + np.arange(size)]
            group_G, *pair = ranked(*admissible_in(name, p_GNK, dimensions, rule), rule)
            found.append((chosen_G[group_G], *pair))
        group, winner, loser, margin = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(group, kind="stable")
        columns = [
            pa.repeat(name, len(order)),
            runs.values.take(pa.array(group[order])),
            pa.array(winner[order], pa.int32()),
            pa.array(loser[order], pa.int32()),
            pa.array(margin[order]),
        ]
        tables.append(pa.Table.from_arrays(columns, schema=PAIR))
    return pa.concat_tables(tables)
