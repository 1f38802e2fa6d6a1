"""Local files and rows: whole or not at all, once or not at all. The same on S3: test_storage_s3.py."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft2ray import storage
from ft2ray.storage import RowStore, write_atomically

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


def test_a_disk_that_is_full_is_named(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"No space left on device.*{tmp_path}/file"):
        write_atomically(tmp_path / "file", b"data")
    assert os.listdir(tmp_path) == []


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


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    assert write_atomically(path, b"old")

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    with pytest.raises(OSError, match="No space left"), storage.new_file(path) as file:
        file.write_bytes(b"new")
    with pytest.raises(OSError, match="No space left"):
        storage.upload(__file__, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


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


def test_files_are_written_listed_read_and_deleted(tmp_path):
    root = tmp_path / "new" / "folder"
    assert storage.list_files(root) == [] and not storage.exists(root / "a.txt")
    assert write_atomically(root / "a.txt", b"1", if_absent=True)
    assert not write_atomically(root / "a.txt", b"2", if_absent=True)
    assert storage.read_bytes(root / "a.txt") == b"1" and storage.exists(root / "a.txt")
    assert write_atomically(root / "a.txt", b"3") and storage.read_bytes(root / "a.txt") == b"3"
    assert storage.size(root / "a.txt") == 1
    write_atomically(root / "deep" / "b.txt", b"")
    write_atomically(root / ".hidden.txt", b"")
    write_atomically(root / ".hidden" / "c.txt", b"")
    write_atomically(root / "d.bin", b"")
    assert storage.list_files(root) == ["a.txt", "d.bin"]
    assert storage.list_files(root, ".txt", recursive=True) == ["a.txt", "deep/b.txt"]
    storage.delete(root / "a.txt")
    storage.delete(root / "a.txt")
    assert not storage.exists(root / "a.txt") and not storage.exists(root)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(root / "a.txt")


def test_copies_and_new_files_appear_whole(tmp_path):
    source, target = tmp_path / "source.txt", tmp_path / "there" / "target.txt"
    source.write_text("text")
    storage.upload(source, target)
    storage.download(target, tmp_path / "back.txt")
    assert (tmp_path / "back.txt").read_text() == "text"
    assert storage.local_copy(target) == target and storage.local_folder(str(tmp_path)) == tmp_path
    with storage.new_file(target) as file:
        assert file.suffix == ".txt"
        file.write_text("new")
        assert target.read_text() == "text"
    assert target.read_text() == "new"
    with pytest.raises(RuntimeError), storage.new_file(target) as file:
        file.write_text("half")
        raise RuntimeError
    assert target.read_text() == "new" and os.listdir(target.parent) == ["target.txt"]
    storage.upload_folder(tmp_path, tmp_path / "again", last="back.txt")
    assert (tmp_path / "again" / "there" / "target.txt").read_text() == "new"


def test_paths_and_urls_have_one_way_to_be_put_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.join("runs/demo", "store", "groups") == "runs/demo/store/groups"
    assert storage.join("s3://bucket/runs/", "store/", "x.json") == "s3://bucket/runs/store/x.json"
    assert storage.base_name("s3://bucket/runs/demo/") == storage.base_name("runs/demo") == "demo"
    assert storage.absolute("runs") == str(tmp_path / "runs") and storage.absolute("s3://b/k") == "s3://b/k"
    files, path = storage.filesystem("runs")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "runs", filesystem=files)
    assert path == str(tmp_path / "runs") and pq.read_table(path, filesystem=files)["a"].to_pylist() == [1]
    with pytest.raises(ValueError, match="only s3:// URLs"):
        storage.presigned("runs", 60)
    with pytest.raises(ValueError, match="s3://bucket/path"):
        storage.exists("s3:///nothing")


def test_rows_committed_alone_are_found_by_their_key(tmp_path):
    store = RowStore(tmp_path, pa.schema([("k", pa.string()), ("v", pa.int32())]), "k")
    assert store.commit_once([{"k": "a", "v": 1}]) and not store.commit_once([{"k": "a", "v": 2}])
    store.commit([{"k": "b", "v": 3}, {"k": "c", "v": 4}])
    assert store.get("a") == {"k": "a", "v": 1} and store.has("a") and not store.has("b")
    assert store.committed({"a", "b", "z"}) == {"a"}
    with pytest.raises(FileNotFoundError):
        store.get("z")
