"""Jobs refuse an output path that is deleted with the job, in one sentence, before anything heavy loads."""

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(
    ("job", "arguments", "name"),
    [
        ("align.py", ["run_dir=runs/demo"], "run_dir 'runs/demo'"),
        ("align.py", [], "run_dir 'runs/demo'"),  # the default
        ("tune_critic.py", ["--labels", "l.csv", "--base", "b", "--out", "critic"], "--out 'critic'"),
        ("generate.py", ["--portrait", "a.jpg", "--audio", "b.wav", "--out", "c.mp4"], "--out 'c.mp4'"),
    ],
)
def test_a_relative_path_is_refused(job, arguments, name):
    ended = subprocess.run([sys.executable, JOBS / job, *arguments], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.partition(": ")[2].startswith(
        f"{name} would lie in a folder that is deleted with the job"
    )
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("path", ["gs://bucket/x", "s3a://bucket/x", "S3://bucket/x", "file:///x"])
def test_other_schemes_than_s3_are_refused(path):
    ended = subprocess.run(
        [sys.executable, JOBS / "align.py", f"run_dir={path}"], capture_output=True, text=True
    )
    assert ended.returncode == 2 and f"{path}: files cannot be kept at" in ended.stderr


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:6379"])
def test_other_paths_are_not(tmp_path, address):
    given = [f"resources.address={address}"] if address != "auto" else []
    settings = [f"run_dir={tmp_path}", *given, "--dry-run"]
    ended = subprocess.run([sys.executable, JOBS / "align.py", *settings], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert f"run_dir: {tmp_path}" in ended.stdout and f"address: {address}" in ended.stdout


def test_a_missing_output_is_said_by_the_command():
    given = [sys.executable, JOBS / "generate.py", "--portrait", "a", "--audio", "b"]
    ended = subprocess.run(given, capture_output=True, text=True)
    assert ended.returncode == 2 and "--out" in ended.stderr and "required" in ended.stderr
