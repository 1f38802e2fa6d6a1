"""Checkpoints come back as they were saved; a damaged or unfinished one is passed over for the one before."""

import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ft2ray import storage
from ft2ray.errors import StoredDataError, StoreUnavailable
from ft2ray.storage import Checkpoints, join, list_files, list_folders, write_atomically


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path) -> str:
    return str(tmp_path / "train" / "key") if request.param == "local" else request.getfixturevalue("s3")


def save(checkpoints: Checkpoints, step: int) -> None:
    def write(folder: Path) -> None:
        (folder / "state").mkdir()
        (folder / "state" / "state.json").write_text(f"state {step}")
        (folder / "curves.json").write_text("[]")

    checkpoints.save(step, write)


def opened(checkpoints: Checkpoints) -> tuple[int | None, str | None]:
    step = checkpoints.newest()
    return step, None if step is None else (checkpoints.open(step) / "state" / "state.json").read_text()


def test_the_newest_one_comes_back_and_two_are_kept(root):
    checkpoints = Checkpoints(root)
    assert checkpoints.newest() is None
    for step in (2, 4, 6):
        save(checkpoints, step)
    checkpoints.wait()
    assert opened(Checkpoints(root)) == (6, "state 6")
    assert list_folders(root) == ["checkpoint_00000004", "checkpoint_00000006"]


def test_a_checkpoint_of_another_training_is_passed_over_and_named(tmp_path, caplog):
    for key, step in (("mine", 2), ("other", 4)):
        checkpoints = Checkpoints(str(tmp_path / key))
        save(checkpoints, step)
        checkpoints.wait()
    (tmp_path / "other" / "checkpoint_00000004").rename(tmp_path / "mine" / "checkpoint_00000004")
    (tmp_path / "mine" / "checkpoint_best").mkdir()
    assert opened(Checkpoints(str(tmp_path / "mine"))) == (2, "state 2")
    assert "a checkpoint of another training lies here" in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "empty", "cut", "missing", "no digests", "digests flipped"])
def test_a_damaged_one_is_passed_over_and_named(root, damage, caplog):
    checkpoints = Checkpoints(root)
    for step in (2, 4):
        save(checkpoints, step)
    checkpoints.wait()
    file = join(root, "checkpoint_00000004", "state/state.json")
    digests = join(root, "checkpoint_00000004", "digests.json")
    if damage == "missing":
        storage.delete(file)
    elif damage == "no digests":
        storage.delete(digests)
    elif damage == "digests flipped":
        write_atomically(digests, storage.read_bytes(digests).replace(b"1", b"3").replace(b"a", b"c"))
    else:
        write_atomically(file, {"flipped": b"state 5", "empty": b"", "cut": b"sta"}[damage])
    with caplog.at_level(logging.WARNING):
        assert opened(Checkpoints(root)) == (2, "state 2")
    if damage != "no digests":  # as a killed writer leaves it: nothing is damaged
        assert "checkpoint_00000004" in caplog.text and "training goes on from the one before" in caplog.text
        with pytest.raises(StoredDataError, match="checkpoint_00000004"):
            checkpoints.open(4)
    again = Checkpoints(root)
    save(again, 4)  # the steps are done again, and take the place of the damaged ones
    again.wait()
    assert opened(Checkpoints(root)) == (4, "state 4")


def test_one_at_a_time_is_on_its_way_and_its_error_comes_with_the_next(tmp_path, monkeypatch):
    from ft2ray.storage import checkpoints as module

    taken, go, on_the_way = [], threading.Event(), []
    new_folder = module.new_folder

    class Slow:
        def __init__(self, url, last):
            self.inner = new_folder(url, last)

        def __enter__(self):
            on_the_way.append(self)
            return self.inner.__enter__()

        def __exit__(self, *error):
            go.wait(60)
            on_the_way.remove(self)
            taken.append(1)
            if len(taken) == 2:
                self.inner.__exit__(StoreUnavailable, StoreUnavailable("full"), None)
                raise StoreUnavailable("full")
            return self.inner.__exit__(*error)

    monkeypatch.setattr(module, "new_folder", Slow)
    checkpoints = Checkpoints(str(tmp_path))
    save(checkpoints, 1)
    assert len(on_the_way) == 1 and not taken, "the training need not wait for it"
    threading.Timer(0.2, go.set).start()
    save(checkpoints, 2)
    assert len(taken) >= 1, "the first one was waited for"
    with pytest.raises(StoreUnavailable, match="full"):
        save(checkpoints, 3)
    assert Checkpoints(str(tmp_path)).newest() == 1


def test_a_kill_leaves_the_one_before(tmp_path):
    program = """
import os, signal, sys
from ft2ray.storage import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, lambda folder: (folder / "a").write_text("1"))
checkpoints.wait()
def write(folder):
    (folder / "a").write_text("2")
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save(2, write)
"""
    root = str(tmp_path / "train")
    killed = subprocess.run([sys.executable, "-c", program, root], timeout=60)
    assert killed.returncode == -signal.SIGKILL and Checkpoints(root).newest() == 1
    assert len(list((tmp_path / "train").iterdir())) == 2
    with storage.exclusive(tmp_path, "test"):
        assert [path.name for path in (tmp_path / "train").iterdir()] == ["checkpoint_00000001"]
    assert list_files(tmp_path / "train" / "checkpoint_00000001") == ["a", "digests.json", "of"]
