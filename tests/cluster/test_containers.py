"""The image under real limits: `python -m pytest -m containers`, with a Docker engine and the image."""

import os
import shutil
import subprocess
import uuid

import pytest

from tests.cluster.conftest import ROOT

pytestmark = pytest.mark.containers

IMAGE = os.environ.get("FT2RAY_IMAGE", "ft2ray:0.1.0-ray2.60.0")
SMALL = "prompts.curation_prompts=4 prompts.evaluation_prompts=2 tlpo.steps=5 tlpo.gate_steps=2"
# Ray is told of memory that is not there, as by a manifest whose limits and rayStartParams disagree.
HEAD = "ray start --head --num-cpus=4 --memory=8000000000 --object-store-memory=150000000 > /dev/null 2>&1"
LITTLE = " ".join(f"resources.pools.{pool}.memory=0.1" for pool in ("generators", "critic", "training"))


def needs_image() -> None:
    if shutil.which("docker") is None:
        pytest.skip("needs docker")
    found = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"needs a running Docker engine with the image {IMAGE}: {found.stderr.strip()}")


@pytest.fixture(scope="module", autouse=True)
def _image():
    needs_image()


def inside(script: str, *options: str, seconds: int = 1500) -> str:
    """Output of a shell script in a container of the image, with this working tree's code."""
    name = f"ft2ray-test-{uuid.uuid4().hex[:8]}"
    command = [
        "docker",
        "run",
        "--rm",
        f"--name={name}",
        f"--volume={ROOT}:/src:ro",
        "--workdir=/src",
        *options,
    ]
    command += ["--env=PYTHONPATH=/src", "--env=RAY_AUTH_MODE=disabled", IMAGE, "bash", "-c", script]
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
        )
    finally:
        subprocess.run(["docker", "kill", name], capture_output=True)
    return done.stdout


def test_ray_works_on_a_read_only_root_file_system_as_nobody_special():
    start = "ray.init(num_cpus=1, include_dashboard=False)"
    program = f"import ray; {start}; print('zero', ray.get(ray.remote(lambda: 0).remote()))"
    output = inside(
        f'id -u; echo "$HOME"; python -c "{program}"; touch /home/ray/x',
        "--read-only",
        "--tmpfs=/tmp:exec",
        "--memory=3g",
    )
    assert output.split()[:2] == ["1000", "/tmp"] and "zero 0" in output
    assert "Read-only file system" in output and "Traceback" not in output


def test_too_little_memory_is_refused_in_one_sentence_with_the_numbers():
    output = inside(f"python -m ft2ray.cli align run_dir=/tmp/run {SMALL}; echo code $?", "--memory=2g")
    (sentence,) = (line for line in output.splitlines() if line.startswith("ft2ray: "))
    assert "GB of memory in all, the cluster offers" in sentence and "resources.pools" in sentence
    assert "code 2" in output and "Traceback" not in output


def test_processes_that_die_for_memory_end_the_run_which_says_which_where_why_and_what_to_change():
    align = f"python -m ft2ray.cli align run_dir=/tmp/run resources.address=auto {SMALL} {LITTLE}"
    output = inside(
        f"{HEAD}; {align}; echo code $?; python -m ft2ray.cli status /tmp/run",
        "--memory=2g",
        "--memory-swap=2g",
        "--shm-size=200m",
    )
    (sentence,) = (line for line in output.splitlines() if line.startswith("ft2ray: "))
    assert "memory" in sentence and "resources.pools" in sentence and "the same command goes on" in sentence
    assert "code 75" in output and "Traceback" not in output
    assert "\ndied " in output, "the status says nothing of them"
