"""The laptop's overlays as test_kubernetes.py applies them: another image, folder, mistake or size."""

import copy

import yaml

from tests.cluster.conftest import cluster_spec, container, groups, overlay, ray_manifest

CLIENT = """
import json, os, time, urllib.error, urllib.request
answers, slowest = {}, 0.0
ends = time.time() + float(os.environ["SECONDS"])
body = b'{"video": "/none.mp4"}'  # refused by the application itself, behind token and settings
while time.time() < ends:
    began = time.time()
    request = urllib.request.Request(os.environ["URL"], data=body, headers={
        "Authorization": "Bearer " + os.environ["TOKEN"], "Content-Type": "application/json"})
    try:
        status = urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        status = type(error).__name__
    answers[str(status)] = answers.get(str(status), 0) + 1
    slowest = max(slowest, time.time() - began)
    time.sleep(0.5)
print(json.dumps({"answers": answers, "slowest": round(slowest, 1)}), flush=True)
"""
PROBE = """
import json, os, socket
reached = []
for port in json.loads(os.environ["PORTS"]):
    try:
        socket.create_connection((os.environ["HOST"], port), timeout=5).close()
        reached.append(port)
    except OSError:
        pass
print(json.dumps(reached), flush=True)
"""


def variant(name: str, image: str | None = None) -> list[dict]:
    """The rendered overlay, with `image` in every pod of ft2ray."""
    documents = copy.deepcopy(overlay(name))
    if image is not None:
        manifest = ray_manifest(documents)
        for group in groups(cluster_spec(manifest)):
            container(group)["image"] = image
        if "submitterPodTemplate" in manifest["spec"]:
            container({"template": manifest["spec"]["submitterPodTemplate"]})["image"] = image
    return documents


def job(name: str, image: str | None = None, **settings: object) -> list[dict]:
    """The laptop's job under another name, with `a__b=value` in place of settings a.b."""
    documents = variant("laptop", image)
    manifest = ray_manifest(documents)
    manifest["metadata"]["name"] = name
    (configured,) = (d for d in documents if d["kind"] == "ConfigMap")
    tree = yaml.safe_load(configured["data"]["align.yaml"])
    for key, value in settings.items():
        *parents, leaf = key.split("__")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    configured["data"]["align.yaml"] = yaml.safe_dump(tree, sort_keys=False)
    configured["metadata"]["name"] = name
    head = cluster_spec(manifest)["headGroupSpec"]["template"]["spec"]
    (volume,) = (v for v in head["volumes"] if v["name"] == "settings")
    volume["configMap"]["name"] = name
    return documents


def with_memory(documents: list[dict], limit: str, promised: int) -> list[dict]:
    """Workers that may use `limit`, whatever Ray is told that they have (`promised` bytes)."""
    (group,) = cluster_spec(ray_manifest(documents))["workerGroupSpecs"]
    container(group)["resources"] = {
        "requests": {"cpu": "750m", "memory": limit},
        "limits": {"cpu": "2", "memory": limit},
    }
    group["rayStartParams"]["memory"] = str(promised)
    return documents


def service(image: str | None = None, weights: str = "embedded", deadline: int = 60) -> list[dict]:
    """The laptop's service with another critic or another deadline."""
    documents = variant("laptop/service", image)
    manifest = ray_manifest(documents)
    config = yaml.safe_load(manifest["spec"]["serveConfigV2"])
    (critic,) = (app for app in config["applications"] if app["name"] == "critic")
    critic["args"] |= {"weights": weights, "deadline_seconds": deadline}
    manifest["spec"]["serveConfigV2"] = yaml.safe_dump(config, sort_keys=False)
    return documents


def pod(name: str, image: str, program: str, labels: dict, environment: dict, secrets: dict) -> dict:
    """A pod, as restricted as all others, that runs a Python program once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "program",
                    "image": image,
                    "command": ["python", "-c", program],
                    "env": [{"name": key, "value": value} for key, value in environment.items()]
                    + [
                        {"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": entry}}}
                        for key, (secret, entry) in secrets.items()
                    ],
                    "resources": {
                        "requests": {"cpu": "50m", "memory": "64Mi"},
                        "limits": {"cpu": "500m", "memory": "128Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
