"""Rows: whole or not at all, once or not at all, and never other numbers. The same on S3: test_s3.py."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft2ray.errors import NonFiniteError, StoredDataError, StoreRefused
from ft2ray.storage import RowStore
from ft2ray.storage import rows as rows_module

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


def test_rows_come_back_once_and_in_a_fixed_order(tmp_path):
    store = RowStore(tmp_path / "s", SCHEMA, "key")
    assert store.keys() == set() and list(store.rows()) == [] and store.shards() == []
    name = store.commit([{"key": "a", "value": 1}])
    store.commit([{"key": "b", "value": 2}, {"key": "c", "value": 3}])
    store.commit([{"key": "a", "value": 1}])
    store.commit([{"key": "c", "value": 3}])
    assert store.keys() == {"a", "b", "c"}
    assert sorted(row["key"] for row in store.rows()) == ["a", "b", "c"]
    assert list(store.rows()) == list(RowStore(tmp_path / "s", SCHEMA, "key").rows())
    assert name in store.shards() and store.read(name) == [{"key": "a", "value": 1}]
    assert list(store.rows())[0] == store.read(store.shards()[0])[0]


NESTED = pa.schema(
    [
        ("key", pa.string()),
        ("parts", pa.list_(pa.struct([("name", pa.string()), ("data", pa.list_(pa.float32()))]))),
    ]
)


def test_a_table_holds_the_columns_that_were_asked_for_and_nothing_else(tmp_path):
    store, wanted = RowStore(tmp_path, NESTED, "key"), ["key", "parts.list.element.name"]
    assert store.table(wanted).num_rows == 0
    for key in "ab":
        store.commit([{"key": key, "parts": [{"name": key * n, "data": [0.5] * 9} for n in (1, 2)]}])
    store.commit([{"key": "c", "parts": None}])
    rows = sorted(store.table(wanted).to_pylist(), key=lambda row: row["key"])
    assert rows == [
        {"key": "a", "parts": [{"name": "a"}, {"name": "aa"}]},
        {"key": "b", "parts": [{"name": "b"}, {"name": "bb"}]},
        {"key": "c", "parts": None},
    ]


def test_the_first_to_commit_a_key_stays(tmp_path):
    store = RowStore(tmp_path, SCHEMA, "key")
    assert store.commit_once([{"key": "a", "value": 1}])
    assert not store.commit_once([{"key": "a", "value": 2}])
    assert list(store.rows()) == [{"key": "a", "value": 1}]
    assert os.listdir(tmp_path) == store.shards()


def _commit(root, value, start, results):
    start.wait()
    results.put(RowStore(root, SCHEMA, "key").commit_once([{"key": "a", "value": value}]))


def test_of_several_writers_at_once_exactly_one_commits(tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    writers = [context.Process(target=_commit, args=(tmp_path, n, start, results)) for n in range(3)]
    for writer in writers:
        writer.start()
    assert sorted(results.get(timeout=60) for _ in writers) == [False, False, True]
    for writer in writers:
        writer.join()
    assert len(list(RowStore(tmp_path, SCHEMA, "key").rows())) == 1


def test_rows_of_an_older_schema_have_nulls_in_the_new_columns(tmp_path):
    RowStore(tmp_path, SCHEMA, "key").commit([{"key": "a", "value": 1}])
    wider = RowStore(tmp_path, SCHEMA.append(pa.field("more", pa.string())), "key")
    wider.commit([{"key": "b", "value": 2, "more": "x"}])
    assert {row["key"]: row["more"] for row in wider.rows()} == {"a": None, "b": "x"}
    assert wider.read(RowStore(tmp_path, SCHEMA, "key").commit([{"key": "c", "value": 1}]))[0]["more"] is None


def test_a_killed_writer_leaves_only_whole_shards(tmp_path):
    script = f"""
import pyarrow as pa
from ft2ray.storage import RowStore
store = RowStore({str(tmp_path)!r}, pa.schema([("key", pa.string()), ("value", pa.int64())]), "key")
n = 0
while True:
    store.commit([{{"key": f"{{n}}-{{m}}", "value": m}} for m in range(2000)])
    n += 1
