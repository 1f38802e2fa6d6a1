"""Pairs that people marked as wrong: they take no part in training and export, which the report says.

A mark may be set or taken back at any time. A run takes the marks that there are when it begins, so that all
its processes know the same; with other marks it is another training, and trains anew.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ft2ray.preference.rules import FULL, Pair
from ft2ray.records import content_id
from ft2ray.storage import RowStore, join
from ft2ray.systems import SUM

MARK = pa.schema(
    [
        ("mark_id", pa.string()),
        ("group_id", pa.string()),
        ("dimension", pa.string()),
        ("winner", pa.int32()),  # places of the two candidates in their group
        ("loser", pa.int32()),
        ("revision", pa.int32()),
        ("wrong", pa.bool_()),
        ("annotator", pa.string()),
        ("marked", pa.float64()),  # seconds since 1970
    ]
)


class WrongPair(NamedTuple):
    """A pair of one dimension: places of winner and loser in their group."""

    group_id: str
    dimension: str
    winner: int
    loser: int


def mark_store(url: str | Path) -> RowStore:
    """Where the marks of a run folder are."""
    return RowStore(join(url, "marks"), MARK, "mark_id", what="a mark")


def mark(store: RowStore, pair: WrongPair, wrong: bool, annotator: str) -> None:
    """Mark a pair as wrong, or take the mark back."""
    while True:
        revisions = [row["revision"] for row in store.rows() if _pair(row) == pair]
        revision = max(revisions, default=-1) + 1
        row = pair._asdict() | {"wrong": wrong, "annotator": annotator, "marked": time.time()}
        row |= {"revision": revision, "mark_id": content_id(*pair, revision)}
        if store.commit_once([row]):
            return


def marked(store: RowStore) -> list[WrongPair]:
    """The pairs that are marked as wrong now, in a fixed order."""
    newest: dict[WrongPair, tuple[int, bool]] = {}
    for row in store.rows():
        pair = _pair(row)
        newest[pair] = max(newest.get(pair, (-1, False)), (row["revision"], row["wrong"]))
    return sorted(pair for pair, (_, wrong) in newest.items() if wrong)


def without(
    group_id: str, pools: dict[str, list[Pair]], wrong: Collection[WrongPair]
) -> dict[str, list[Pair]]:
    """The pairs of one group but for the wrong ones.

    The same two candidates in the same order leave the summed score and stage 2 too: both would teach what
    somebody said is wrong.
    """
    here = {(mark.dimension, mark.winner, mark.loser) for mark in wrong if mark.group_id == group_id}
    if not here:
        return pools
    anywhere = {(pool, *pair) for _, *pair in here for pool in (SUM, FULL)}
    return {
        pool: [pair for pair in found if (pool, pair.winner, pair.loser) not in here | anywhere]
        for pool, found in pools.items()
    }


def _pair(row: dict) -> WrongPair:
    return WrongPair(row["group_id"], row["dimension"], row["winner"], row["loser"])
