"""Where rows live: a folder of small Parquet shards, each of which appears whole or not at all.

A shard is named after its contents, so writing the same rows twice leaves one file, and whatever is listed
in the store is never made again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft2ray.records import content_id


def write_atomically(path: str | Path, data: bytes) -> None:
    """Readers see the old file or the new one, never a part of it, whatever kills the writer."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class RowStore:
    """Rows of one Arrow schema under `root`, keyed by the string column `key`."""

    def __init__(self, root: str | Path, schema: pa.Schema, key: str):
        self.root, self.schema, self.key = Path(root), schema, key

    def commit(self, rows: list[dict[str, Any]]) -> str:
        """Write `rows` as one shard, atomically; returns its file name."""
        assert rows, "a shard has at least one row"
        table = pa.Table.from_pylist(rows, schema=self.schema)
        name = content_id(sorted(row[self.key] for row in rows)) + ".parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_atomically(self.root / name, sink.getvalue().to_pybytes())
        return name

    def shards(self) -> list[Path]:
        """Committed shards in the order of their names (the same on every machine)."""
        return sorted(p for p in self.root.glob("*.parquet") if not p.name.startswith("."))

    def keys(self) -> set[str]:
        """Keys of everything committed; reads that one column only."""
        return {
            key
            for shard in self.shards()
            for key in pq.read_table(shard, columns=[self.key])[self.key].to_pylist()
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """All committed rows, each key once (two writers may both have committed a row)."""
        seen: set[str] = set()
        for shard in self.shards():
            for row in pq.read_table(shard, schema=self.schema).to_pylist():
                if row[self.key] not in seen:
                    seen.add(row[self.key])
                    yield row
