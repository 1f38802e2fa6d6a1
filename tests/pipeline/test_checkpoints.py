"""Checkpoints come back as they were saved; a list that could not be written whole leaves the last one.

A store that is slower than the training must not fill the disk of temporary files.
"""

import json
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from pyarrow.fs import FileType
from ray.train import Checkpoint

from ft2ray.pipeline.checkpoints import Checkpoints, checkpoint_files, checkpoint_folder
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
    write(files, folder, b"s", b"econd")
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
    kept = Checkpoints(run_dir, "key").upload(Checkpoint.from_directory(tmp_path / "worker"), "checkpoint_1")
    assert set(list_files(join(run_dir, "train", "key", "checkpoint_1"), recursive=True)) == set(saved)
    folder = checkpoint_folder(pickle.loads(pickle.dumps(kept)))
    assert {name: (folder / name).read_text() for name in saved} == saved
    found = [kept.filesystem.get_file_info(kept.path + name).type for name in ("", "/curves.json", "/other")]
    assert found == [FileType.Directory, FileType.File, FileType.NotFound]
    kept.filesystem.delete_dir(kept.path)
    assert list_files(join(run_dir, "train"), recursive=True) == []


STEPS = 6
UPLOAD_SECONDS = 1.0


class SlowCheckpoints(Checkpoints):
    def upload(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        time.sleep(UPLOAD_SECONDS)
        return super().upload(checkpoint, name)


def loop(arguments):
    checkpoints, made, held, seconds = SlowCheckpoints(arguments["run_dir"], "key"), [], [], []
    for step in range(STEPS):
        folder = Path(tempfile.mkdtemp(dir=arguments["here"]))
        (folder / "state").write_text(str(step))
        made.append(folder)
        began = time.monotonic()
        checkpoints.report(folder, step)
        seconds.append(time.monotonic() - began)
        held.append(sum(folder.exists() for folder in made))
    (Path(arguments["here"]) / "held.json").write_text(json.dumps([held, seconds]))


@pytest.mark.ray
def test_at_most_two_checkpoints_wait_for_a_slow_store(tmp_path):
    import ray
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    here, run_dir = tmp_path / "here", str(tmp_path / "run")
    here.mkdir()
    files, path = checkpoint_files(run_dir)
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ray.init(address="local", num_cpus=4, log_to_driver=False, runtime_env={"env_vars": environment})
    try:
        result = DataParallelTrainer(
            loop,
            train_loop_config={"here": str(here), "run_dir": run_dir},
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(
                name="key",
                storage_path=path,
                storage_filesystem=files,
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        ).fit()
    finally:
        ray.shutdown()
    held, seconds = json.loads((here / "held.json").read_text())
    assert max(held) <= 2 and seconds[0] < UPLOAD_SECONDS, (held, seconds)
    last = checkpoint_folder(result.checkpoint)
    assert (last / "state").read_text() == str(STEPS - 1), "the last one is kept"
    assert len(list_files(join(run_dir, "train", "key"), "state", recursive=True)) == 2
    assert not [folder for folder in here.iterdir() if folder.is_dir()]
