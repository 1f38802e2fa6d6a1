"""`build` returns no application that could not serve: what is served already goes on."""

import pytest

from ft2ray.errors import ConfigurationError, StoreRefused, UserError, WeightsError
from ft2ray.serving import critic, generator
from ft2ray.serving.settings import CriticServeConfig, GeneratorServeConfig


def test_weights_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=f"{tmp_path}/nope"):
        critic.build(CriticServeConfig(weights=f"{tmp_path}/nope"))
    with pytest.raises(WeightsError, match=f"{tmp_path}/nope"):
        generator.build(GeneratorServeConfig(weights=f"{tmp_path}/nope"))


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}/nope"):
        generator.build(GeneratorServeConfig(run_dir=f"{tmp_path}/nope"))


@pytest.mark.parametrize("role", ["stores", "result_store"])
def test_stores_that_are_not_there_are_refused(tmp_path, role):
    missing = f"{tmp_path}/nope"
    settings = GeneratorServeConfig(**{role: (missing,) if role == "stores" else missing})
    with pytest.raises(ConfigurationError, match=f"the store {missing} is not a folder"):
        generator.build(settings)
    (tmp_path / "nope").mkdir()
    assert generator.build(settings) is not None


def test_a_token_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="token_file .* cannot be read"):
        critic.build(CriticServeConfig(token_file=f"{tmp_path}/nope"))


def test_a_bucket_that_is_not_there_is_refused(s3):
    with pytest.raises(StoreRefused, match="there is no bucket no-such-bucket"):
        critic.build(CriticServeConfig(stores=("s3://no-such-bucket/clips",)))
