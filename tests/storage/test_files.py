"""Local files and rows: whole or not at all, once or not at all. The same on S3: test_storage_s3.py."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ft2ray import storage
from ft2ray.errors import ConfigurationError, DataError, StoreRefused, StoreUnavailable
from ft2ray.storage import write_atomically


def test_a_disk_that_is_full_is_named(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StoreUnavailable, match=f"{tmp_path}/file: the disk is full.*No space left on device"):
        write_atomically(tmp_path / "file", b"data")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    assert write_atomically(path, b"old")

    def full_disk(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StoreUnavailable, match="No space left"):
        write_atomically(path, b"new")
    with pytest.raises(StoreUnavailable, match="No space left"), storage.new_file(path) as file:
        file.write_bytes(b"new")
    with pytest.raises(StoreUnavailable, match="No space left"):
        storage.upload(__file__, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


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
    assert storage.presigned("runs", 60) is None
    with pytest.raises(ValueError, match="s3://bucket/path"):
        storage.exists("s3:///nothing")


@pytest.mark.parametrize(
    "url",
    ["gs://b/x", "s3a://b/x", "S3://b/x", "file:///x", "hdfs://x", "az://b/x", "s3:/b/x", "s3://", "s3:///x"],
)
def test_other_schemes_and_stores_without_a_bucket_are_refused_everywhere(url):
    calls = [
        storage.exists,
        storage.size,
        storage.read_bytes,
        storage.list_files,
        storage.local_copy,
        storage.absolute,
        storage.local_path,
        lambda url: write_atomically(url, b""),
        lambda url: storage.join(url, "x"),
        lambda url: storage.exclusive(url, "test").__enter__(),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match=f"{url}: files cannot be kept at .*s3://bucket/path"):
            call(url)


def test_what_the_operating_system_refuses_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    for path, kind, says in [
        (tmp_path / ("x" * 300), DataError, "the name is too long"),
        (tmp_path / "file" / "below", DataError, "a part of this path is a file"),
        (tmp_path, DataError, "this is a folder"),
    ]:
        with pytest.raises(kind, match=f"{path}: .*{says}"):
            write_atomically(path, b"data")
        with (
            pytest.raises(kind, match=says),
            storage.new_file(path / "x" if path == tmp_path / "file" else path) as f,
        ):
            f.write_bytes(b"data")
    with (
        pytest.raises(DataError, match="there are files in this folder"),
        storage.new_folder(tmp_path) as folder,
    ):
        (folder / "a").write_bytes(b"")


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [
        (errno.EACCES, StoreRefused, "permission denied"),
        (errno.EROFS, StoreRefused, "read-only"),
        (errno.EDQUOT, StoreUnavailable, "quota"),
        (errno.EIO, StoreUnavailable, "input/output error"),
    ],
)
def test_rights_and_disks_are_named(tmp_path, monkeypatch, number, kind, says):
    """A test that runs as root is refused nothing: the operating system's answer is put in its mouth."""

    def refuse(*_arguments, **_more):
        raise OSError(number, os.strerror(number))

    for module, name, call in [
        (Path, "read_bytes", lambda: storage.read_bytes(tmp_path / "file")),
        (Path, "write_bytes", lambda: write_atomically(tmp_path / "file", b"")),
        (Path, "mkdir", lambda: write_atomically(tmp_path / "new" / "file", b"")),
        (Path, "mkdir", lambda: storage.new_file(tmp_path / "file").__enter__()),
        (Path, "is_file", lambda: storage.exists(tmp_path / "file")),
        (os, "scandir", lambda: storage.list_files(tmp_path)),
    ]:
        with monkeypatch.context() as patched:
            patched.setattr(module, name, refuse)
            with pytest.raises(kind, match=f"{tmp_path}.*{says}"):
                call()


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "photo").write_bytes(b"")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "photos" / "round").symlink_to(tmp_path / "photos")
    assert storage.list_files(tmp_path / "photos", recursive=True) == ["linked/photo"]


LEAVES_BEHIND = """
import os, signal, sys
from ft2ray import scratch, storage
from ft2ray.errors import ConfigurationError, DataError, StoreRefused, StoreUnavailable
with storage.new_file(sys.argv[1] + "/clip.mp4") as file, scratch.scratch_folder() as folder:
    file.write_bytes(b"half")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_behind_goes_at_the_next_start(tmp_path):
    run = tmp_path / "run"
    killed = subprocess.run([sys.executable, "-c", LEAVES_BEHIND, run], stdout=subprocess.PIPE, text=True)
    left = Path(killed.stdout.strip())
    assert killed.returncode == -signal.SIGKILL and left.is_dir() and len(os.listdir(run)) == 1
    with storage.new_file(run / "mine") as mine:  # of a process that lives
        with storage.exclusive(run, "test"):
            assert mine.parent.is_dir()
        mine.write_bytes(b"")
    assert not left.exists() and sorted(os.listdir(run)) == [".lock", "mine"]
