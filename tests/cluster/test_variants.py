"""What the steps on a real cluster apply is accepted like the overlays, and says what the step is about."""

import pytest
import yaml

from tests.cluster import variants
from tests.cluster.conftest import cluster_spec, container, groups, of_kind, ray_manifest
from tests.cluster.test_manifests import refused

VARIANTS = {
    "job": lambda: variants.job("again", "registry/ft2ray:1.0", run_dir="/runs/again"),
    "mistake": lambda: variants.job("mistake", tlpo__steps="twenty"),
    "no weights": lambda: variants.job("weights", generator__weights="/models/nope"),
    "little memory": lambda: variants.with_memory(variants.job("little"), "900Mi", 4_000_000_000),
    "service": lambda: variants.service("registry/ft2ray:1.0", deadline=50),
    "broken service": lambda: variants.service(weights="/models/nope"),
    "client": lambda: [
        variants.pod("client", "i:1", variants.CLIENT, {"a": "b"}, {"URL": "http://s"}, {"TOKEN": ("s", "t")})
    ],
}


@pytest.mark.parametrize("name", VARIANTS)
def test_it_would_be_accepted(name, schemas):
    for document in VARIANTS[name]():
        assert refused(document, schemas) == [], document["metadata"]["name"]


def test_another_image_is_in_every_pod():
    manifest = ray_manifest(VARIANTS["job"]())
    submitter = {"template": manifest["spec"]["submitterPodTemplate"]}
    pods = [*groups(cluster_spec(manifest)), submitter]
    assert {container(each)["image"] for each in pods} == {"registry/ft2ray:1.0"}


def test_settings_and_names_are_changed():
    documents = VARIANTS["job"]()
    (settings,) = of_kind(documents, "ConfigMap")
    assert yaml.safe_load(settings["data"]["align.yaml"])["run_dir"] == "/runs/again"
    assert settings["metadata"]["name"] == ray_manifest(documents)["metadata"]["name"] == "again"


@pytest.mark.parametrize("program", [variants.CLIENT, variants.PROBE])
def test_programs_compile(program):
    compile(program, "program", "exec")