"""
    writer = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("*.parquet"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    store = RowStore(tmp_path, SCHEMA, "key")
    assert len(store.shards()) >= 5
    assert len(list(store.rows())) == 2000 * len(store.shards())


def test_rows_committed_alone_are_found_by_their_key(tmp_path):
    store = RowStore(tmp_path, pa.schema([("k", pa.string()), ("v", pa.int32())]), "k")
    assert store.commit_once([{"k": "a", "v": 1}]) and not store.commit_once([{"k": "a", "v": 2}])
    store.commit([{"k": "b", "v": 3}, {"k": "c", "v": 4}])
    assert store.get("a") == {"k": "a", "v": 1} and store.has("a") and not store.has("b")
    assert store.committed({"a", "b", "z"}) == {"a"}
    with pytest.raises(FileNotFoundError):
        store.get("z")


GROUPS = pa.schema(
    [
        ("key", pa.string()),
        ("seed", pa.int64()),
        (
            "parts",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("data", pa.list_(pa.float32())),
                        ("scores", pa.list_(pa.float64())),
                    ]
                )
            ),
        ),
        ("metrics", pa.map_(pa.string(), pa.float64())),
    ]
)
INDEX = ("key", "seed", "parts.list.element.scores")


def row(key: str, value: float = 0.5) -> dict:
    parts = [
        {"name": "a", "data": [value, 1.25, -3.0], "scores": [0.1, 0.2]},
        {"name": "b", "data": [2.0] * 5, "scores": None},
    ]
    return {"key": key, "seed": 7, "parts": parts, "metrics": [("mn", 0.25)]}


def groups(root) -> RowStore:
    return RowStore(root, GROUPS, "key", INDEX, "a prompt group")


def same(found: list[dict]) -> str:
    """Rows as text: arrays do not compare to lists."""
    return repr(
        [{**r, "parts": [{**p, "data": list(map(float, p["data"]))} for p in r["parts"]]} for r in found]
    )


@pytest.fixture(scope="module")
def shard():
    with tempfile.TemporaryDirectory() as folder:
        store = groups(folder)
        name = store.commit([row("a")])
        path = Path(folder, name)
        yield store, name, path, path.read_bytes(), same(store.read(name)), store.table(INDEX)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_whatever_is_damaged_in_a_shard_is_named(shard, place, bit, cut):
    store, name, path, good, rows, table = shard
    at = int(place * len(good))
    bad = good[:at] if cut else good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
    path.write_bytes(bad)
    try:
        for read in (lambda: store.read(name), lambda: list(store.rows()), lambda: store.table(INDEX)):
            with pytest.raises(StoredDataError, match=f"{path}: a prompt group .*ft2ray align"):
                read()
    finally:
        path.write_bytes(good)
    assert same(store.read(name)) == rows and store.table(INDEX) == table


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1PAR1", b"\x00" * 100, b"foreign", b"\xff" * 4 + b"PAR1"]
)
def test_empty_and_foreign_shards_are_named(tmp_path, content):
    store = groups(tmp_path)
    name = store.commit([row("a")])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoredDataError, match=f"{tmp_path}/{name}: a prompt group is empty, truncated"):
        store.read(name)


def test_a_shard_of_another_program_carries_no_digest(tmp_path):
    store = groups(tmp_path)
    name = store.commit([row("a")])
    pq.write_table(pa.Table.from_pylist([row("a")], GROUPS), tmp_path / name)
    with pytest.raises(StoredDataError, match="carries no digest"):
        store.read(name)


def test_a_stray_file_stops_nothing_and_is_said_once(tmp_path, caplog):
    store = groups(tmp_path)
    store.commit([row("a")])
    (tmp_path / "zzz.parquet").write_bytes(b"stray")
    assert store.keys() == {"a"} and len(list(store.rows())) == 1 and store.committed({"a"}) == {"a"}
    assert caplog.text.count("zzz.parquet is not a shard of this store; it is ignored") == 1


def test_other_programs_read_the_shards(tmp_path):
    import pandas

    for key in "abc":
        groups(tmp_path).commit([row(key)])
    groups(tmp_path).set_aside_damaged()
    assert sorted(pandas.read_parquet(tmp_path)["key"]) == ["a", "b", "c"]
    assert sorted(pq.read_table(tmp_path)["key"].to_pylist()) == ["a", "b", "c"]
    file = next(tmp_path.glob("*.parquet"))
    pq.ParquetFile(file, page_checksum_verification=True).read()


@pytest.mark.parametrize("indexed", [False, True])
def test_damaged_shards_are_set_aside_and_made_again(tmp_path, caplog, monkeypatch, indexed):
    monkeypatch.setattr(rows_module, "INDEX_EVERY", 2 if indexed else 64)
    store = groups(tmp_path)
    names = {key: store.commit([row(key)]) for key in "abcd"}
    bad = bytearray((tmp_path / names["b"]).read_bytes())
    bad[20] ^= 1
    (tmp_path / names["b"]).write_bytes(bad)
    assert store.set_aside_damaged(["a", "c"]) == []
    (said,) = store.set_aside_damaged()
    assert f"{tmp_path}/{names['b']}: a prompt group is damaged" in said and said in caplog.text
    assert (tmp_path / ".damaged" / names["b"]).read_bytes() == bad
    assert (tmp_path / ".damaged" / f"{names['b']}.txt").read_text() == said + "\n"
    assert store.committed(set("abcd")) == store.keys() == set("acd")
    assert groups(tmp_path).commit_once([row("b", value=9.0)]), "the spec is empty again"
    assert store.keys() == set("abcd") and store.get("b")["parts"][0]["data"][0] == 9.0
    assert store.set_aside_damaged() == []


def test_the_index_is_a_copy_that_may_be_lost_damaged_or_old(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(rows_module, "INDEX_EVERY", 3)
    monkeypatch.setattr(rows_module, "INDEX_FILES", 4)
    for n in range(40):
        if n % 8 == 0:
            store = groups(tmp_path)  # what the last writer had not indexed yet is left to the readers
        store.commit([row(f"{n:02}")])
    index = tmp_path / ".narrow"
    wanted = groups(tmp_path).table(INDEX)
    assert sorted(wanted["key"].to_pylist()) == [f"{n:02}" for n in range(40)]
    assert len(list(index.iterdir())) <= 2, "many files were merged"
    for harm in ("nothing", "flipped", "empty", "gone", "doubled"):
        file = next(index.iterdir())
        if harm == "flipped":
            file.write_bytes(file.read_bytes().replace(b"PAR1", b"PAR2"))
        elif harm == "empty":
            file.write_bytes(b"")
        elif harm == "gone":
            shutil.rmtree(index)
        elif harm == "doubled":
            shutil.copy(file, index / ("0" * 16 + ".parquet"))
        assert groups(tmp_path).table(INDEX) == wanted
    assert "the index is made again" in caplog.text
    assert groups(tmp_path).table(["seed"]) == wanted.select(["seed"])
    scores = groups(tmp_path).table(["parts.list.element.scores", "key"])
    assert scores["parts"].to_pylist() == wanted["parts"].to_pylist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["0", "1", "read"]), max_size=60), st.booleans())
def test_readers_beside_writers_count_every_row_once(steps, again):
    """Readers index what a writer has not yet, which indexes it too; merging must not keep both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(rows_module, "INDEX_EVERY", 3)
        patch.setattr(rows_module, "INDEX_FILES", 2)
        writers, wanted = [groups(folder), groups(folder)], set()
        for n, step in enumerate(steps):
            if step == "read":
                assert sorted(groups(folder).table(["key"])["key"].to_pylist()) == sorted(wanted)
            else:
                wanted.add(f"{n:02}")
                for _ in range(1 + again):  # as a step that is retried
                    writers[int(step)].commit([row(f"{n:02}")])
        assert sorted(groups(folder).table(["key"])["key"].to_pylist()) == sorted(wanted)


def test_a_reader_without_the_right_to_write_needs_no_index(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "INDEX_EVERY", 2)
    store = groups(tmp_path)
    for key in "abcde":
        RowStore(tmp_path, GROUPS, "key", INDEX).commit([row(key)])

    def refuse(*_):
        raise StoreRefused("read-only")

    monkeypatch.setattr(rows_module, "write_atomically", refuse)
    assert store.keys() == set("abcde") and not (tmp_path / ".narrow").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", ["data", "scores", "metrics"])
def test_what_is_not_finite_is_not_stored(tmp_path, column, value):
    bad = row("a")
    if column == "metrics":
        bad["metrics"] = [("mn", value)]
    else:
        bad["parts"][1][column] = [0.5, value]
    path = column if column == "metrics" else f"parts.{column}"
    with pytest.raises(NonFiniteError, match=f"{tmp_path}: {path} of a prompt group .a. is not finite"):
        groups(tmp_path).commit([bad])
    assert list(tmp_path.iterdir()) == []
