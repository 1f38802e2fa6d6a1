"""The manifests on a real cluster: `make test-kubernetes CONTEXT=kind-kind`, about half an hour.

The steps use a namespace of their own, with Pod Security `restricted`, and delete it at the end. They
need KubeRay's operator in the cluster and the image where its nodes find it. Without CONTEXT they are
skipped: a test takes no cluster that nobody named. One table at the end says what was seen.
"""

import base64
import contextlib
import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import yaml

from tests.cluster import variants
from tests.cluster.conftest import kubectl

pytestmark = pytest.mark.kubernetes

CONTEXT = os.environ.get("FT2RAY_KUBERNETES_CONTEXT", "")
IMAGE = os.environ.get("FT2RAY_IMAGE", "ft2ray:0.1.0-ray2.60.0")
SECRETS = {"ft2ray-ray": "auth_token", "ft2ray-redis": "password", "ft2ray-serve": "token"}
RUN_SECONDS = 3600
START_SECONDS = 900


@dataclass
class Cluster:
    """kubectl in one namespace of one context."""

    context: str
    namespace: str
    table: list[tuple[str, str]] = field(default_factory=list)

    def run(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        command = [kubectl(), f"--context={self.context}", f"--namespace={self.namespace}", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=RUN_SECONDS)
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def apply(self, documents: list[dict]) -> None:
        self.run("apply", "-f", "-", given=yaml.safe_dump_all(documents))

    def get(self, kind: str, name: str = "", selector: str = "") -> dict:
        wanted = [name] if name else [f"--selector={selector}"]
        return json.loads(self.run("get", kind, *wanted, "-o", "json"))

    def pods(self, selector: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.get("pods", selector=selector)["items"]]

    def wait(self, reached: Callable[[], bool], seconds: float, what: str) -> float:
        """Seconds until `reached`."""
        began = time.monotonic()
        while not reached():
            assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
            time.sleep(2)
        return time.monotonic() - began

    def row(self, step: str, seen: str) -> None:
        self.table.append((step, seen))

    # Jobs

    def job_state(self, name: str) -> str:
        return self.get("rayjob", name).get("status", {}).get("jobDeploymentStatus", "")

    def ray_cluster(self, name: str) -> str:
        return self.get("rayjob", name).get("status", {}).get("rayClusterName", "")

    def workers(self, name: str) -> list[str]:
        cluster = self.ray_cluster(name)
        return self.pods(f"ray.io/cluster={cluster},ray.io/node-type=worker") if cluster else []

    def finish(self, name: str, seen: Callable[[], None] = lambda: None) -> tuple[str, float]:
        """The final state of a job and the seconds until then; `seen` is called again and again."""

        def over() -> bool:
            seen()
            return self.job_state(name) in ("Complete", "Failed")

        took = self.wait(over, RUN_SECONDS, f"the end of {name}")
        return self.get("rayjob", name)["status"]["jobStatus"], took

    def log(self, name: str) -> str:
        return self.run("logs", "-l", f"ft2ray/part=submitter,job-name={name}", "--tail=-1", check=False)

    def on_disk(self, program: str) -> str:
        """Output of a Python program that sees /runs, on the head of the standing cluster."""
        (head,) = self.pods("ray.io/cluster=ft2ray,ray.io/node-type=head")
        return self.run("exec", head, "-c", "ray-head", "--", "python", "-c", program)

    # The service

    def program(self, name: str, program: str, labels: dict, environment: dict, given: dict) -> None:
        self.apply([variants.pod(name, IMAGE, program, labels, environment, given)])

    def result(self, name: str, seconds: float) -> dict:
        def done() -> bool:
            return self.get("pod", name)["status"]["phase"] in ("Succeeded", "Failed")

        self.wait(done, seconds, f"the end of pod {name}")
        return json.loads(self.run("logs", name).splitlines()[-1])


@pytest.fixture(scope="module")
def cluster(request) -> Iterator[Cluster]:
    if not CONTEXT:
        pytest.skip(
            "no cluster was named: make test-kubernetes CONTEXT=(one of kubectl config get-contexts -o name)"
        )
    probe = subprocess.run(
        [kubectl(), f"--context={CONTEXT}", "--request-timeout=10s", "version"],
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        pytest.skip(f"the cluster of context {CONTEXT} cannot be reached: {probe.stderr.strip()[-300:]}")
    here = Cluster(CONTEXT, f"ft2ray-test-{secrets.token_hex(3)}")
    here.run("get", "crd", "rayjobs.ray.io")
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    here.apply(
        [
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": here.namespace, "labels": restricted},
            }
        ]
    )
    try:
        for secret, key in SECRETS.items():
            value = secrets.token_hex(32)
            here.run("create", "secret", "generic", secret, f"--from-file={key}=/dev/stdin", given=value)
        here.apply(variants.variant("laptop/cluster", IMAGE))
        yield here
    finally:
        reporter = request.config.pluginmanager.get_plugin("terminalreporter")
        width = max((len(step) for step, _ in here.table), default=0)
        reporter.write_line("")
        for step, seen in here.table:
            reporter.write_line(f"{step:{width}}  {seen}")
        here.run("delete", "namespace", here.namespace, "--wait=false")


FINGERPRINT = """
import json, pathlib
current = pathlib.Path("/runs/{run}/policies/current").read_text()
print(json.loads((pathlib.Path("/runs/{run}/policies") / current / "policy.json").read_text())["fingerprint"])
"""


@pytest.fixture(scope="module")
def undisturbed(cluster) -> str:
    """The fingerprint of the policy of a run that nobody disturbed, which is a step itself."""
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, len(cluster.workers("undisturbed")))

    cluster.apply(variants.job("undisturbed", IMAGE, run_dir="/runs/undisturbed"))
    state, took = cluster.finish("undisturbed", count)
    assert state == "SUCCEEDED", cluster.log("undisturbed")[-3000:]
    cluster.row("job", f"{state} in {took:.0f} s, workers 0 -> {most}")
    assert most >= 1
    return cluster.on_disk(FINGERPRINT.format(run="undisturbed")).strip()


