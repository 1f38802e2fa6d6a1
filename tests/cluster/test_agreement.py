"""What is written in several places says the same everywhere: versions, resources, the Serve config."""

import re
import tomllib

import pytest
import ray
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import ft2ray
from ft2ray.config import AlignConfig, load_config
from ft2ray.pipeline.preflight import Node, node_groups, refusals, stages
from tests.cluster.conftest import CLUSTER, ROOT, cluster_spec, container, groups, load

CLUSTERS = ["raycluster-cpu.yaml", "raycluster-gpu.yaml", "rayjob-align.yaml", "rayservice.yaml"]
RUNS = [  # what runs on what
    ("align-cpu.yaml", "raycluster-cpu.yaml"),
    ("align-cpu.yaml", "rayjob-align.yaml"),
    ("align-gpu.yaml", "raycluster-gpu.yaml"),
]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def ray_version() -> str:
    found = re.search(r"^ARG RAY_VERSION=(\S+)$", DOCKERFILE, re.M)
    assert found
    return found[1]


def test_one_version_of_ray_everywhere():
    version = ray_version()
    assert re.search(r"^FROM rayproject/ray:\$\{RAY_VERSION\}-py311", DOCKERFILE, re.M)
    assert '"ray==${RAY_VERSION}"' in DOCKERFILE, "or pip may take another Ray than the base image's"
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (pin,) = (r for r in map(Requirement, dependencies) if r.name == "ray")
    assert version in pin.specifier
    assert Version(version).release[:2] == Version(ray.__version__).release[:2], "not what the tests run with"
    image = f"ft2ray:{ft2ray.__version__}-ray{version}"
    assert f"docker build -f cluster/Dockerfile -t {image} ." in DOCKERFILE
    for name in CLUSTERS:
        spec = cluster_spec(load(name))
        assert spec["rayVersion"] == version, name
        assert {container(group)["image"] for group in groups(spec)} == {image}, name


@pytest.mark.parametrize("name", CLUSTERS)
def test_pods_are_restricted_and_watched(name):
    spec = cluster_spec(load(name))
    assert spec["authOptions"]["mode"] == "token" and spec["authOptions"]["secretName"]
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    for group in groups(spec):
        pod, ray_container = group["template"]["spec"], container(group)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert ray_container["securityContext"]["allowPrivilegeEscalation"] is False
        assert ray_container["startupProbe"] and ray_container["livenessProbe"]
        served_by_worker = name == "rayservice.yaml" and group is not spec["headGroupSpec"]
        assert ("readinessProbe" in ray_container) != served_by_worker
        assert ray_container["resources"]["requests"] == ray_container["resources"]["limits"]


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.yaml")), ids=lambda path: path.name)
def test_secrets_are_only_referred_to(path):
    words = re.compile(r"password|token|secret|key", re.I)

    def look(node: object, where: str = "") -> None:
        if isinstance(node, dict):
            assert node.get("kind") != "Secret"
            if words.search(str(node.get("name", ""))):
                assert "value" not in node, f"{where} holds a secret"
            for key, child in node.items():
                if re.search(r"password", key, re.I):
                    assert set(child) == {"valueFrom"}, f"{where}.{key} holds a secret"
                look(child, f"{where}.{key}")
        elif isinstance(node, list):
            for i, child in enumerate(node):
                look(child, f"{where}[{i}]")

    for document in yaml.safe_load_all(path.read_text()):
        look(document)


def node(group: dict) -> Node:
    """What one pod of the group offers to Ray, which takes it from the limits; labels go to `ray start`."""
    limits = container(group)["resources"]["limits"]
    gpus = {"GPU": float(limits["nvidia.com/gpu"])} if "nvidia.com/gpu" in limits else {}
    return Node({"CPU": float(limits["cpu"]), **gpus}, group.get("labels", {}))


def too_little(config: AlignConfig, spec: dict) -> list[str]:
    """The preflight's refusals when every group has grown to its most."""
    nodes = [node(g) for g in spec["workerGroupSpecs"] for _ in range(g["maxReplicas"])]
    return [sentence for pools in stages(config) for sentence in refusals(pools, nodes)]


@pytest.mark.parametrize(("run", "cluster"), RUNS)
def test_the_pools_of_a_run_fit_its_cluster(run, cluster):
    config, spec = load_config(CLUSTER / run), cluster_spec(load(cluster))
    assert too_little(config, spec) == []
    assert config.schedule.max_staleness > 0, "curation and training share this cluster at the same time"
    may_add = [(g["maxReplicas"] - g["replicas"], node(g)) for g in spec["workerGroupSpecs"]]
    assert node_groups(config.cluster.may_add) == may_add
    for group in spec["workerGroupSpecs"]:
        group["maxReplicas"] -= 1
    assert too_little(config, spec) != [], "the groups may grow beyond what the run can use"


def test_gpu_pools_keep_to_the_groups_of_their_own():
    """Else a generator could take the training node's GPUs, and the train workers would wait for it."""
    config, spec = load_config(CLUSTER / "align-gpu.yaml"), cluster_spec(load("raycluster-gpu.yaml"))
    labels = {name: {"pool": name} for name in ("generation", "training")}
    assert {g["groupName"]: g["labels"] for g in spec["workerGroupSpecs"]} == labels
    kept = {pool.name: pool.on for pools in stages(config) for pool in pools}
    assert kept == {
        "generators": labels["generation"],
        "scorers": labels["generation"],
        "critic replicas": labels["generation"],
        "train workers": labels["training"],
    }


