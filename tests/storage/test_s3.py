"""Every function of storage.py against a real S3 server, also while it is away, slow or full of refusals."""

import multiprocessing
import os
import threading
import time
import urllib.error
import urllib.request

import pyarrow as pa
import pytest

from ft2ray import storage
from ft2ray.errors import StoreRefused, StoreUnavailable
from ft2ray.storage import RowStore, write_atomically
from ft2ray.storage import s3 as store
from tests.s3_server import Line, free_ports

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


def test_files_are_written_listed_read_and_deleted(s3):
    assert storage.list_files(s3) == [] and not storage.exists(f"{s3}/a.txt")
    assert write_atomically(f"{s3}/a.txt", b"1", if_absent=True)
    assert not write_atomically(f"{s3}/a.txt", b"2", if_absent=True)
    assert storage.read_bytes(f"{s3}/a.txt") == b"1" and storage.exists(f"{s3}/a.txt")
    assert write_atomically(f"{s3}/a.txt", b"3") and storage.read_bytes(f"{s3}/a.txt") == b"3"
    assert storage.size(f"{s3}/a.txt") == 1
    for name in ("deep/b.txt", ".hidden.txt", ".hidden/c.txt", "d.bin"):
        write_atomically(f"{s3}/{name}", b"")
    assert storage.list_files(s3) == storage.list_files(f"{s3}/") == ["a.txt", "d.bin"]
    assert storage.list_files(s3, ".txt", recursive=True) == ["a.txt", "deep/b.txt"]
    storage.delete(f"{s3}/a.txt")
    storage.delete(f"{s3}/a.txt")
    assert not storage.exists(f"{s3}/a.txt") and not storage.exists(s3)
    with pytest.raises(FileNotFoundError, match="a.txt: no such file"):
        storage.read_bytes(f"{s3}/a.txt")
    with pytest.raises(FileNotFoundError, match="a.txt: no such file"):
        storage.local_copy(f"{s3}/a.txt")


def test_a_listing_has_more_than_one_page(s3, monkeypatch):
    for n in range(5):
        write_atomically(f"{s3}/{n}", b"")
    client = store.client()
    paginate = client.get_paginator("list_objects_v2").paginate

    class SmallPages:
        @staticmethod
        def paginate(**arguments):
            return paginate(**arguments, PaginationConfig={"PageSize": 2})

    monkeypatch.setattr(client, "get_paginator", lambda _name: SmallPages)
    assert storage.list_files(s3) == ["0", "1", "2", "3", "4"]