def test_a_job_succeeds_and_its_workers_come_and_go(cluster, undisturbed):
    took = cluster.wait(lambda: not cluster.workers("undisturbed"), 900, "workers that go")
    cluster.row("scale down", f"no worker {took:.0f} s after the end")


@contextlib.contextmanager
def forwarded(cluster: Cluster, service: str, port: int) -> Iterator[str]:
    command = [kubectl(), f"--context={cluster.context}", f"--namespace={cluster.namespace}", "port-forward"]
    process = subprocess.Popen(
        [*command, f"service/{service}", f":{port}"], stdout=subprocess.PIPE, text=True
    )
    try:
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())  # type: ignore[union-attr]
        assert found
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.kill()
        process.wait()


def test_jobs_are_taken_with_the_token_only(cluster):
    encoded = cluster.run("get", "secret", "ft2ray-ray", "-o", "jsonpath={.data.auth_token}")
    token = base64.b64decode(encoded).decode()
    cluster.wait(
        lambda: len(cluster.pods("ray.io/cluster=ft2ray,ray.io/node-type=head")) == 1, START_SECONDS, "head"
    )
    with forwarded(cluster, "ft2ray-head-svc", 8265) as url:
        command = ["ray", "job", "submit", "--address", url, "--", "python", "-c", "print('taken')"]
        given = {
            "with the token": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
            "with another one": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"},
            "without one": {"RAY_AUTH_MODE": "disabled"},
        }
        codes = {
            how: subprocess.run(command, env=os.environ | environment, capture_output=True).returncode
            for how, environment in given.items()
        }
    cluster.row("ray job submit", ", ".join(f"exit code {code} {how}" for how, code in codes.items()))
    assert codes["with the token"] == 0 and codes["with another one"] != 0 and codes["without one"] != 0


def test_strangers_reach_nothing(cluster):
    (head,) = cluster.pods("ray.io/cluster=ft2ray,ray.io/node-type=head")
    host = cluster.get("pod", head)["status"]["podIP"]
    ports = [6379, 8265, 10001, 8000, 8080, 52365]
    environment = {"HOST": host, "PORTS": json.dumps(ports)}
    cluster.program("stranger", variants.PROBE, {"app": "stranger"}, environment, {})
    reached = cluster.result("stranger", START_SECONDS)
    if reached:
        cluster.row(
            "network policy", f"NOT ENFORCED by this cluster's network plugin: a stranger reaches {reached}"
        )
        pytest.skip("the network plugin of this cluster ignores network policies")
    cluster.row("network policy", f"a stranger reaches none of {ports}")


@pytest.mark.parametrize("part", ["worker", "head"])
def test_a_lost_pod_costs_time_only(cluster, undisturbed, part):
    name = f"lost-{part}"
    cluster.apply(variants.job(name, IMAGE, run_dir=f"/runs/{name}"))
    done = f"import glob; print(len(glob.glob('/runs/{name}/store/groups/*')))"
    cluster.wait(lambda: int(cluster.on_disk(done)) >= 2, RUN_SECONDS, "the first groups")
    ray = cluster.ray_cluster(name)
    victim = cluster.pods(f"ray.io/cluster={ray},ray.io/node-type={part}")[0]
    cluster.run("delete", "pod", victim, "--grace-period=0", "--force")
    state, took = cluster.finish(name)
    same = cluster.on_disk(FINGERPRINT.format(run=name)).strip() == undisturbed
    cluster.row(
        f"{part} killed", f"{state} {took:.0f} s later, policy {'identical' if same else 'DIFFERENT'}"
    )
    assert state == "SUCCEEDED" and same


