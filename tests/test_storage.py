import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from ft2ray.storage import RowStore, write_atomically

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])


def test_rows_come_back_once_and_in_a_fixed_order(tmp_path):
    store = RowStore(tmp_path / "s", SCHEMA, "key")
    assert store.keys() == set() and list(store.rows()) == []
    store.commit([{"key": "a", "value": 1}])
    store.commit([{"key": "b", "value": 2}, {"key": "c", "value": 3}])
    store.commit([{"key": "a", "value": 1}])
    store.commit([{"key": "c", "value": 3}])
    assert store.keys() == {"a", "b", "c"}
    assert sorted(row["key"] for row in store.rows()) == ["a", "b", "c"]
    assert list(store.rows()) == list(RowStore(tmp_path / "s", SCHEMA, "key").rows())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
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