def test_large_files_go_in_parts_and_come_back_whole(s3, tmp_path):
    data = os.urandom(20 << 20)
    (tmp_path / "large").write_bytes(data)
    storage.upload(tmp_path / "large", f"{s3}/large")
    about = store.head(f"{s3}/large")
    assert about is not None and about["ETag"].strip('"').endswith("-3")  # three parts of 8 MiB at most
    storage.download(f"{s3}/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data == storage.read_bytes(f"{s3}/large")


def test_a_local_copy_is_fetched_again_only_when_the_object_changed(s3):
    write_atomically(f"{s3}/photo.jpg", b"old")
    copy = storage.local_copy(f"{s3}/photo.jpg")
    written = copy.stat().st_mtime_ns
    assert copy.name == "photo.jpg" and copy.read_bytes() == b"old"
    assert storage.local_copy(f"{s3}/photo.jpg").stat().st_mtime_ns == written
    write_atomically(f"{s3}/photo.jpg", b"new")
    assert storage.local_copy(f"{s3}/photo.jpg").read_bytes() == b"new"


def test_folders_are_copied_both_ways(s3, tmp_path):
    for name in ("a.json", "deep/b.bin"):
        write_atomically(tmp_path / "policy" / name, name.encode())
    storage.upload_folder(tmp_path / "policy", f"{s3}/policy", last="a.json")
    folder = storage.local_folder(f"{s3}/policy")
    assert folder.name == "policy" and (folder / "deep" / "b.bin").read_bytes() == b"deep/b.bin"
    write_atomically(f"{s3}/policy/deep/b.bin", b"new")
    storage.delete(f"{s3}/policy/a.json")
    assert storage.local_folder(f"{s3}/policy") == folder
    assert storage.list_files(folder, recursive=True) == ["deep/b.bin"]
    assert (folder / "deep" / "b.bin").read_bytes() == b"new"


def test_the_version_of_a_folder_changes_with_its_files(s3, tmp_path):
    for root in (s3, str(tmp_path / "here")):
        write_atomically(storage.join(root, "deep", "a"), b"1")
        first = storage.versions(root)
        assert [name for name, _ in first] == ["deep/a"] and storage.versions(root) == first
        write_atomically(storage.join(root, "deep", "a"), b"22")
        assert storage.versions(root) != first
    with pytest.raises(ValueError, match="there are no files in this folder"):
        storage.local_folder(f"{s3}/nothing")


def test_a_new_file_appears_when_it_is_complete(s3):
    with storage.new_file(f"{s3}/clip.mp4") as file:
        assert file.name == "clip.mp4"
        file.write_bytes(b"film")
        assert not storage.exists(f"{s3}/clip.mp4")
    assert storage.read_bytes(f"{s3}/clip.mp4") == b"film"
    with pytest.raises(RuntimeError), storage.new_file(f"{s3}/half.mp4") as file:
        file.write_bytes(b"fi")
        raise RuntimeError
    assert not storage.exists(f"{s3}/half.mp4")


def test_rows_come_back_once_and_in_a_fixed_order(s3):
    rows = RowStore(s3, SCHEMA, "key")
    assert rows.keys() == set() and list(rows.rows()) == [] and rows.shards() == []
    name = rows.commit([{"key": "a", "value": 1}])
    rows.commit([{"key": "b", "value": 2}, {"key": "c", "value": 3}])
    rows.commit([{"key": "c", "value": 3}])
    assert rows.keys() == {"a", "b", "c"} and len(rows.shards()) == 3
    assert sorted(row["key"] for row in rows.rows()) == ["a", "b", "c"]
    assert rows.read(name) == [{"key": "a", "value": 1}]


def _commit(root, value, start, results):
    start.wait()
    results.put(
        [RowStore(root, SCHEMA, "key").commit_once([{"key": str(n), "value": value}]) for n in range(20)]
    )


def test_of_two_processes_at_once_exactly_one_commits_each_row(s3):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    writers = [context.Process(target=_commit, args=(s3, n, start, results)) for n in range(2)]
    for writer in writers:
        writer.start()
    one, two = (results.get(timeout=120) for _ in writers)
    for writer in writers:
        writer.join()
    assert all(a != b for a, b in zip(one, two, strict=True))
    assert len(RowStore(s3, SCHEMA, "key").shards()) == 20


def test_a_change_that_expects_another_version_is_not_made(s3):
    first = store.put(f"{s3}/state", b"1")
    second = store.put(f"{s3}/state", b"2", if_match=first)
    assert second is not None and store.put(f"{s3}/state", b"3", if_match=first) is None
    assert store.put(f"{s3}/absent", b"3", if_match=first) is None
    now = store.read(f"{s3}/state")
    assert (now.data, now.etag) == (b"2", second) and 0 <= now.age < 30


def test_a_link_serves_one_file_until_it_expires(s3):
    write_atomically(f"{s3}/film.mp4", b"film")
    link = storage.presigned(f"{s3}/film.mp4", 2)
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"film"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link.replace("film.mp4", "other.mp4"))
    time.sleep(3.1)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(link)
    with pytest.raises(ValueError, match="for a week at most"):
        storage.presigned(f"{s3}/film.mp4", 8 * 24 * 3600)


