"""Folders of rows: small Parquet shards, each of which appears whole or not at all.

    <root>/<id>.parquet         rows that were committed together; the id hashes their keys
    <root>/.narrow/*.parquet    the narrow columns of many shards, so that no reader opens 100,000 files
    <root>/.damaged/            shards that were set aside, each with the reason

Whatever is listed in the store is never made again. The index is only a copy: it is written by those who
commit, merged and completed by those who read, and may be deleted at any time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft2ray.errors import NonFiniteError, StoredDataError, StoreRefused
from ft2ray.records import content_id
from ft2ray.storage.arrow_rows import python_rows
from ft2ray.storage.digests import fault, with_digest
from ft2ray.storage.files import base_name, delete, exists, join, list_files, read_bytes, write_atomically

log = logging.getLogger(__name__)

READERS = 16  # files read at a time; as many connections as the client of S3 keeps
INDEX_EVERY = 64  # commits of one writer, or shards that a reader had to open, that give an index file
OPEN_AT_ONCE = 2048  # shards; a table of its own for each of 100,000 takes over a gigabyte
INDEX_FILES = 16  # index files that are merged into one
SHARD = "shard"
_NAME = re.compile(r"[0-9a-f]{16}\.parquet")


class RowStore:
    """Rows of one Arrow schema under `root`, keyed by a string column.

    Args:
        root: the folder, a path or an s3:// URL.
        schema: of a row.
        key: name of the column with the key.
        index: the columns that are read without the others, as paths in Parquet ("round", or
            "candidates.list.element.scores" inside a list of structs); None for all of them.
        what: what a row is, for messages.
        lossy: rows that may be lost: damaged shards are passed over, which the log says.
    """

    def __init__(
        self,
        root: str | Path,
        schema: pa.Schema,
        key: str,
        index: Sequence[str] | None = None,
        what: str = "a row",
        lossy: bool = False,
    ):
        self.root, self.schema, self.key, self.what, self.lossy = str(root), schema, key, what, lossy
        self.index = None if index is None else tuple(index)
        self._index_root = join(self.root, ".narrow")  # older ones, .index, could hold rows twice
        self._unindexed: dict[str, pa.Table] = {}
        self._foreign: set[str] = set()

    def commit(self, rows: list[dict[str, Any]]) -> str:
        """Write `rows` as one shard, atomically; returns its name."""
        self._commit(rows, if_absent=False)
        return self._shard_name(rows)

    def commit_once(self, rows: list[dict[str, Any]]) -> bool:
        """Write `rows` unless a shard of the same keys is there; of several writers exactly one gets True."""
        return self._commit(rows, if_absent=True)

    def shards(self) -> list[str]:
        """Names of the committed shards, sorted (the same order on every machine)."""
        names = list_files(self.root, ".parquet")
        for name in names:
            if not _NAME.fullmatch(name) and name not in self._foreign:
                self._foreign.add(name)
                log.warning("%s is not a shard of this store; it is ignored", join(self.root, name))
        return [name for name in names if name not in self._foreign]

    def read(self, shard: str) -> list[dict[str, Any]]:
        """The rows of one shard.

        Raises:
            StoredDataError: where they are not those that were written.
            FileNotFoundError: where there is no such shard.
        """
        found = self._read(join(self.root, shard), None)
        return python_rows(pa.concat_tables([self.schema.empty_table(), found], promote_options="default"))

    def rows(self) -> Iterator[dict[str, Any]]:
        """All committed rows, each key once (two writers may both have committed a row)."""
        if self.index is None:
            found: Iterable[dict[str, Any]] = python_rows(self.table(self.schema.names))
        else:
            found = (row for shard in self.shards() for row in self.read(shard))
        seen: set[str] = set()
        for row in found:
            if row[self.key] not in seen:
                seen.add(row[self.key])
                yield row

    def keys(self) -> set[str]:
        """Keys of everything committed."""
        return set(self.table([self.key])[self.key].to_pylist())

    def table(self, columns: Sequence[str]) -> pa.Table:
        """These columns of all committed rows, shard by shard in their order.

        Args:
            columns: paths in Parquet, all of them in the index.
        """
        assert self.index is None or set(columns) <= set(self.index), "not in the index"
        while True:
            try:
                return self._table(columns)
            except FileNotFoundError:  # another reader has merged the index meanwhile
                continue

    def has(self, key: str) -> bool:
        """Whether the row of `key` is committed, in a shard of its own."""
        return exists(join(self.root, _shard_name([key])))

    def get(self, key: str) -> dict[str, Any]:
        """The row of `key`, committed in a shard of its own; FileNotFoundError where it is not."""
        return self.read(_shard_name([key]))[0]

    def committed(self, keys: set[str]) -> set[str]:
        """Those of `keys` that are committed in shards of their own: one listing, nothing is read."""
        shards = set(self.shards())
        return {key for key in keys if _shard_name([key]) in shards} if shards else set()

    def set_aside_damaged(self, keys: Iterable[str] | None = None) -> list[str]:
        """Read the shards of these keys (None: all shards) and move the damaged ones out of the store.

        Returns:
            A sentence for each of them.
        """
        there = self.shards()
        wanted = set(there) if keys is None else {_shard_name([key]) for key in keys}
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(self._fault, (shard for shard in there if shard in wanted)))
        damaged = [error for error in found if error is not None]
        for error in damaged:
            self._set_aside(base_name(error.url), str(error))
        return [str(error) for error in damaged]

    def _commit(self, rows: list[dict[str, Any]], if_absent: bool) -> bool:
        shard, table = self._shard_name(rows), pa.Table.from_pylist(rows, self.schema)
        for name, column in zip(table.column_names, table.columns, strict=True):
            if bad := _not_finite(name, column.combine_chunks()):
                raise NonFiniteError(
                    f"{self.root}: {bad} of {self.what} ({rows[0][self.key]}) is not finite; it is not stored"
                )
        parquet = self._parquet(table)
        written = write_atomically(join(self.root, shard), parquet, if_absent)
        if written:
            self._unindexed[shard] = self._narrow(shard, parquet)
            if len(self._unindexed) >= INDEX_EVERY:
                self._write_index(pa.concat_tables(self._unindexed.values()))
                self._unindexed = {}
        return written

    def _table(self, columns: Sequence[str]) -> pa.Table:
        shards = self.shards()
        files = list_files(self._index_root, ".parquet")
        if len(files) > INDEX_FILES:
            files = self._merged(files, shards)
        missing = set(shards)
        parts = [self._nothing(columns), *self._indexed(files, columns, missing)]
        rest = sorted(missing)
        for some in (rest[n : n + OPEN_AT_ONCE] for n in range(0, len(rest), OPEN_AT_ONCE)):
            opened = self._parallel(self._open, some)
            fresh = pa.concat_tables(opened, promote_options="default").combine_chunks()
            if len(some) >= INDEX_EVERY:
                self._write_index(fresh)
            parts.append(self._selected(fresh, columns))
        table = pa.concat_tables(parts, promote_options="default")
        return table.sort_by(SHARD).drop_columns([SHARD])

    def _indexed(
        self, files: list[str], columns: Sequence[str] | None, missing: set[str]
    ) -> Iterator[pa.Table]:
        """What the index has of `missing`, which shrinks; several may have indexed a shard: it comes once."""
        for table in self._parallel(lambda file: self._read_index(file, columns), files):
            yield table.filter(pc.is_in(table[SHARD], pa.array(sorted(missing), pa.string())))
            missing -= set(table[SHARD].to_pylist())

    def _open(self, shard: str) -> pa.Table:
        try:
            return self._narrow(shard, self._bytes(join(self.root, shard)))
        except StoredDataError as error:
            if not self.lossy:
                raise
            log.warning("%s; it is left out", error)
            return self._narrow("", self._parquet(self.schema.empty_table()))

    def _narrow(self, shard: str, parquet: bytes) -> pa.Table:
        """The indexed columns of a shard, and its name."""
        table = _columns(parquet, self.index)
        return table.append_column(SHARD, pa.repeat(pa.scalar(shard), len(table)))

    def _selected(self, narrow: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Columns of a narrow table; those inside of lists are taken out by Parquet itself."""
        if set(columns) >= set(self.index or self.schema.names):
            return narrow
        if set(columns) <= set(narrow.column_names):
            return narrow.select([*columns, SHARD])
        return _columns(self._parquet(narrow), [*columns, SHARD])

    def _nothing(self, columns: Sequence[str]) -> pa.Table:
        """So that a store without rows has columns."""
        return self._selected(self._narrow("", self._parquet(self.schema.empty_table())), columns)

    def _read_index(self, file: str, columns: Sequence[str] | None) -> pa.Table:
        """An index file; one that is damaged is deleted, since all it holds can be read again."""
        url = join(self._index_root, file)
        try:
            return self._read(url, None if columns is None else [*columns, SHARD])
        except StoredDataError as error:
            log.warning("%s; the index is made again", error)
            delete(url)
            return self._narrow("", self._parquet(self.schema.empty_table()))

    def _write_index(self, narrow: pa.Table) -> str | None:
        """Returns the new file; None where this process may only read."""
        name = content_id(sorted(set(narrow[SHARD].to_pylist()))) + ".parquet"
        try:
            write_atomically(join(self._index_root, name), self._parquet(narrow))
        except StoreRefused as error:  # a reader without the right to write reads what it needs each time
            log.info("no index written: %s", error)
            return None
        return name

    def _merged(self, files: list[str], shards: list[str]) -> list[str]:
        tables = list(self._indexed(files, None, set(shards)))
        merged = self._write_index(pa.concat_tables(tables, promote_options="default"))
        if merged is None:
            return files
        for file in files:
            if file != merged:
                delete(join(self._index_root, file))
        return [merged]

    def _set_aside(self, shard: str, reason: str) -> None:
        place = join(self.root, ".damaged", shard)
        log.warning("%s; it is set aside as %s and made again", reason, place)
        write_atomically(place, read_bytes(join(self.root, shard)))
        write_atomically(place + ".txt", reason.encode() + b"\n")
        delete(join(self.root, shard))
        for file in list_files(self._index_root, ".parquet"):
            narrow = self._read_index(file, None)
            rest = narrow.filter(pc.not_equal(narrow[SHARD], shard))
            if len(rest) < len(narrow):
                delete(join(self._index_root, file))
                if len(rest):
                    self._write_index(rest)

    def _fault(self, shard: str) -> StoredDataError | None:
        try:
            self._read(join(self.root, shard), [self.key])
        except StoredDataError as error:
            return error
        except FileNotFoundError:
            pass
        return None

    def _read(self, url: str, columns: Sequence[str] | None) -> pa.Table:
        return _columns(self._bytes(url), columns)

    def _bytes(self, url: str) -> bytes:
        parquet = read_bytes(url)
        if wrong := fault(parquet):
            raise StoredDataError(
                url, f"{self.what} {wrong}", "`ft2ray align` on this run sets it aside and makes it again"
            )
        return parquet

    def _parallel(self, read: Any, names: Sequence[str]) -> Iterator[pa.Table]:
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(read, names)

    def _shard_name(self, rows: list[dict[str, Any]]) -> str:
        return _shard_name([row[self.key] for row in rows])

    def _parquet(self, table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        # Latents are noise, of which a dictionary only costs time.
        pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
        return with_digest(sink.getvalue().to_pybytes())


def _not_finite(name: str, array: pa.Array) -> str | None:
    """Path of the first values in a column that are NaN or infinite; nulls are none."""
    kind = array.type
    if pa.types.is_floating(kind):
        return None if pc.all(pc.is_finite(array.drop_null())).as_py() is not False else name
    if pa.types.is_map(kind):
        return _not_finite(name, array.items)
    if pa.types.is_list(kind):
        return _not_finite(name, array.values)
    if pa.types.is_struct(kind):
        parts = (_not_finite(f"{name}.{field.name}", array.field(field.name)) for field in kind)
        return next((part for part in parts if part is not None), None)
    return None


def _columns(parquet: bytes, columns: Sequence[str] | None) -> pa.Table:
    with pq.ParquetFile(pa.BufferReader(parquet)) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def _shard_name(keys: list[str]) -> str:
    assert keys, "a shard has at least one row"
    return content_id(sorted(keys)) + ".parquet"
