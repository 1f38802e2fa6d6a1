"""Every rendered overlay is one that KubeRay v1.7.0 and Kubernetes accept, and a slip would be noticed."""

import copy

import kubernetes_validate
import pytest

from tests.cluster.conftest import (
    OVERLAYS,
    cluster_spec,
    container,
    of_kind,
    overlay,
    ray_manifest,
    with_component,
)
from tests.cluster.crd import problems

KUBERNETES = "1.33"


def refused(document: dict, schemas: dict) -> list[str]:
    if document["apiVersion"].startswith("ray.io/"):
        return problems(document, schemas[document["kind"]])
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


def test_there_are_three_sizes():
    assert {"laptop", "cpu", "gpu"} <= set(OVERLAYS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_would_be_accepted(name, schemas):
    for document in overlay(name):
        assert refused(document, schemas) == [], document["metadata"]["name"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_names_are_given_once(name):
    names = [(document["kind"], document["metadata"]["name"]) for document in overlay(name)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("component", ["kueue", "volcano"])
@pytest.mark.parametrize("name", ["cpu", "gpu/cluster", "cpu/service"])
def test_queues_need_labels_only(name, component, schemas, tmp_path):
    plain, queued = overlay(name), with_component(tmp_path, name, component)
    labels = ray_manifest(queued)["metadata"].pop("labels")
    assert queued == plain
    wanted = {
        "kueue": {"kueue.x-k8s.io/queue-name"},
        "volcano": {"ray.io/scheduler-name", "ray.io/priority-class-name", "volcano.sh/queue-name"},
    }
    assert set(labels) == wanted[component]


def test_monitoring_brings_the_dashboard_and_finds_the_pods(schemas, tmp_path):
    documents = with_component(tmp_path, "cpu", "monitoring")
    (monitor,), plain = of_kind(documents, "PodMonitor"), overlay("cpu")
    assert monitor["spec"]["selector"]["matchLabels"] == {"ray.io/is-ray-node": "yes"}
    (dashboard,) = (d for d in documents if d not in plain and d["kind"] == "ConfigMap")
    assert "grafana.json" in dashboard["data"] and refused(dashboard, schemas) == []


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
@pytest.mark.parametrize("name", ["laptop", "gpu/cluster", "cpu/service"])
def test_a_slip_is_noticed(schemas, name, slip):
    manifest = ray_manifest(overlay(name))
    broken = copy.deepcopy(manifest)
    SLIPS[slip](broken)
    assert broken != manifest
    assert problems(broken, schemas[manifest["kind"]]) != []


def test_a_slip_in_a_core_kind_is_noticed(schemas):
    policy = copy.deepcopy(of_kind(overlay("laptop"), "NetworkPolicy")[0])
    policy["spec"]["ingres"] = []
    assert refused(policy, schemas) != []
