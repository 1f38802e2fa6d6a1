"""The manifests of cluster/, and KubeRay's definitions where this machine has them."""

from pathlib import Path

import pytest
import yaml

from tests.cluster.crd import load_schemas

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
CRDS = ROOT.parent / "shared" / "crds"
MANIFESTS = sorted(path for path in CLUSTER.glob("*.yaml") if "apiVersion" in path.read_text())


def load(name: str) -> dict:
    return yaml.safe_load((CLUSTER / name).read_text())


def cluster_spec(manifest: dict) -> dict:
    """The RayCluster inside a RayCluster, RayJob or RayService."""
    key = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}[manifest["kind"]]
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