def calls(root, tmp_path):
    """Every way to the store."""
    (tmp_path / "local").write_bytes(b"data")
    rows = RowStore(root, SCHEMA, "key")
    return [
        lambda: storage.exists(f"{root}/a"),
        lambda: storage.read_bytes(f"{root}/a"),
        lambda: write_atomically(f"{root}/a", b""),
        lambda: write_atomically(f"{root}/a", b"", if_absent=True),
        lambda: storage.list_files(root),
        lambda: storage.upload(tmp_path / "local", f"{root}/a"),
        lambda: storage.download(f"{root}/a", tmp_path / "back"),
        lambda: storage.local_copy(f"{root}/a"),
        lambda: storage.delete(f"{root}/a"),
        lambda: rows.commit_once([{"key": "a", "value": 1}]),
        lambda: rows.keys(),
        lambda: list(rows.rows()),
    ]


def test_a_missing_bucket_is_named(s3, tmp_path):
    for call in calls("s3://no-such-bucket/run", tmp_path):
        with pytest.raises(StoreRefused, match="s3://no-such-bucket/run.*there is no bucket no-such-bucket"):
            call()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named(s3, tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "wrong")
    for call in calls(s3, tmp_path):
        with pytest.raises(StoreRefused, match=f"{s3}.*refuses these credentials.*AWS_SECRET_ACCESS_KEY"):
            call()


def test_no_credentials_at_all_are_named(s3, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(StoreRefused, match=f"{s3}.*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        storage.exists(f"{s3}/a")


def test_a_store_that_is_not_there_ends_as_one_error(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for call in calls(s3, tmp_path):
        with pytest.raises(StoreUnavailable, match=f"{s3}.*no answer from http://127.0.0.1:{port}"):
            call()


@pytest.fixture
def line(s3_server, s3, monkeypatch):
    line = Line(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    yield line
    line.close()


def test_a_slow_store_is_waited_for(s3, line):
    line.delay = 1.0
    rows = RowStore(s3, SCHEMA, "key")
    assert rows.commit_once([{"key": "a", "value": 1}]) and not rows.commit_once([{"key": "a", "value": 2}])
    assert rows.keys() == {"a"} and next(rows.rows())["value"] == 1


def test_a_hanging_store_ends_as_one_error(s3, line, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    monkeypatch.setattr(store, "READ_SECONDS", 1.0)
    line.delay = 60.0
    start = time.monotonic()
    with pytest.raises(StoreUnavailable, match="no answer"):
        storage.read_bytes(f"{s3}/a")
    assert time.monotonic() - start < 30


def test_whoever_wrote_knows_it_even_when_the_answer_was_lost(s3, line):
    rows = RowStore(s3, SCHEMA, "key")
    line.lose = 1
    assert rows.commit_once([{"key": "a", "value": 1}])
    assert line.lose == 0 and not rows.commit_once([{"key": "a", "value": 2}])
    etag = store.put(f"{s3}/state", b"1")
    line.lose = 1
    assert store.put(f"{s3}/state", b"2", if_match=etag) is not None and line.lose == 0


def test_a_server_that_dies_and_returns_in_the_middle_loses_nothing(s3, s3_server):
    rows, last = RowStore(s3, SCHEMA, "key"), 40
    committed: list[bool] = []
    begun, stopped, written = threading.Event(), threading.Event(), threading.Event()

    def commit() -> None:
        for n in range(last):
            committed.append(rows.commit_once([{"key": f"{n:03}", "value": n}]))
            if n == 9:
                begun.set()

    def upload() -> None:
        """As a train worker keeps its checkpoint."""
        stopped.wait()
        with storage.new_folder(f"{s3}/checkpoint", last="digests.json") as folder:
            (folder / "state").write_bytes(b"state")
        written.set()

    threads = [threading.Thread(target=work) for work in (commit, upload)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    s3_server.stop()
    stopped.set()
    try:
        time.sleep(4.0)
        assert len(committed) < last and not written.is_set()  # both wait
    finally:
        s3_server.start()
    for thread in threads:
        thread.join(150)
    assert committed == [True] * last and written.is_set()
    assert sorted(row["key"] for row in rows.rows()) == [f"{n:03}" for n in range(last)]
    assert storage.read_bytes(f"{s3}/checkpoint/state") == b"state"