def test_a_lost_training_node_costs_time_only(cluster, undisturbed):
    name = "lost-training"
    cluster.apply(variants.job(name, IMAGE, run_dir=f"/runs/{name}"))
    step = (
        f"import glob, json; files = glob.glob('/runs/{name}/train/*.progress.json'); "
        "print(max([json.load(open(file))['step'] for file in files], default=0))"
    )
    cluster.wait(lambda: int(cluster.on_disk(step)) >= 10, RUN_SECONDS, "the first checkpoint")
    for victim in cluster.workers(name):
        cluster.run("delete", "pod", victim, "--grace-period=0", "--force")
    state, took = cluster.finish(name)
    same = cluster.on_disk(FINGERPRINT.format(run=name)).strip() == undisturbed
    cluster.row(
        "training killed", f"{state} {took:.0f} s later, policy {'identical' if same else 'DIFFERENT'}"
    )
    assert state == "SUCCEEDED" and same


MISTAKES = {
    "setting": ({"tlpo__steps": "twenty"}, "tlpo.steps"),
    "weights": ({"generator__weights": "/models/nope"}, "/models/nope"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_head(cluster, mistake):
    settings, words = MISTAKES[mistake]
    name, clusters, most = f"mistake-{mistake}", set(), 0

    def count() -> None:
        nonlocal most
        clusters.add(cluster.ray_cluster(name))
        most = max(most, len(cluster.workers(name)))

    cluster.apply(variants.job(name, IMAGE, run_dir=f"/runs/{name}", **settings))
    state, took = cluster.finish(name, count)
    (sentence,) = re.findall(r"^ft2ray: .*$", cluster.log(name), re.M)[-1:]
    cluster.row(
        f"mistake: {mistake}",
        f"{state} in {took:.0f} s, {len(clusters - {''})} cluster, {most} workers: {sentence}",
    )
    assert state == "FAILED" and words in sentence and len(clusters - {""}) == 1 and most == 0


def test_too_little_memory_is_named(cluster):
    cluster.apply(
        variants.with_memory(variants.job("little", IMAGE, run_dir="/runs/little"), "900Mi", 4_000_000_000)
    )
    state, took = cluster.finish("little")
    (sentence,) = re.findall(r"^ft2ray: .*$", cluster.log("little"), re.M)[-1:]
    cluster.row("too little memory", f"{state} in {took:.0f} s: {sentence}")
    assert state == "FAILED" and "memory" in sentence


def serving(cluster: Cluster) -> bool:
    status = cluster.get("rayservice", "ft2ray-serve").get("status", {}).get("activeServiceStatus", {})
    applications = status.get("applicationStatuses", {})
    return len(applications) == 2 and all(app["status"] == "RUNNING" for app in applications.values())


@pytest.fixture(scope="module")
def service(cluster) -> Cluster:
    cluster.apply(variants.service(IMAGE))
    took = cluster.wait(lambda: serving(cluster), START_SECONDS, "a service that runs")
    cluster.row("service", f"both applications run {took:.0f} s after apply")
    return cluster


def kill_head(cluster: Cluster) -> None:
    (head,) = cluster.pods("ray.io/originated-from-cr-name=ft2ray-serve,ray.io/node-type=head")
    cluster.run("delete", "pod", head, "--grace-period=0", "--force")


def drain_worker(cluster: Cluster) -> None:
    cluster.run("delete", "pod", cluster.pods("ft2ray/part=service-worker")[0], "--wait=false")


def new_image(cluster: Cluster) -> None:
    """A pod template that differs, as with another tag: KubeRay starts a new cluster beside the old one."""
    documents = variants.service(IMAGE)
    (manifest,) = (d for d in documents if d["kind"] == "RayService")
    manifest["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["metadata"]["labels"][
        "ft2ray/version"
    ] = "2"
    cluster.apply(documents)


DISTURBANCES: dict[str, Callable[[Cluster], None]] = {
    "head killed": kill_head,
    "worker drained": drain_worker,
    "configuration changed": lambda cluster: cluster.apply(variants.service(IMAGE, deadline=50)),
    "broken configuration": lambda cluster: cluster.apply(variants.service(IMAGE, weights="/models/nope")),
    "mended configuration": lambda cluster: cluster.apply(variants.service(IMAGE)),
    "new image": new_image,
}


@pytest.mark.parametrize("disturbance", DISTURBANCES)
def test_no_request_fails_meanwhile(service, disturbance):
    name = "client-" + disturbance.replace(" ", "-")
    url = "http://ft2ray-serve-serve-svc:8000/v1/score"
    environment = {"URL": url, "SECONDS": "90"}
    service.program(
        name, variants.CLIENT, {"ft2ray/client": "true"}, environment, {"TOKEN": ("ft2ray-serve", "token")}
    )
    service.wait(lambda: service.get("pod", name)["status"]["phase"] == "Running", START_SECONDS, name)
    DISTURBANCES[disturbance](service)
    seen = service.result(name, 300)
    total = sum(seen["answers"].values())
    failed = total - seen["answers"].get("422", 0)  # the application's own answer to a clip that is not there
    service.row(disturbance, f"{failed} of {total} requests failed, the slowest took {seen['slowest']} s")
    assert failed == 0, seen
