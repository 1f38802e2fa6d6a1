"""Checkpoints come back as they were saved; a list that could not be written whole leaves the last one."""

import pickle
import signal
import subprocess
import sys

import pytest
from pyarrow.fs import FileType
from ray.train import Checkpoint

from ft2ray.pipeline.checkpoints import Upload, checkpoint_files, checkpoint_folder
from ft2ray.storage import join, list_files


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3")


def begin(run_dir: str) -> tuple:
    """A list that is there, and the file system, as a worker on another node gets it."""
    files, folder = pickle.loads(pickle.dumps(checkpoint_files(run_dir)))
    files.create_dir(folder)
    write(files, folder, b"first")
    return files, folder


def write(files, folder, *parts: bytes) -> None:
    with files.open_output_stream(f"{folder}/list.json") as stream:
        for part in parts:
            stream.write(part)


def read(files, folder) -> bytes:
    with files.open_input_stream(f"{folder}/list.json") as stream:
        return stream.read()


def test_what_is_written_replaces_what_was_there(run_dir):
    files, folder = begin(run_dir)
    write(files, folder, b"sec", b"ond")
    assert read(files, folder) == b"second" and list_files(join(run_dir, "train")) == ["list.json"]


def test_an_error_leaves_what_was_there(run_dir):
    files, folder = begin(run_dir)
    with pytest.raises(OSError, match="full"), files.open_output_stream(f"{folder}/list.json") as stream:
        stream.write(b"sec")
        raise OSError("full")
    assert read(files, folder) == b"first" and list_files(join(run_dir, "train")) == ["list.json"]


def test_a_kill_leaves_what_was_there(tmp_path):
    files, folder = begin(str(tmp_path))
    program = f"""
import os, signal
from ft2ray.pipeline.checkpoints import checkpoint_files
files, folder = checkpoint_files({str(tmp_path)!r})
with files.open_output_stream(f"{{folder}}/list.json") as stream:
    stream.write(b"sec")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert read(files, folder) == b"first"


def test_a_checkpoint_comes_back_as_it_was_saved(run_dir, tmp_path):
    saved = {"curves.json": "[]", "state/state.json": "{}"}
    for name, text in saved.items():
        (tmp_path / "worker" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "worker" / name).write_text(text)
    kept = Upload(run_dir, "key")(Checkpoint.from_directory(tmp_path / "worker"), "checkpoint_1")
    assert set(list_files(join(run_dir, "train", "key", "checkpoint_1"), recursive=True)) == set(saved)
    folder = checkpoint_folder(pickle.loads(pickle.dumps(kept)))
    assert {name: (folder / name).read_text() for name in saved} == saved
    found = [kept.filesystem.get_file_info(kept.path + name).type for name in ("", "/curves.json", "/other")]
    assert found == [FileType.Directory, FileType.File, FileType.NotFound]
    kept.filesystem.delete_dir(kept.path)
    assert list_files(join(run_dir, "train"), recursive=True) == []
