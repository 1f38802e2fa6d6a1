"""A list of checkpoints that could not be written whole leaves the last one readable."""

import os
import pickle
import signal
import subprocess
import sys

import pytest

from ft2ray.pipeline.checkpoints import checkpoint_files


@pytest.fixture
def written(tmp_path):
    """A list that is there, and the file system, as a worker on another node gets it."""
    files, folder = pickle.loads(pickle.dumps(checkpoint_files(str(tmp_path))))
    files.create_dir(folder)
    with files.open_output_stream(f"{folder}/list.json") as stream:
        stream.write(b"first")
    return files, folder


def read(files, folder) -> bytes:
    with files.open_input_stream(f"{folder}/list.json") as stream:
        return stream.read()


def test_what_is_written_replaces_what_was_there(written):
    files, folder = written
    with files.open_output_stream(f"{folder}/list.json") as stream:
        stream.write(b"second")
    assert read(*written) == b"second" and os.listdir(folder) == ["list.json"]


def test_an_error_leaves_what_was_there(written):
    files, folder = written
    with pytest.raises(OSError, match="full"), files.open_output_stream(f"{folder}/list.json") as stream:
        stream.write(b"sec")
        raise OSError("full")
    assert read(*written) == b"first" and os.listdir(folder) == ["list.json"]


def test_a_kill_leaves_what_was_there(written, tmp_path):
    program = f"""
import os, signal
from ft2ray.pipeline.checkpoints import checkpoint_files
files, folder = checkpoint_files({str(tmp_path)!r})
with files.open_output_stream(f"{{folder}}/list.json") as stream:
    stream.write(b"sec"); stream.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program])
    assert ended.returncode == -signal.SIGKILL
    assert read(*written) == b"first"
