"""What is written in several places says the same everywhere: versions, resources, the Serve config."""

import copy
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
from tests.cluster.conftest import (
    CLUSTER,
    OVERLAYS,
    ROOT,
    cluster_spec,
    container,
    groups,
    of_kind,
    overlay,
    ray_manifest,
)

SIZES = ["laptop", "cpu", "gpu"]
SERVICES = ["laptop/service", "cpu/service"]
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def spec_of(name: str) -> dict:
    return cluster_spec(ray_manifest(overlay(name)))


def ray_version() -> str:
    found = re.search(r"^ARG RAY_VERSION=(\S+)$", DOCKERFILE, re.M)
    assert found
    return found[1]


def test_one_version_of_ray_everywhere():
    version = ray_version()
    assert re.search(r"^FROM rayproject/ray:\$\{RAY_VERSION\}-py311", DOCKERFILE, re.M)
    assert re.search(rf"^ray=={re.escape(version)} ", (ROOT / ".ci/locks/runtime.txt").read_text(), re.M)
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (pin,) = (r for r in map(Requirement, dependencies) if r.name == "ray")
    assert version in pin.specifier
    assert Version(version).release[:2] == Version(ray.__version__).release[:2], "not what the tests run with"
    image = f"ft2ray:{ft2ray.__version__}-ray{version}"
    assert f"docker build -f cluster/Dockerfile -t {image} ." in DOCKERFILE
    for name in OVERLAYS:
        spec = spec_of(name)
        assert spec["rayVersion"] == version, name
        assert {container(group)["image"] for group in groups(spec)} == {image}, name


def test_every_image_is_pinned():
    for name in OVERLAYS:
        for image in re.findall(r"'image': '([^']+)'", str(overlay(name))):
            assert re.search(r":\d+(\.\d+)+|@sha256:", image), f"{image} in {name} may change"


