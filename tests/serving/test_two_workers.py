"""The laptop's service on two workers, which refuses a broken configuration, is drained and is killed."""

import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.ray_head import RAY, RayHead
from tests.s3_server import HOST, free_ports
from tests.serving.conftest import ROOT
from tests.waiting import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

START_SECONDS = 600.0  # on a machine that is busy with other things
DRAIN_SECONDS = 60
DEPLOY_FAILED = 1.0  # as Ray Serve's metric counts states


def laptop_service(port: int, weights: str = "embedded") -> dict:
    """The laptop's service without its generator; a machine has one HTTP port for all simulated nodes."""
    config = yaml.safe_load((ROOT / "cluster/overlays/laptop/service/serve.yaml").read_text())
    (critic,) = (application for application in config["applications"] if application["name"] == "critic")
    critic["args"]["weights"] = weights
    return config | {
        "proxy_location": "HeadOnly",
        "http_options": {"host": HOST, "port": port},
        "applications": [critic],
    }


@dataclass
class Service:
    head: RayHead
    folder: Path
    port: int
    metrics_port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/v1/score"

    def add_worker(self, name: str) -> None:
        join = [RAY, "start", "--block", f"--address={self.head.address}", "--num-cpus=2"]
        join += [f"--node-ip-address={HOST}", "--object-store-memory=100000000"]
        join += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        self.head.start("env", f"RAY_CLOUD_INSTANCE_ID={name}", *join)
        wait_until(lambda: name in self.head.nodes(), START_SECONDS, f"worker {name}")

    def deploy(self, **changes: str) -> None:
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(laptop_service(self.port, **changes)))
        serve = str(Path(RAY).parent / "serve")
        deployed = self.head.run(serve, "deploy", str(file), RAY_DASHBOARD_ADDRESS=self.head.dashboard)
        assert deployed.returncode == 0, deployed.stdout

    def application(self) -> dict:
        return self.head.get("/api/serve/applications/")["applications"].get("critic", {})

    def replicas(self) -> list[dict]:
        """Those that serve; Serve lists none before all run, or after it refused a configuration."""
        every = [
            (name, r) for name, d in self.application().get("deployments", {}).items() for r in d["replicas"]
        ]
        return [{"of": name, **replica} for name, replica in every if replica["state"] == "RUNNING"]

    def two_of_each(self) -> bool:
        return Counter(replica["of"] for replica in self.replicas()) == {"CriticFront": 2, "TalkingCritic": 2}

    def worker_of(self, pid: int) -> str:
        return next(name for name, ours in self.head.nodes().items() if pid in {p.pid for p in ours})

    def replicas_on(self, worker: str) -> set[int]:
        """Processes, as the hook of the pod finds them; a drained worker ends by itself."""
        there = self.head.nodes().get(worker, [])
        return {p.pid for p in there if "ServeReplica" in " ".join(p.cmdline())}

    def lose(self, worker: str) -> None:
        for process in self.head.nodes().get(worker, []):
            process.kill()

    def state_metric(self) -> float | None:
        """Of the application, as Prometheus reads it."""
        with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics") as page:
            pattern = r'^ray_serve_application_status\{.*application="critic".*\} (\S+)$'
            found = re.findall(pattern, page.read().decode(), re.M)
        return float(found[-1]) if found else None


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[Service]:
    port, metrics_port = free_ports(2)
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    with RayHead(["--num-cpus=0", f"--metrics-export-port={metrics_port}"], environment=environment) as head:
        here = Service(head, tmp_path_factory.mktemp("service"), port, metrics_port)
        for worker in ("one", "two"):
            here.add_worker(worker)
        here.deploy()
        wait_until(here.two_of_each, START_SECONDS, "two replicas of both deployments")
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
        wait_until(lambda: self.answers[200] >= 3, 120, "the first answers")
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

    def wait_for(self, more: int) -> None:
        wanted = self.answers.total() + more
        wait_until(lambda: self.answers.total() >= wanted, 300, f"{more} more answers")


@pytest.fixture
def client(service, media) -> Iterator[Client]:
    with Client(service.url, (media / "clip.mp4").read_bytes()) as client:
        yield client
    print(f"{client.answers}, the slowest took {client.slowest:.1f} s")


def test_a_broken_configuration_is_refused_and_the_old_one_serves(service, client):
    before = {replica["pid"] for replica in service.replicas()}
    service.deploy(weights="/models/nope")
    wait_until(lambda: service.application()["status"] == "DEPLOY_FAILED", 300, "a refusal")
    assert "/models/nope" in service.application()["message"]
    wait_until(lambda: service.state_metric() == DEPLOY_FAILED, 60, "the metric")
    logs = service.head.folder.glob("session_*/logs/serve/controller_*.log")
    assert any("/models/nope" in log.read_text() for log in logs)
    client.wait_for(20)
    assert service.replicas_on("one") | service.replicas_on("two") == before
    service.deploy()
    wait_until(lambda: service.application()["status"] == "RUNNING", 300, "the old configuration")
    client.wait_for(5)
    assert set(client.answers) == {200}, client


def test_no_request_fails_while_a_worker_drains_and_goes(service, client):
    first = next(replica for replica in service.replicas() if replica["of"] == "TalkingCritic")
    victim = service.worker_of(first["pid"])
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod is deleted"]
    node = ["--address", service.head.address, "--node-id", first["node_id"]]
    drained = service.head.run(
        RAY, "drain-node", *node, *reason, "--deadline-remaining-seconds", str(DRAIN_SECONDS)
    )
    assert drained.returncode == 0, drained.stdout
    began = time.monotonic()
    while service.replicas_on(victim) and time.monotonic() - began < DRAIN_SECONDS:
        time.sleep(1)
    left = len(service.replicas_on(victim))
    service.lose(victim)
    client.wait_for(20)
    assert set(client.answers) == {200}, client
    assert left == 0, f"{left} replicas were at work when the worker went"


def test_a_killed_worker_costs_the_requests_at_work_at_most(service, client):
    service.add_worker("three")
    wait_until(service.two_of_each, START_SECONDS, "two replicas of both deployments again")
    service.lose(service.worker_of(service.replicas()[0]["pid"]))
    client.wait_for(20)
    failed = client.answers.total() - client.answers[200]
    assert failed <= 1, client  # it sends one after the other
