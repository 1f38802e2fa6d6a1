import sys

import pytest

from ft2ray.critic.base import Critic
from ft2ray.errors import ConfigurationError
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.loaders import critic_card, generator_fingerprint, load_critic, load_generator, load_viewer
from ft2ray.storage import upload_folder
from tests.conftest import ASSETS


class Mine(Critic):
    fingerprint, dimensions, viewer = "mine", ("sharp", "calm"), object()

    @classmethod
    def load(cls) -> Critic:
        return cls()

    def score(self, views):
        raise AssertionError


def made() -> Critic:
    return Mine()


def neither() -> str:
    return "my own"


def test_embedded_folder_or_factory():
    generator = load_generator("embedded")
    assert isinstance(generator, PortraitGenerator)
    assert generator.fingerprint == generator_fingerprint("embedded")
    assert isinstance(load_critic(f"{__name__}:Mine.load", allow_code=True), Mine)


def test_a_critic_is_known_without_its_network(monkeypatch):
    critic = load_critic("embedded")
    monkeypatch.setattr(
        "ft2ray.critic.talking.critic.build_model", lambda config: pytest.fail("the network was built")
    )
    card = critic_card("embedded")
    assert (card.fingerprint, card.dimensions) == (critic.fingerprint, critic.dimensions)
    assert card.calibration == critic.calibration and set(card.calibration["n"]) == set(card.dimensions)
    own = critic_card(f"{__name__}:Mine", allow_code=True)
    assert (own.fingerprint, own.dimensions, own.calibration) == ("mine", ("sharp", "calm"), None)


@pytest.mark.parametrize("name", ["Mine", "Mine.load", "made"])
def test_a_viewer_is_that_of_the_critic_itself(name):
    assert load_viewer(f"{__name__}:{name}", allow_code=True) is Mine.viewer
    assert load_viewer("embedded") is load_critic("embedded").viewer


@pytest.mark.parametrize(
    "load", [load_generator, load_critic, load_viewer, critic_card, generator_fingerprint]
)
def test_code_is_not_imported_without_permission(load, tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('this was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=r"weights names code, trap:boom.*--allow-code"):
        load("trap:boom")
    assert "trap" not in sys.modules


@pytest.mark.parametrize("load", [load_generator, load_critic])
def test_a_factory_of_something_else_is_one_sentence(load):
    with pytest.raises(ConfigurationError, match="gave a str; it must give a subclass of ft2ray"):
        load(f"{__name__}:neither", allow_code=True)


@pytest.mark.parametrize("weights", ["absent.module:Thing", f"{__name__}:Absent", f"{__name__}:Mine.absent"])
def test_a_factory_that_is_not_there_is_one_sentence(weights):
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_critic(weights, allow_code=True)


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


def test_the_packaged_names_are_those_that_the_generator_knows():
    from ft2ray.generator.portrait import generator
    from ft2ray.loaders import PACKAGED

    assert set(PACKAGED) == set(generator.PACKAGED)
