"""The cluster of one command: private ones meet nobody, named ones are reached or refused in a sentence."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from ft2ray.errors import ConfigurationError
from ft2ray.pipeline import cluster
from ft2ray.pipeline.cluster import job_address, ray_cluster

FIXED_PORTS = {6379, 8265, 10001, 52365}  # of `ray start --head`


@pytest.fixture
def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_named_cluster_that_does_not_answer_is_refused_at_once(closed_port):
    with pytest.raises(ConfigurationError, match=f"no Ray cluster answers at 127.0.0.1:{closed_port}"):
        ray_cluster(f"127.0.0.1:{closed_port}").__enter__()


@pytest.mark.parametrize("stale", [True, False])
def test_auto_is_only_what_was_started_to_be_joined(monkeypatch, closed_port, stale):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    left = f"127.0.0.1:{closed_port}" if stale else None
    monkeypatch.setattr(cluster, "find_bootstrap_address", lambda _folder: left)
    with pytest.raises(ConfigurationError, match="no Ray cluster answers at auto"):
        ray_cluster("auto").__enter__()


def test_the_address_that_takes_jobs_is_told_apart(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    with pytest.raises(ConfigurationError, match="http://127.0.0.1:8265 takes jobs .* host:port of its head"):
        ray_cluster("auto").__enter__()


def test_only_the_driver_of_a_job_joins_the_cluster_that_runs_it(monkeypatch):
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert job_address() is None
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert job_address() == "auto"


@pytest.mark.ray
@pytest.mark.slow
def test_a_private_cluster_meets_no_other_ray(monkeypatch, tmp_path, closed_port):
    """Two at a time, with a stale RAY_ADDRESS and a temporary folder whose name is long."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    other = (
        "import ray, sys; from ft2ray.pipeline.cluster import ray_cluster\n"
        "with ray_cluster(): print(ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    neighbour = subprocess.Popen(
        [sys.executable, "-c", other], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        theirs = neighbour.stdout.readline().strip()
        with ray_cluster():
            assert ray.get_runtime_context().gcs_address != theirs != ""
            folder = Path(ray._private.worker._global_node.get_temp_dir_path())
            assert folder.name.startswith("ft2ray-") and len(ray.nodes()) == 1
            processes = [p for one in (psutil.Process(), psutil.Process(neighbour.pid)) for p in family(one)]
            ports = {link.laddr.port for p in processes for link in listening(p)}
            assert ports and not ports & FIXED_PORTS
            monkeypatch.delenv("RAY_ADDRESS")
            with pytest.raises(ConnectionError):
                cluster._reachable("auto")  # a private cluster leaves no address
        assert not folder.exists()
    finally:
        neighbour.communicate(timeout=60)
    assert neighbour.returncode == 0


def family(process):
    return [process, *process.children(recursive=True)]


def listening(process):
    try:
        return [link for link in process.net_connections("inet") if link.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []
