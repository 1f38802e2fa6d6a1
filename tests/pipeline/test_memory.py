"""Memory that a pool asks for: measured for the embedded models, else from the size of the weights."""

import pytest

from ft2ray.config import load_config
from ft2ray.pipeline.memory import EMBEDDED, PROCESS, with_memory


@pytest.fixture
def weights(tmp_path):
    """A folder of 3 GB, on paper."""
    for name in ("transformer/a.safetensors", "vae/b.safetensors"):
        file = tmp_path / "weights" / name
        file.parent.mkdir(parents=True)
        with file.open("wb") as stream:
            stream.truncate(1_500_000_000)
    return str(tmp_path / "weights")


def memory(*settings: str) -> dict[str, float]:
    pools = with_memory(load_config(None, settings)).resources.pools
    return {name: getattr(pools, name).memory for name in ("generators", "critic", "training")}


def test_the_embedded_models_were_measured():
    assert memory() == EMBEDDED


def test_weights_of_yours_are_weighed(weights):
    told = memory(f"generator.weights={weights}")
    assert told["generators"] == pytest.approx(PROCESS + 3.0)
    assert told["training"] == pytest.approx(PROCESS + 6.0)
    assert told["critic"] == EMBEDDED["critic"]


def test_a_setting_is_never_overruled(weights):
    told = memory(f"generator.weights={weights}", "resources.pools.training.memory=40")
    assert told["training"] == 40.0 and told["generators"] == pytest.approx(PROCESS + 3.0)


def test_memory_changes_nothing_that_is_learnt():
    from ft2ray.rounds.schedule import training_key

    plain = load_config(None, [])
    assert training_key(plain, "g", "c", []) == training_key(with_memory(plain), "g", "c", [])
