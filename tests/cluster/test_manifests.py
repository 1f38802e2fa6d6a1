"""Every manifest is one that KubeRay v1.7.0 and Kubernetes accept, and a slip in it would be noticed."""

import copy

import kubernetes_validate
import pytest
import yaml

from tests.cluster.conftest import MANIFESTS, cluster_spec, container, load
from tests.cluster.crd import problems

KUBERNETES = "1.33"
DOCUMENTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}")
    for path in MANIFESTS
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_it_would_be_accepted(document, request):
    if document["apiVersion"].startswith("ray.io/"):
        assert problems(document, request.getfixturevalue("schemas")[document["kind"]]) == []
    else:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def worker(manifest: dict) -> dict:
    return cluster_spec(manifest)["workerGroupSpecs"][0]


SLIPS = {
    "unknown key": lambda m: cluster_spec(m).update(rayVersoin="2.60.0"),
    "unknown key of a container": lambda m: container(worker(m)).update(volumeMount=[]),
    "unknown key of a probe": lambda m: container(worker(m))["livenessProbe"].update(httpget={}),
    "text for a number": lambda m: worker(m).update(maxReplicas="three"),
    "number for a text": lambda m: cluster_spec(m).update(rayVersion=2.6),
    "value outside its list": lambda m: cluster_spec(m)["autoscalerOptions"].update(version="v3"),
    "unknown mode": lambda m: cluster_spec(m)["authOptions"].update(mode="password"),
    "no template": lambda m: worker(m).pop("template"),
    "container without a name": lambda m: container(worker(m)).pop("name"),
    "rule in CEL": lambda m: cluster_spec(m).update(managedBy="somebody"),
}


@pytest.mark.parametrize("slip", SLIPS)
@pytest.mark.parametrize("name", ["raycluster-cpu", "raycluster-gpu", "rayjob-align", "rayservice"])
def test_a_slip_is_noticed(schemas, name, slip):
    manifest = load(f"{name}.yaml")
    broken = copy.deepcopy(manifest)
    SLIPS[slip](broken)
    assert broken != manifest
    assert problems(broken, schemas[manifest["kind"]]) != []


def test_a_slip_in_a_core_kind_is_noticed():
    policy = load("network.yaml")
    policy["spec"]["ingres"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(policy, KUBERNETES, strict=True)
