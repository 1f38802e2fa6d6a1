"""Image and lock files: what is installed is pinned, hashed and from one index at a time."""

import re
import tomllib

import pytest
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.cluster.conftest import CLUSTER, ROOT

LOCKS = {name: ROOT / f".ci/locks/{name}.txt" for name in ("torch-cpu", "torch-cuda", "runtime", "dev")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def steps(tmp_path_factory) -> list[dict]:
    parser = DockerfileParser(str(tmp_path_factory.mktemp("image")))
    parser.content = (CLUSTER / "Dockerfile").read_text()
    return parser.structure


def values(steps: list[dict], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


def pinned(name: str) -> dict[str, list[Requirement]]:
    """The requirements of a lock file by name; each has hashes."""
    found: dict[str, list[Requirement]] = {}
    for block in re.split(r"\n(?=\S)", LOCKS[name].read_text().strip()):
        first, *hashes = (line.strip().removesuffix("\\").strip() for line in block.splitlines())
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), first
        requirement = Requirement(first)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def wanted(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for, its own extras resolved."""
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, texts):
        own = requirement.name == PROJECT["name"]
        found += wanted(*requirement.extras) if own else [requirement]
    return found


def version(requirement: Requirement) -> Version:
    (pin,) = requirement.specifier
    assert pin.operator == "=="
    return Version(pin.version)


@pytest.mark.parametrize("extras", [("all",), ("all", "dev")], ids=["image", "tests"])
def test_what_pyproject_asks_for_is_locked(extras):
    """Where this fails: `make locks`."""
    locked = pinned("torch-cuda") | pinned("runtime") | (pinned("dev") if "dev" in extras else {})
    for requirement in wanted(*extras):
        pins = locked.get(canonicalize_name(requirement.name), [])
        assert pins, f"{requirement} is not locked"
        assert all(version(pin) in requirement.specifier for pin in pins), f"{pins} for {requirement}"


def test_no_package_is_locked_twice_and_no_index_is_named():
    names = [name for lock in LOCKS for name in pinned(lock)]
    assert {name for name in names if names.count(name) > 1} == {"torch"}
    for file in LOCKS.values():
        assert not re.search(r"https?://|--index|--extra|--find|file:", file.read_text()), file


def test_the_image_for_cpus_goes_without_cuda_and_jax():
    assert list(pinned("torch-cpu")) == ["torch"]
    (cpu,), (cuda,) = pinned("torch-cpu")["torch"], pinned("torch-cuda")["torch"]
    assert version(cpu).local == "cpu" and version(cpu).public == version(cuda).public
    for name in pinned("runtime"):
        assert not re.match(r"nvidia-|cuda-|triton|jax", name), name
    assert {"nvidia-cudnn-cu13", "triton"} <= set(pinned("torch-cuda"))


def test_pip_installs_locked_files_from_one_index_at_a_time(steps):
    commands = [c for value in values(steps, "RUN") for c in value.split("&&") if "pip install" in c]
    assert len(commands) == 3
    for command in commands:
        assert "--extra-index-url" not in command and "--find-links" not in command
        assert "--no-deps" in command and "--no-cache-dir" in command
        assert "--require-hashes" in command or command.split()[-2:] == ["-e", "."]
    makefile = (ROOT / "Makefile").read_text()
    for lock in LOCKS:
        assert f"locks/{lock}.txt" in makefile, "CI does not install what the image installs"


def test_the_image_runs_as_a_user_whose_home_can_be_written_to(steps):
    assert values(steps, "USER")[-1] == "ray"
    assert re.search(r"\bHOME=/tmp\b", " ".join(values(steps, "ENV")))


def test_the_image_says_what_it_is(steps):
    labels = " ".join(values(steps, "LABEL"))
    for name in ("title", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{name}=" in labels
    arguments = dict(value.split("=", 1) for value in values(steps, "ARG") if "=" in value)
    assert arguments["FT2RAY_VERSION"] == PROJECT["version"]
    assert f'"{PROJECT["license"]}"' in labels


def test_what_is_copied_is_sent_to_the_builder(steps):
    sent = (ROOT / ".dockerignore").read_text().split()
    for value in values(steps, "COPY"):
        for source in value.split()[1:-1]:
            assert f"!{source}" in sent and (ROOT / source).exists(), source
