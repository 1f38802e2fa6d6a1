"""A worker of the service is drained as its pod would be: no request fails, meanwhile and afterwards."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.ray_head import RAY, RayHead
from tests.s3_server import HOST, free_ports
from tests.serving.conftest import ROOT

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

WORKERS = ("one", "two")
START_SECONDS = 600.0  # on a machine that is busy with other things
DRAIN_SECONDS = 60


def laptop_service(port: int) -> dict:
    """The laptop's service without its generator; a machine has one HTTP port for all simulated nodes."""
    config = yaml.safe_load((ROOT / "cluster/overlays/laptop/service/serve.yaml").read_text())
    critic = [application for application in config["applications"] if application["name"] == "critic"]
    return config | {
        "proxy_location": "HeadOnly",
        "http_options": {"host": HOST, "port": port},
        "applications": critic,
    }


def wait_until(reached: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.5)


@dataclass
class Service:
    head: RayHead
    url: str

    def replicas(self) -> list[dict]:
        """Those that serve; none until the application runs."""
        found = self.head.get("/api/serve/applications/")["applications"].get("critic", {})
        every = [(name, r) for name, d in found.get("deployments", {}).items() for r in d["replicas"]]
        return [{"of": name, **replica} for name, replica in every if replica["state"] == "RUNNING"]

    def worker_of(self, pid: int) -> str:
        return next(name for name, ours in self.head.nodes().items() if pid in {p.pid for p in ours})

    def replicas_on(self, worker: str) -> int:
        """Processes, as the hook of the pod counts them."""
        return sum("ServeReplica" in " ".join(p.cmdline()) for p in self.head.nodes()[worker])


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    (port,) = free_ports(1)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    with RayHead(["--num-cpus=0"], environment=environment) as head:
        for worker in WORKERS:
            join = [RAY, "start", "--block", f"--address={head.address}", "--num-cpus=2"]
            join += [f"--node-ip-address={HOST}", "--object-store-memory=100000000"]
            join += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
            head.start("env", f"RAY_CLOUD_INSTANCE_ID={worker}", *join)
        wait_until(lambda: set(head.nodes()) == set(WORKERS), START_SECONDS, "two workers")
        (tmp_path / "serve.yaml").write_text(yaml.safe_dump(laptop_service(port)))
        deployed = head.run(str(Path(RAY).parent / "serve"), "deploy", str(tmp_path / "serve.yaml"))
        assert deployed.returncode == 0, deployed.stdout
        here = Service(head, f"http://{HOST}:{port}/v1/score")
        wait_until(lambda: len(here.replicas()) == 4, START_SECONDS, "two replicas of both deployments")
        yield here


@dataclass
class Client:
    """Sends one clip after the other, until it is stopped."""

    url: str
    clip: bytes
    answers: Counter = field(default_factory=Counter)
    slowest: float = 0.0

    def __enter__(self) -> "Client":
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _send(self) -> None:
        with httpx2.Client(timeout=90.0) as http:
            while not self._over.wait(0.2):
                began = time.monotonic()
                try:
                    answer = http.post(self.url, files={"video": ("clip.mp4", self.clip, "video/mp4")})
                    self.answers[answer.status_code] += 1
                except httpx2.HTTPError as error:
                    self.answers[repr(error)] += 1
                self.slowest = max(self.slowest, time.monotonic() - began)


def test_no_request_fails_while_a_worker_drains_and_goes(service, media):
    first = next(replica for replica in service.replicas() if replica["of"] == "TalkingCritic")
    victim = service.worker_of(first["pid"])
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod is deleted"]
    node = ["--address", service.head.address, "--node-id", first["node_id"]]
    with Client(service.url, (media / "clip.mp4").read_bytes()) as client:
        wait_until(lambda: client.answers[200] >= 3, 120, "the first answers")
        drained = service.head.run(
            RAY, "drain-node", *node, *reason, "--deadline-remaining-seconds", str(DRAIN_SECONDS)
        )
        assert drained.returncode == 0, drained.stdout
        began = time.monotonic()
        while service.replicas_on(victim) and time.monotonic() - began < DRAIN_SECONDS:
            time.sleep(1)
        left = service.replicas_on(victim)
        for process in service.head.nodes()[victim]:
            process.kill()
        after = client.answers.total()
        wait_until(lambda: client.answers.total() >= after + 20, 300, "answers without that worker")
    assert set(client.answers) == {200}, (client.answers, client.slowest)
    assert left == 0, f"{left} replicas were at work when the worker went"