def test_the_pod_that_submits_is_as_restricted_as_the_others():
    """KubeRay's own, where none is given, states nothing of the kind."""
    job = load("rayjob-align.yaml")
    head, submitter = cluster_spec(job)["headGroupSpec"], {"template": job["spec"]["submitterPodTemplate"]}
    for place in (lambda group: group["template"]["spec"], container):
        assert place(submitter)["securityContext"] == place(head)["securityContext"]
    assert container(submitter)["image"] == container(head)["image"]
    assert container(submitter)["resources"]["requests"] == container(submitter)["resources"]["limits"]


def test_the_state_of_a_head_outlives_it():
    service, redis = yaml.safe_load_all((CLUSTER / "redis.yaml").read_text())
    (port,) = (port["port"] for port in service["spec"]["ports"])
    (password,) = container(redis["spec"])["env"]
    assert redis["spec"]["volumeClaimTemplates"] and "$(PASSWORD)" in container(redis["spec"])["command"]
    assert service["spec"]["selector"] == redis["spec"]["template"]["metadata"]["labels"]
    for name in ("raycluster-gpu.yaml", "rayservice.yaml"):
        options = cluster_spec(load(name))["gcsFaultToleranceOptions"]
        assert options["redisAddress"] == f"{service['metadata']['name']}:{port}"
        assert options["redisPassword"]["valueFrom"] == password["valueFrom"]


def test_prometheus_is_let_in_to_the_metrics_of_the_pods():
    """At port 8080, to which KubeRay sets --metrics-export-port where the manifest says nothing."""
    rules = load("network.yaml")["spec"]["ingress"]
    (ports,) = (rule["ports"] for rule in rules if "prometheus" in str(rule["from"]))
    assert ports == [{"port": 8080}]


def test_a_run_of_the_job_is_the_run_of_the_cluster():
    job = load("rayjob-align.yaml")
    assert cluster_spec(job) == load("raycluster-cpu.yaml")["spec"]
    python, script, config = job["spec"]["entrypoint"].split()
    assert python == "python" and (ROOT / script).is_file() and (ROOT / config).is_file()
    for folder in (script, config):
        assert f"{folder.split('/')[0]} {folder.split('/')[0]}" in DOCKERFILE, "not in the image"


def test_shared_folders_are_mounted():
    for run, cluster in RUNS:
        config = load_config(CLUSTER / run)
        wanted = [config.run_dir, config.generator.weights, config.critic.weights]
        for group in groups(cluster_spec(load(cluster))):
            mounts = [mount["mountPath"] for mount in container(group).get("volumeMounts", [])]
            for path in wanted:
                assert path == "embedded" or path.startswith(("s3://", *mounts)), f"{path} in {cluster}"
            if any(path.startswith("s3://") for path in wanted):
                assert container(group)["envFrom"], "no credentials for S3"


def test_the_service_serves_the_config_of_serve():
    told = yaml.safe_load(load("rayservice.yaml")["spec"]["serveConfigV2"])
    assert told == yaml.safe_load((ROOT / "serve" / "kuberay.yaml").read_text())


def test_the_service_is_the_platform_beside_where_it_listens_and_keeps_its_files():
    own = yaml.safe_load((ROOT / "serve" / "kuberay.yaml").read_text())
    usual = yaml.safe_load((ROOT / "serve" / "platform.yaml").read_text())
    assert own["http_options"].pop("host") == "0.0.0.0" and usual["http_options"].pop("host") == "127.0.0.1"
    for config in (own, usual):
        for application in config["applications"]:
            for key in ("stores", "run_dir", "result_store"):
                application["args"].pop(key, None)
    assert own == usual


def test_all_replicas_fit_the_service_cluster():
    spec = cluster_spec(load("rayservice.yaml"))
    config = yaml.safe_load(load("rayservice.yaml")["spec"]["serveConfigV2"])
    deployments = [d for application in config["applications"] for d in application["deployments"]]
    for replicas, nodes in (("max_replicas", "maxReplicas"), ("min_replicas", "minReplicas")):
        wanted = sum(
            d["ray_actor_options"]["num_cpus"] * d["autoscaling_config"][replicas] for d in deployments
        )
        assert wanted <= sum(node(g).offers["CPU"] * g[nodes] for g in spec["workerGroupSpecs"])
    tokens = [e["name"] for group in groups(spec) for e in container(group)["env"]]
    assert tokens == ["FT2RAY_TOKEN"] * len(groups(spec)), "without it nothing listens on 0.0.0.0"


def test_the_image_holds_what_runs_in_it_and_is_nobody_special():
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)
    assert users[-1] == "ray"
    copied = {name for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M) for name in line.split()[1:-1]}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed, "the build context and the image name different things"
    assert {"ft2ray", "serve", "jobs", "cluster", "pyproject.toml"} <= copied
    assert all((ROOT / name).exists() for name in copied)
