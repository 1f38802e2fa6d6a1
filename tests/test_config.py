import dataclasses

import pytest
import yaml

from ft2ray.config import AlignConfig, load_config, to_dict, to_yaml


def test_the_resolved_yaml_loads_back_to_the_same_configuration(tmp_path):
    config = load_config(
        None, ["tlpo.steps=7", "evaluation.seeds=[3,4]", "cluster.address=auto", "tlpo.sdpo_mu=0.9"]
    )
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    assert config.tlpo.steps == 7 and config.evaluation.seeds == (3, 4) and config.tlpo.sdpo_mu == 0.9


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"tlpo": {"steps": 5, "rank": 4}}))
    config = load_config(file, ["tlpo.steps=6"])
    assert (config.tlpo.steps, config.tlpo.rank) == (6, 4)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("tlpo.stepz=5", "did you mean tlpo.steps?"),
        ("tlop.steps=5", "did you mean tlpo?"),
        ("tlpo.steps=many", "tlpo.steps must be int"),
        ("tlpo.steps=true", "tlpo.steps must be int"),
        ("tlpo=5", "is a section"),
        ("tlpo", "not of the form"),
        ("seed.deeper=5", "seed must be int"),
        ("tlpo.loss=kto", "tlpo.loss must be dpo, ipo or simpo"),
        ("curation.candidates=1", "curation.candidates must be at least 2"),
    ],
)
def test_mistakes_are_refused_by_name(override, says):
    with pytest.raises(ValueError, match=says.replace("?", r"\?")):
        load_config(None, [override])


def test_a_missing_or_broken_file_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        load_config(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_config(broken)
    broken.write_text("- 1")
    with pytest.raises(ValueError, match="must hold a mapping"):
        load_config(broken)


def test_floats_may_be_written_as_integers_or_in_exponent_form():
    config = load_config(None, ["tlpo.beta=100", "tlpo.learning_rate=1e-4"])
    assert config.tlpo.beta == 100.0 and isinstance(config.tlpo.beta, float)
    assert config.tlpo.learning_rate == 1e-4


def test_the_configuration_is_frozen_and_plain():
    config = AlignConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1  # type: ignore[misc]
    assert yaml.safe_load(to_yaml(config)) == to_dict(config)
