"""What is looked for before anything starts."""

import pytest

from ft2ray.checks import check_weights
from ft2ray.config import load_config
from ft2ray.errors import WeightsError


@pytest.mark.parametrize("setting", ["generator.weights", "critic.weights"])
def test_missing_weights_are_named_without_a_node(setting, tmp_path):
    with pytest.raises(WeightsError, match=rf"{setting}: {tmp_path}/nope holds no .safetensors"):
        check_weights(load_config(None, [f"{setting}={tmp_path}/nope"]))


def test_weights_that_are_there_and_names_are_left_alone(tmp_path):
    (tmp_path / "a.safetensors").touch()
    check_weights(load_config(None, [f"generator.weights={tmp_path}", "critic.weights=Qwen/Qwen2.5-Omni-7B"]))
    check_weights(load_config(None, ["critic.weights=tests.parts:Critic"]))
