"""Check a run against the Kubernetes manifest that it will run on, before anything is applied.

The manifest is a YAML file of rendered documents or a folder for `kubectl kustomize`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ft2ray.checks import check_inputs, check_packaged, check_weights
from ft2ray.config import AlignConfig
from ft2ray.errors import ConfigurationError
from ft2ray.pipeline.preflight import Node, check_nodes, node_groups
from ft2ray.storage import local_path

_SPECS = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "": 1}


@dataclass(frozen=True)
class Manifest:
    """What a manifest gives a run.

    Attributes:
        groups: the nodes that each group may add, as `resources.may_add` states them.
        standing: nodes that run from the start.
        mounts: folders that every pod sees, by claim or configuration map.
        secrets, volumes: names of what has to be there before.
    """

    groups: list[tuple[int, Node]]
    standing: list[Node]
    mounts: dict[str, str]
    secrets: list[str]
    volumes: list[str]


def read_manifest(path: str) -> Manifest:
    """Read the one Ray cluster of a manifest.

    Raises:
        ConfigurationError: no such file, or not exactly one RayCluster, RayJob or RayService in it.
    """
    try:
        documents = [document for document in yaml.safe_load_all(_text(Path(path))) if document]
        found = [document for document in documents if document.get("kind") in _SPECS]
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no manifest of Kubernetes: {error}") from error
    if len(found) != 1:
        raise ConfigurationError(
            f"{path} holds {len(found)} RayCluster, RayJob or RayService; give one of them"
        )
    spec = found[0]["spec"]
    for key in _SPECS[found[0]["kind"]]:
        spec = spec[key]
    made = {
        document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"
    }
    pod = spec["headGroupSpec"]["template"]["spec"]
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"]
        for v in pod.get("volumes", ())
        if "persistentVolumeClaim" in v
    }
    mounts = {
        m["mountPath"]: claims[m["name"]]
        for m in pod["containers"][0].get("volumeMounts", ())
        if m["name"] in claims
    }
    groups = [(group, _node(group)) for group in spec["workerGroupSpecs"]]
    return Manifest(
        groups=[(group["maxReplicas"] - group.get("replicas", 0), node) for group, node in groups],
        standing=[node for group, node in groups for _ in range(group.get("replicas", 0))],
        mounts=mounts,
        secrets=sorted(set(_secrets(documents))),
        volumes=sorted(set(claims.values()) - made),
    )


def _text(path: Path) -> str:
    if path.is_file():
        return path.read_text()
    if not path.is_dir():
        raise ConfigurationError(
            f"no manifest {path}; give a YAML file or a folder with a kustomization.yaml"
        )
    try:
        done = subprocess.run(["kubectl", "kustomize", str(path)], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} needs kubectl to be rendered; install it or give a YAML file"
        ) from error
    if done.returncode:
        raise ConfigurationError(f"kubectl kustomize {path}: {done.stderr.strip()}")
    return done.stdout


def _node(group: dict[str, Any]) -> Node:
    """What a pod of the group offers: Ray's own word where `ray start` gets one, else the limits."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    told = group.get("rayStartParams", {})
    offers = {"CPU": float(told.get("num-cpus", _number(limits["cpu"])))}
    if "nvidia.com/gpu" in limits:
        offers["GPU"] = float(limits["nvidia.com/gpu"])
    offers["memory"] = round(float(told.get("memory", _number(limits["memory"]))) / 1e9, 3)
    return Node(offers, group.get("labels", {}))


def _number(quantity: str) -> float:
    """A quantity of Kubernetes: "500m", "4", "12Gi"."""
    found = re.fullmatch(r"([\d.]+)(m|[KMGT]i|)", str(quantity))
    if found is None:
        raise ConfigurationError(f"the quantity {quantity!r} of the manifest is not understood")
    return float(found[1]) / 1000 if found[2] == "m" else float(found[1]) * _BYTES[found[2]]


def _secrets(node: Any) -> Iterator[str]:
    """Names of all secrets that are referred to."""
    if isinstance(node, dict):
        for key, child in node.items():
            if key in ("secretRef", "secretKeyRef"):
                yield child["name"]
            elif key == "secretName":
                yield child
            else:
                yield from _secrets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _secrets(child)


def check(config: AlignConfig, manifest: str | None = None) -> list[str]:
    """Check what can be checked without a node; returns what has to be there when the manifest is applied.

    Raises:
        ConfigurationError: pools that do not fit, settings that do not agree with the manifest or the critic.
        WeightsError: weights that are missing.
    """
    if manifest is None:
        check_inputs(config)
        if config.resources.address is not None:  # which check_inputs leaves to the cluster
            check_weights(config)
        return []
    check_packaged(config)
    found = read_manifest(manifest)
    stated, given = node_groups(config.resources.may_add), [group for group in found.groups if group[0]]
    if sorted(map(str, stated)) != sorted(map(str, given)):
        raise ConfigurationError(
            f"resources.may_add must state what {manifest} may add: " + ", ".join(map(_written, given))
        )
    nodes = found.standing + [node for count, node in given for _ in range(count)]
    check_nodes(config, nodes, f"Lower resources.pools.*, or enlarge the groups of {manifest}")
    for setting, folder in (
        ("run_dir", config.run_dir),
        ("generator.weights", config.generator.weights),
        ("critic.weights", config.critic.weights),
        ("prompts.portraits", config.prompts.portraits),
        ("prompts.speech", config.prompts.speech),
    ):
        if folder.startswith("/") and not any(Path(folder).is_relative_to(mount) for mount in found.mounts):
            raise ConfigurationError(
                f"{setting} {folder} lies on no volume of {manifest}: mounted are "
                + (", ".join(found.mounts) or "none")
            )
    lines = [f"secret {name}" for name in found.secrets] + [f"volume {name}" for name in found.volumes]
    if None in map(local_path, (config.run_dir, config.prompts.portraits, config.prompts.speech)):
        lines.append("access to S3 by the secret with AWS_ACCESS_KEY_ID")
    return lines


def _written(group: tuple[int, Node]) -> str:
    count, node = group
    parts = [f"{name}={amount:g}" for name, amount in node.offers.items()]
    parts += [f"{name}={value}" for name, value in node.labels.items()]
    return f'"{count} x {" ".join(parts)}"'
