"""cluster/README.md names files, overlays, labels and secrets that are there, and leaves out none."""

import re

import pytest

from tests.cluster.conftest import CLUSTER, OVERLAYS, ROOT, overlay, ray_manifest

TEXT = (CLUSTER / "README.md").read_text()
COMMANDS = [line.strip() for line in TEXT.splitlines() if line.startswith("    ")]
RENDERED = str([overlay(name) for name in OVERLAYS]) if CLUSTER.is_dir() else ""


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) > 10
    for link in links:
        assert (CLUSTER / link).exists(), link


def test_files_and_overlays_of_the_commands_are_there():
    for command in COMMANDS:
        for path in re.findall(r"(?:cluster|jobs)/[\w./-]+", command):
            assert (ROOT / path).exists(), f"{path} in: {command}"
        for name in re.findall(r"-k cluster/overlays/(\S+)", command):
            assert name in OVERLAYS


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_described(name):
    shared = name.replace(name.split("/")[0], "SIZE") if name.endswith("/cluster") else name
    assert f"overlays/{shared}" in TEXT


def test_every_component_is_described():
    for folder in (CLUSTER / "components").iterdir():
        assert f"components/{folder.name}/" in TEXT or folder.name in ("job", "service"), folder.name


def test_labels_of_the_commands_are_on_pods_or_in_policies():
    for label, value in re.findall(r"(?:-l|--labels) (ft2ray/\w+)=(\w+)", "\n".join(COMMANDS)):
        assert f"'{label}': '{value}'" in RENDERED, label


def test_names_of_the_commands_are_those_of_the_manifests():
    names = {ray_manifest(overlay(name))["metadata"]["name"] for name in OVERLAYS}
    for kind, name in re.findall(r"kubectl get (rayjob) (\S+)", "\n".join(COMMANDS)):
        assert name in names, kind
    for name in re.findall(r"service/(\S+)-head-svc", "\n".join(COMMANDS)):
        assert name in names
    for name in re.findall(r"http://(\S+)-serve-svc", "\n".join(COMMANDS)):
        assert name in names


def test_every_secret_that_is_needed_is_listed_and_made():
    needed = set(re.findall(r"'secret(?:Ref|KeyRef)': {[^}]*'name': '([\w-]+)'", RENDERED))
    needed |= set(re.findall(r"'secretName': '([\w-]+)'", RENDERED))
    listed = set(re.findall(r"^\| `([\w-]+)` \|", TEXT, re.M))
    made = set(re.findall(r"create secret generic (\S+)", TEXT))
    assert needed == listed == made


def test_secrets_are_not_arguments_of_commands():
    assert "--from-literal" not in TEXT


def test_the_laptop_comes_first_in_five_commands():
    first = TEXT.split("\n## ")[1]
    block = re.search(r"(?:^    .*\n)+", first, re.M)
    assert first.startswith("On a laptop") and block and len(block[0].strip().splitlines()) == 5


def gigabytes_and_cores(resources: dict) -> tuple[float, float]:
    memory, cpu = resources["memory"], resources["cpu"]
    unit = {"Mi": 2**20, "Gi": 2**30}[memory[-2:]]
    cores = float(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)
    return int(memory[:-2]) * unit / 2**30, cores


@pytest.mark.parametrize(("name", "gibibytes"), [("laptop", 7.6), ("laptop/service", 15.2)])
def test_the_laptop_holds_what_its_pods_ask_for(name, gibibytes):
    """4 cores and 8 GiB, of which Kubernetes (kind: 0.95 cores, 0.3 GiB) and the operator take theirs."""
    asked = []
    documents = overlay(name)
    manifest = ray_manifest(documents)
    spec = manifest["spec"].get("rayClusterSpec") or manifest["spec"]["rayClusterConfig"]
    asked.append(spec["autoscalerOptions"]["resources"]["requests"])
    pods = [(spec["headGroupSpec"]["template"], 1)]
    pods += [(group["template"], group["maxReplicas"]) for group in spec["workerGroupSpecs"]]
    pods += [(d["spec"]["template"], d["spec"]["replicas"]) for d in documents if d["kind"] == "StatefulSet"]
    if "submitterPodTemplate" in manifest["spec"]:
        pods.append((manifest["spec"]["submitterPodTemplate"], 1))
    for template, count in pods:
        asked += [template["spec"]["containers"][0]["resources"]["requests"]] * count
    memory, cores = (sum(amounts) for amounts in zip(*map(gigabytes_and_cores, asked), strict=True))
    assert memory + 0.3 + 0.5 <= gibibytes
    assert cores + 0.95 + 0.1 <= 4