def restricted(pod: dict) -> None:
    """Pod Security `restricted`, and nothing to write to but what is mounted."""
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all(volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret", "persistentVolumeClaim"}
               for volume in pod["volumes"])  # fmt: skip
    for each in pod["containers"]:
        context = each["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True
        mounts = {mount["mountPath"]: mount["name"] for mount in each["volumeMounts"]}
        assert set(mounts.values()) <= {v["name"] for v in pod["volumes"]} | {
            "data"
        }  # of the stateful set itself
        assert "/tmp" in mounts
        assert each["resources"].keys() == {"requests", "limits"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_are_restricted_and_watched(name):
    documents = overlay(name)
    spec, kind = spec_of(name), ray_manifest(documents)["kind"]
    assert spec["authOptions"]["mode"] == "token" and spec["authOptions"]["secretName"]
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["enableInTreeAutoscaling"] and spec["autoscalerOptions"]["version"] == "v2"
    for group in groups(spec):
        pod, ray_container = group["template"]["spec"], container(group)
        restricted(pod)
        assert {"name": "HOME", "value": "/tmp"} in ray_container["env"]
        assert ray_container["startupProbe"] and ray_container["livenessProbe"]
        served_by_worker = kind == "RayService" and group is not spec["headGroupSpec"]
        assert ("readinessProbe" in ray_container) != served_by_worker
        if not name.startswith("laptop"):
            assert ray_container["resources"]["requests"] == ray_container["resources"]["limits"]
    for redis in of_kind(documents, "StatefulSet"):
        restricted(redis["spec"]["template"]["spec"])
    if kind == "RayJob":
        submitter = ray_manifest(documents)["spec"]["submitterPodTemplate"]["spec"]
        restricted(submitter)
        assert submitter["containers"][0]["image"] == container(spec["headGroupSpec"])["image"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_secrets_are_only_referred_to(name):
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

    look(overlay(name))


def node(group: dict) -> Node:
    """What one pod of the group offers to Ray, which takes CPUs and GPUs from the limits."""
    limits = container(group)["resources"]["limits"]
    gpus = {"GPU": float(limits["nvidia.com/gpu"])} if "nvidia.com/gpu" in limits else {}
    memory = int(group["rayStartParams"]["memory"]) / 1e9
    return Node({"CPU": float(limits["cpu"]), **gpus, "memory": memory}, group.get("labels", {}))


def gigabytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit] / 1e9


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_ray_may_plan_with_leaves_room_for_ray_itself(name):
    """Ray's own processes took 0.25 GB on a worker and the object store counts as memory of the pod."""
    for group in spec_of(name)["workerGroupSpecs"]:
        told = {key: int(value) / 1e9 for key, value in group["rayStartParams"].items()}
        limit = gigabytes(container(group)["resources"]["limits"]["memory"])
        assert told["memory"] + told["object-store-memory"] + 0.25 <= limit, group["groupName"]


def too_little(config: AlignConfig, spec: dict) -> list[str]:
    """The preflight's refusals when every group has grown to its most."""
    nodes = [node(g) for g in spec["workerGroupSpecs"] for _ in range(g["maxReplicas"])]
    return [sentence for pools in stages(config) for sentence in refusals(pools, nodes)]


@pytest.mark.parametrize("name", SIZES)
def test_the_pools_of_a_run_fit_its_cluster(name):
    config, spec = load_config(CLUSTER / "overlays" / name / "align.yaml"), spec_of(name)
    assert too_little(config, spec) == []
    may_add = [(g["maxReplicas"] - g["replicas"], node(g)) for g in spec["workerGroupSpecs"]]
    assert node_groups(config.resources.may_add) == may_add


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_cluster_is_not_larger_than_its_run_can_use(name):
    config, spec = load_config(CLUSTER / "overlays" / name / "align.yaml"), spec_of(name)
    assert config.schedule.max_staleness > 0, "curation and training share this cluster at the same time"
    for group in spec["workerGroupSpecs"]:
        fewer = {**group, "maxReplicas": group["maxReplicas"] - 1}
        others = [fewer if g is group else g for g in spec["workerGroupSpecs"]]
        assert too_little(config, {**spec, "workerGroupSpecs": others}) != [], group["groupName"]


@pytest.mark.parametrize("name", SIZES)
def test_a_job_asks_for_no_worker_before_its_checks(name):
    for group in spec_of(name)["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0


def test_gpu_pools_keep_to_the_groups_of_their_own():
    """Else a generator could take the training node's GPUs, and the train workers would wait for it."""
    config, spec = load_config(CLUSTER / "overlays" / "gpu" / "align.yaml"), spec_of("gpu")
    labels = {name: {"pool": name} for name in ("generation", "training")}
    assert {g["groupName"]: g["labels"] for g in spec["workerGroupSpecs"]} == labels
    kept = {pool.name: pool.on for pools in stages(config) for pool in pools}
    assert kept == {
        "generators": labels["generation"],
        "scorers": labels["generation"],
        "critic replicas": labels["generation"],
        "train workers": labels["training"],
        "evaluators": labels["generation"],
    }


def test_spot_nodes_are_for_generation_only():
    def tolerated(group: dict) -> set[str]:
        return {toleration["key"] for toleration in group["template"]["spec"].get("tolerations", [])}

    spec = spec_of("gpu")
    generation, training = spec["workerGroupSpecs"]
    assert any("spot" in key for key in tolerated(generation))
    assert tolerated(training) == {"nvidia.com/gpu"} and tolerated(spec["headGroupSpec"]) == set()


def test_a_job_and_a_standing_cluster_are_the_same_cluster():
    for name in SIZES:
        job, cluster = copy.deepcopy(spec_of(name)), spec_of(f"{name}/cluster")
        head = job["headGroupSpec"]["template"]["spec"]
        (settings,) = (volume for volume in head["volumes"] if volume["name"] == "settings")
        head["volumes"].remove(settings)
        head["containers"][0]["volumeMounts"].remove(
            {"name": "settings", "mountPath": "/etc/ft2ray", "readOnly": True}
        )
        assert job == cluster


@pytest.mark.parametrize("name", SIZES)
def test_the_job_runs_the_settings_that_the_overlay_mounts(name):
    job = ray_manifest(overlay(name))
    shell, script, python, program, config = job["spec"]["entrypoint"].split()
    for file in (script, program):
        assert (ROOT / file).is_file() and f"{file.split('/')[0]} {file.split('/')[0]}" in DOCKERFILE
    head = cluster_spec(job)["headGroupSpec"]["template"]["spec"]
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if config.startswith(m["mountPath"] + "/"))
    (volume,) = (v for v in head["volumes"] if v["name"] == mount["name"])
    (settings,) = of_kind(overlay(name), "ConfigMap")
    assert settings["metadata"]["name"] == volume["configMap"]["name"]
    assert settings["data"] == {
        config.split("/")[-1]: (CLUSTER / "overlays" / name / "align.yaml").read_text()
    }


@pytest.mark.parametrize("name", SIZES)
def test_a_mistake_makes_one_cluster_and_a_lost_head_is_waited_for(name):
    job = ray_manifest(overlay(name))["spec"]
    assert job["backoffLimit"] == 0 and "cluster/attempts.sh" in job["entrypoint"]
    assert job["submitterConfig"]["backoffLimit"] >= 3


@pytest.mark.parametrize("name", SIZES)
def test_shared_folders_are_mounted(name):
    config = load_config(CLUSTER / "overlays" / name / "align.yaml")
    wanted = [config.run_dir, config.generator.weights, config.critic.weights]
    for group in groups(spec_of(name)):
        mounts = [mount["mountPath"] for mount in container(group)["volumeMounts"]]
        for path in wanted:
            assert path == "embedded" or path.startswith(("s3://", *mounts)), path
        if any(path.startswith("s3://") for path in wanted):
            assert container(group)["envFrom"], "no credentials for S3"


@pytest.mark.parametrize("name", ["gpu", *SERVICES])
def test_the_state_of_a_head_outlives_it(name):
    documents = overlay(name)
    (service,), (redis,) = of_kind(documents, "Service"), of_kind(documents, "StatefulSet")
    (port,) = (port["port"] for port in service["spec"]["ports"])
    pod = redis["spec"]["template"]
    assert redis["spec"]["volumeClaimTemplates"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    options = spec_of(name)["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port}"
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    (volume,) = (v for v in pod["spec"]["volumes"] if "secret" in v)
    assert volume["secret"]["secretName"] == secret["name"] and secret["key"] == "password"


def test_the_password_of_redis_is_no_argument_of_a_process():
    (redis,) = of_kind(overlay("gpu"), "StatefulSet")
    only = container(redis["spec"])
    shell, option, script = only["command"]
    assert (shell, option) == ("sh", "-c") and "env" not in only
    started = script.split("exec ")[1].split()
    assert started == ["redis-server", "/tmp/redis.conf"]


def serve_config(name: str) -> dict:
    return yaml.safe_load(ray_manifest(overlay(name))["spec"]["serveConfigV2"])


@pytest.mark.parametrize("name", SERVICES)
def test_the_service_serves_the_config_of_its_overlay(name):
    assert serve_config(name) == yaml.safe_load((CLUSTER / "overlays" / name / "serve.yaml").read_text())


def test_the_service_is_the_platform_beside_where_it_listens_keeps_its_files_and_spreads():
    own, usual = serve_config("cpu/service"), yaml.safe_load((ROOT / "serve" / "platform.yaml").read_text())
    assert own["http_options"].pop("host") == "0.0.0.0" and usual["http_options"].pop("host") == "127.0.0.1"
    for config in (own, usual):
        for application in config["applications"]:
            for key in ("stores", "run_dir", "result_store"):
                application["args"].pop(key, None)
            application.pop("deployments", None)  # how many there are and where, the rest stands in the code
    assert own == usual


def replicas(deployment: dict) -> tuple[int, int]:
    """The fewest and the most."""
    assert "num_replicas" not in deployment, (
        "Serve ignores it: the code says that the deployment scales by load"
    )
    scaling = deployment["autoscaling_config"]
    return scaling["min_replicas"], scaling["max_replicas"]


@pytest.mark.parametrize("name", SERVICES)
def test_all_replicas_fit_the_service_cluster_each_on_a_node_of_its_own(name):
    spec = spec_of(name)
    deployments = [d for app in serve_config(name)["applications"] for d in app["deployments"]]
    for which, nodes in ((1, "maxReplicas"), (0, "minReplicas")):
        (group,) = spec["workerGroupSpecs"]
        for deployment in deployments:
            assert deployment["max_replicas_per_node"] == 1
            assert replicas(deployment)[which] <= group[nodes]
        each = sum(deployment["ray_actor_options"]["num_cpus"] for deployment in deployments)
        memory = sum(deployment["ray_actor_options"]["memory"] for deployment in deployments) / 1e9
        offered = node(group).offers
        assert each <= offered["CPU"] and memory <= offered["memory"], "one replica of each deployment"


@pytest.mark.parametrize("name", SERVICES)
def test_a_drained_worker_is_replaced_first_and_finishes_its_requests(name):
    documents = overlay(name)
    (group,) = spec_of(name)["workerGroupSpecs"]
    assert group["minReplicas"] >= 2 and group["replicas"] >= 2
    assert all(replicas(d)[0] >= 2 for app in serve_config(name)["applications"] for d in app["deployments"])
    template = group["template"]
    (budget,) = of_kind(documents, "PodDisruptionBudget")
    assert budget["spec"]["minAvailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (spread,) = template["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    longest = max(app["args"]["deadline_seconds"] for app in serve_config(name)["applications"])
    command = " ".join(container(group)["lifecycle"]["preStop"]["exec"]["command"])
    (waits,) = map(int, re.findall(r"seq (\d+)", command))
    assert "ray drain-node" in command
    (waited_for,) = re.findall(r"grep -qsE '(.*?)'", command)
    for process in ("ray::ServeReplica:critic:CriticFront", "ray::ProxyActor"):  # of Ray Serve 2.60
        assert re.search(waited_for, process), "answers may still come from it"
    assert longest < waits < template["spec"]["terminationGracePeriodSeconds"]
