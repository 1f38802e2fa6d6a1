"""Preference pairs of a million scored rows: time and memory, against pandas.

    python bench/pair_building.py

Both read the same Parquet file, apply the paper's rule (answers differ, a margin of 0.3, best against worst)
in three dimensions and write a Parquet file; each in a process of its own.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from figures import Figure, in_own_process, main, memory, profiled, ratios

from ft2ray.preference.rules import PairRule
from ft2ray.preference.scored_rows import PAIR, pairs_of_rows

DIMENSIONS = ("mn", "ls", "vq")
ROWS, CANDIDATES = 1_000_000, 4
RULE = PairRule(kind="best_worst", answers_differ=True, margin=0.3, margin_space="p")
BATCH_ROWS = 65_536


def measure(repetitions: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        file, quarter, out = (str(Path(folder) / name) for name in ("all", "quarter", "pairs"))
        write_scores(file, ROWS)
        write_scores(quarter, ROWS // 4)
        ours, pandas, small = [], [], []
        for _ in range(repetitions):
            ours.append(in_own_process(cost, streamed, file, out))
            pairs = pairs_in(out)
            pandas.append(in_own_process(cost, with_pandas, file, out))
            assert pairs == pairs_in(out), "both must find the same pairs"
            small.append(in_own_process(cost, streamed, quarter, out))
        why = profiled(lambda: streamed(file, out))
    (seconds, held), (theirs, their_held) = (zip(*found, strict=True) for found in (ours, pandas))
    figure = f"{ROWS:,} scored rows to {len(pairs):,} pairs"
    return [
        Figure(figure, "", seconds, " s"),
        Figure(figure, "pandas", ratios(theirs, seconds), "x faster", ">= 1.0", why=why),
        Figure("its memory", "", [held_bytes / 1e6 for held_bytes in held], " MB"),
        Figure("its memory", "pandas", ratios(their_held, held), "x less", ">= 1.0"),
        Figure(
            "its memory",
            "a quarter of the rows",
            ratios(held, [few for _, few in small]),
            "x",
            "<= 1.25",
            1.0,
        ),
    ]


def write_scores(path: str, rows: int) -> None:
    """Scores like a critic's: groups differ, candidates in them too, one row in a hundred has none."""
    rng = np.random.default_rng(0)
    groups = rows // CANDIDATES
    logit_GNK = 0.5 + 1.2 * rng.standard_normal((groups, 1, 3))
    logit_GNK = logit_GNK + 1.33 * rng.standard_normal((groups, CANDIDATES, 3))
    p_RK = (1 / (1 + np.exp(-logit_GNK))).reshape(-1, 3)
    p_RK[rng.random(rows) < 0.01] = np.nan
    ids = pa.array([f"{g:016x}" for g in range(groups)]).take(np.arange(rows) // CANDIDATES)
    place = pa.array(np.arange(rows) % CANDIDATES, pa.int32())
    scores = [pa.array(p_R, from_pandas=True) for p_R in p_RK.T]
    table = pa.table([ids, place, *scores], ["group_id", "candidate", *DIMENSIONS])
    pq.write_table(table, path, row_group_size=BATCH_ROWS)


def streamed(source: str, target: str) -> None:
    with pq.ParquetFile(source) as file, pq.ParquetWriter(target, PAIR) as writer:
        for table in pairs_of_rows(batches(file), DIMENSIONS, RULE):
            writer.write_table(table)


def batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Row group by row group: an iterator over all of them would keep what it has read of the file."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(BATCH_ROWS, row_groups=[group], columns=["group_id", *DIMENSIONS])


def with_pandas(source: str, target: str) -> None:
    frame = pd.read_parquet(source)
    found = []
    for name in DIMENSIONS:
        scores = frame.dropna(subset=[name])
        by_group = scores.groupby("group_id", sort=False)[name]
        best, worst = by_group.idxmax(), by_group.idxmin()
        pairs = pd.DataFrame(
            {
                "dimension": name,
                "group_id": best.index,
                "winner": scores.loc[best, "candidate"].to_numpy(),
                "loser": scores.loc[worst, "candidate"].to_numpy(),
                "p_winner": scores.loc[best, name].to_numpy(),
                "p_loser": scores.loc[worst, name].to_numpy(),
            }
        )
        pairs["margin"] = pairs["p_winner"] - pairs["p_loser"]
        wanted = (pairs["p_winner"] > 0.5) & (pairs["p_loser"] <= 0.5) & (pairs["margin"] >= RULE.margin)
        found.append(pairs.loc[wanted, PAIR.names])
    pd.concat(found).to_parquet(target, index=False)


def cost(call: Callable[[str, str], None], source: str, target: str) -> tuple[float, float]:
    """Seconds of the call, and bytes that it held at most."""
    before, start = memory("VmRSS"), time.perf_counter()
    call(source, target)
    return time.perf_counter() - start, memory("VmHWM") - before


def pairs_in(path: str) -> set[tuple]:
    columns = pq.read_table(path, columns=["dimension", "group_id", "winner", "loser"]).columns
    return set(zip(*(column.to_pylist() for column in columns), strict=True))


if __name__ == "__main__":
    main("pairs", measure)
