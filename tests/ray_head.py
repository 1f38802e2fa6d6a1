"""A Ray head node for tests, with token authentication, on free ports and in its own folder.

Beside other Rays on the same machine it must neither take their ports nor stop them, so it never calls
`ray stop`: whatever it started carries a mark in its environment, and only what carries the mark is ended.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import yaml

from tests.s3_server import HOST, free_ports

MARK = "FT2RAY_TEST_HEAD"
TOKEN = "a-token-of-the-tests"
FAKE_HEAD_NODE_ID = "f" * 51 + "00000"  # as in Ray's fake_multi_node.node_provider
RAY = str(Path(sys.executable).parent / "ray")
START_SECONDS = 300  # on a machine that is busy with other things


# As ray.cluster_utils.AutoscalingCluster sets them, which cannot be used itself: it stops every Ray of the
# machine first, and reads a file that the wheel lacks.
AUTOSCALING_ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}
IDLE_MINUTES = 0.1


def autoscaling_config(node_types: dict[str, dict], gcs_address: str) -> dict:
    head = {"resources": {}, "node_config": {}, "max_workers": 0}
    workers = {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in node_types.items()}
    return {
        "cluster_name": "simulated",
        "max_workers": sum(kind["max_workers"] for kind in workers.values()),
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "external",  # "fake_multinode" would read a file that the wheel lacks
            "module": "tests.simulated_nodes.SimulatedNodes",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "foreground_node_launch": True,
            "worker_liveness_check": False,
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": gcs_address,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **workers},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


class RayHead:
    """`with RayHead(...) as head:` a running head node; `head.environment` is what its clients need.

    Args:
        options: more options of `ray start`.
        environment: more variables for the head and everything that it starts.
        token: of its authentication.
        node_types: what Ray's autoscaler (v2) may add, as simulated nodes on this machine: by name
            {"resources": {"CPU": 2, "memory": 2e9}, "max_workers": 3}, with the repository on the
            PYTHONPATH of `environment`. None starts no autoscaler.
        dashboard: with the HTTP interface, which takes jobs; it is a dozen processes.
    """

    def __init__(
        self,
        options: list[str],
        environment: dict[str, str] | None = None,
        token: str = TOKEN,
        node_types: dict[str, dict] | None = None,
        dashboard: bool = True,
    ):
        # Not pytest's folders: the paths of Unix sockets below must stay shorter than 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.gcs_port, self.dashboard_port, client_port = free_ports(3)
        self.address = f"{HOST}:{self.gcs_port}"
        self.dashboard = f"http://{HOST}:{self.dashboard_port}"
        self.token, self._with_dashboard = token, dashboard
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": self.dashboard if dashboard else self.address,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        (self.folder / "token").write_text(token)
        if node_types is not None:
            autoscaling = self.folder / "autoscaling.yaml"
            autoscaling.write_text(yaml.safe_dump(autoscaling_config(node_types, self.address)))
            options = [f"--autoscaling-config={autoscaling}", *options]
            environment = {**AUTOSCALING_ENVIRONMENT, **(environment or {})}
        self._environment = {**self.environment, **(environment or {}), MARK: str(self.folder)}
        del self._environment["RAY_ADDRESS"]
        self._command = [
            RAY,
            "start",
            "--head",
            "--block",
            f"--node-ip-address={HOST}",
            f"--port={self.gcs_port}",
            f"--include-dashboard={dashboard}",
            f"--dashboard-port={self.dashboard_port}",
            f"--ray-client-server-port={client_port}",
            "--dashboard-agent-listen-port=0",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--temp-dir={self.folder}",
            "--object-store-memory=200000000",
            *options,
        ]

    def __enter__(self) -> "RayHead":
        self._log = open(self.folder / "start.log", "wb")  # noqa: SIM115  # closed by __exit__
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | self._environment
        self.process = subprocess.Popen(
            self._command, env=environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "start.log").read_text()[-3000:]
                self.__exit__()
                raise RuntimeError(f"the head did not start: {log}")
            time.sleep(0.5)
        return self

    def _answers(self) -> bool:
        if "Ray runtime started" not in (self.folder / "start.log").read_text():
            return False
        try:
            return not self._with_dashboard or bool(self.get("/api/version"))
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        ours = self.processes()
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ours, timeout=10)
        self.process.wait()
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs because of this head, its nodes, workers and jobs."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.folder):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def nodes(self) -> dict[str, list[psutil.Process]]:
        """The processes of each simulated node by its id, while its raylet lives."""
        found: dict[str, list[psutil.Process]] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                node = process.environ().get("RAY_CLOUD_INSTANCE_ID", FAKE_HEAD_NODE_ID)
                found.setdefault(node, []).append(process)
        found.pop(FAKE_HEAD_NODE_ID, None)
        return {node: ours for node, ours in found.items() if any(p.name() == "raylet" for p in ours)}

    def get(self, path: str) -> dict:
        """JSON of the dashboard's HTTP interface."""
        request = urllib.request.Request(
            self.dashboard + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def start(self, *command: str) -> subprocess.Popen:
        """A program of a user of this cluster, which ends with the cluster at the latest."""
        environment = {**os.environ, **self._environment, **self.environment}
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess:
        """A command of a user of this cluster; stdout and stderr together."""
        return subprocess.run(
            command,
            env={**os.environ, **self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
