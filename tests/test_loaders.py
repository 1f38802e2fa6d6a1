import pytest

from ft2ray.generator.portrait.generator import Generator
from ft2ray.loaders import critic_identity, generator_fingerprint, load_critic, load_generator
from ft2ray.storage import upload_folder
from tests.conftest import ASSETS


class Mine:
    @classmethod
    def load(cls) -> str:
        return "my own"


def test_embedded_folder_or_factory():
    generator = load_generator("embedded")
    assert isinstance(generator, Generator) and generator.fingerprint == generator_fingerprint("embedded")
    assert load_critic(f"{__name__}:Mine.load") == "my own"


class MyCritic:
    fingerprint, dimensions = "mine", ("sharp", "calm")


def test_a_critic_is_known_without_its_network(monkeypatch):
    critic = load_critic("embedded")
    monkeypatch.setattr(
        "ft2ray.critic.talking.critic.build_model", lambda config: pytest.fail("the network was built")
    )
    assert critic_identity("embedded") == (critic.fingerprint, critic.dimensions)
    assert critic_identity(f"{__name__}:MyCritic") == ("mine", ("sharp", "calm"))


@pytest.mark.parametrize("weights", ["absent.module:Thing", f"{__name__}:Absent", f"{__name__}:Mine.absent"])
def test_a_factory_that_is_not_there_is_one_sentence(weights):
    with pytest.raises(ValueError, match="can not be loaded"):
        load_critic(weights)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_generator(str(tmp_path))
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_critic(str(tmp_path))


def test_weights_on_s3_are_those_that_were_uploaded(s3):
    for name, load in (("base", load_generator), ("critic", load_critic)):
        upload_folder(ASSETS / name, f"{s3}/{name}", last="config.json")
        assert load(f"{s3}/{name}").fingerprint == load("embedded").fingerprint
        with pytest.raises(ValueError, match=f"{s3}/{name}/nothing: there are no files"):
            load(f"{s3}/{name}/nothing")
