"""Who reaches whom, as the policies say it: namespaces are named, Redis and what goes out are covered."""

import ipaddress

import pytest

from tests.cluster.conftest import OVERLAYS, of_kind, overlay

RAY = {"ray.io/is-ray-node": "yes"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}
SUBMITTER = {"ray.io/originated-from-crd": "RayJob", "ft2ray/part": "submitter"}
CLIENT = {"ft2ray/client": "true"}
REDIS = {"ft2ray/part": "redis"}
DNS = {"k8s-app": "kube-dns"}
HERE = "here"


def selects(selector: dict, labels: dict) -> bool:
    absent = [e["key"] for e in selector.get("matchExpressions", ()) if e["operator"] == "DoesNotExist"]
    return selector.get("matchLabels", {}).items() <= labels.items() and not set(absent) & labels.keys()


def peer(rule: dict, labels: dict, namespace: str) -> bool:
    if "ipBlock" in rule:
        return False
    if "namespaceSelector" in rule:
        wanted = rule["namespaceSelector"].get("matchLabels")
        assert wanted, "a rule that lets in every namespace"
        if wanted != {"kubernetes.io/metadata.name": namespace}:
            return False
    elif namespace != HERE:
        return False
    return selects(rule["podSelector"], labels)


def allowed(policies: list, direction: str, labels: dict, other: dict, namespace: str, port: int) -> bool:
    """Whether a pod with `labels` may be reached by (ingress) or reach (egress) `other` at `port`."""
    side = {"ingress": ("Ingress", "from"), "egress": ("Egress", "to")}[direction]
    here = [p["spec"] for p in policies if selects(p["spec"]["podSelector"], labels)]
    here = [spec for spec in here if side[0] in spec["policyTypes"]]
    if not here:
        return True
    for rule in (rule for spec in here for rule in spec.get(direction, ())):
        ports = [p["port"] for p in rule.get("ports", ())]
        if (not ports or port in ports) and any(peer(r, other, namespace) for r in rule[side[1]]):
            return True
    return False


def reaches(policies, one: dict, other: dict, port: int, of=HERE, to=HERE) -> bool:
    out = of != HERE or allowed(policies, "egress", one, other, to, port)
    return out and (to != HERE or allowed(policies, "ingress", other, one, of, port))


@pytest.fixture(params=OVERLAYS)
def policies(request) -> list[dict]:
    return of_kind(overlay(request.param), "NetworkPolicy")


def test_ray_works_and_is_seen(policies):
    assert reaches(policies, RAY, RAY, 6379) and reaches(policies, RAY, RAY, 35001)
    assert reaches(policies, SUBMITTER, RAY, 8265) and not reaches(policies, SUBMITTER, RAY, 6379)
    assert reaches(policies, OPERATOR, RAY, 8265, of="kuberay-system")
    assert reaches(policies, PROMETHEUS, RAY, 8080, of="monitoring")
    assert reaches(policies, RAY, DNS, 53, to="kube-system")
    assert reaches(policies, SUBMITTER, DNS, 53, to="kube-system")


def test_clients_reach_the_service_only(policies):
    assert reaches(policies, CLIENT, RAY, 8000)
    for port in (6379, 8265, 10001, 8080, 52365):
        assert not reaches(policies, CLIENT, RAY, port)


def test_strangers_reach_nothing(policies):
    for labels in ({}, {"app": "other"}):
        for port in (6379, 8000, 8265, 10001, 8080, 52365):
            assert not reaches(policies, labels, RAY, port)
    for labels in (RAY, OPERATOR, PROMETHEUS, CLIENT, SUBMITTER):
        for port in (6379, 8000, 8265, 8080):
            assert not reaches(policies, labels, RAY, port, of="elsewhere"), "a label is easily put on"
    assert not reaches(policies, {}, SUBMITTER, 22)


def test_pods_of_ray_reach_no_other_pods(policies):
    assert not reaches(policies, RAY, {"app": "other"}, 80)
    assert not reaches(policies, RAY, {"app": "other"}, 8080, to="elsewhere")


def test_nothing_that_goes_out_reaches_the_metadata_service(policies):
    blocks = [
        rule["ipBlock"]
        for policy in policies
        for out in policy["spec"].get("egress", ())
        for rule in out["to"]
        if "ipBlock" in rule
    ]
    metadata = ipaddress.ip_address("169.254.169.254")
    assert blocks
    for block in blocks:
        assert any(metadata in ipaddress.ip_network(network) for network in block["except"])


@pytest.mark.parametrize("name", ["gpu", "gpu/cluster", "cpu/service", "laptop/service"])
def test_redis_talks_to_ray_only(name):
    policies = of_kind(overlay(name), "NetworkPolicy")
    assert reaches(policies, RAY, REDIS, 6379)
    for labels in ({}, CLIENT, SUBMITTER):
        assert not reaches(policies, labels, REDIS, 6379)
    assert not allowed(policies, "egress", REDIS, RAY, HERE, 8265)
