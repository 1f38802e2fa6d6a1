import math
import typing
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from ft2ray.config import AlignConfig, load_config, to_dict, to_yaml
from ft2ray.errors import ConfigurationError
from ft2ray.serving.settings import CriticServeConfig, GeneratorServeConfig
from ft2ray.settings import Settings
from tests.conftest import ROOT


def test_the_resolved_yaml_loads_back_to_the_same_configuration(tmp_path):
    config = load_config(
        None,
        ["tlpo.steps=7", "evaluation.seeds=[3,4]", "resources.address=auto", "tlpo.loss.safeguard_mu=0.9"],
    )
    file = tmp_path / "c.yaml"
    file.write_text(to_yaml(config))
    assert load_config(file) == config
    assert (
        config.tlpo.steps == 7 and config.evaluation.seeds == (3, 4) and config.tlpo.loss.safeguard_mu == 0.9
    )


def test_overrides_win_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"tlpo": {"steps": 5, "experts": {"rank": 4}}}))
    config = load_config(file, ["tlpo.steps=6"])
    assert (config.tlpo.steps, config.tlpo.experts.rank) == (6, 4)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("tlpo.stepz=5", "did you mean tlpo.steps?"),
        ("tlop.steps=5", "did you mean tlpo?"),
        ("tlpo.steps=many", "tlpo.steps must be a valid integer"),
        ("tlpo.steps=true", "tlpo.steps must be a valid integer"),
        ("tlpo=5", "is a section"),
        ("tlpo", "not of the form"),
        ("seed.deeper=5", "goes below a plain value"),
        ("tlpo.loss.kind=kto", "tlpo.loss.kind must be 'dpo', 'ipo', 'simpo' or 'nft'"),
        ("curation.candidates=1", "curation.candidates must be greater than or equal to 2"),
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
    config = load_config(None, ["tlpo.loss.beta=100", "tlpo.optimizer.learning_rate=1e-4"])
    beta = config.tlpo.loss.beta
    assert beta == 100.0 and isinstance(beta, float)
    assert config.tlpo.optimizer.learning_rate == 1e-4


def test_the_configuration_is_frozen_and_plain():
    config = AlignConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1  # type: ignore[misc]
    assert yaml.safe_load(to_yaml(config)) == to_dict(config)


def test_text_settings_are_taken_as_they_are():
    for text in ("my photos #2", "@x", "*x", "[x] photos", "a=b", "%x", "yes", "2024", "null folder"):
        assert load_config(None, [f"prompts.portraits={text}"]).prompts.portraits == text
    assert load_config(None, ["resources.pools.critic.on=pool=a"]).resources.pools.critic.selector == {
        "pool": "a"
    }
    assert load_config(None, ["resources.address=null"]).resources.address is None


def test_an_override_of_one_pool_keeps_the_defaults_of_that_pool():
    pools = load_config(None, ["resources.pools.critic.count=3"]).resources.pools
    assert pools.critic == AlignConfig().resources.pools.critic.replaced(count=3)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_other_encodings_are_read_where_they_say_so(tmp_path, encoding):
    file = tmp_path / "c.yaml"
    file.write_bytes("run_dir: läufe".encode(encoding))
    assert load_config(file).run_dir == "läufe"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"run_dir: l\xe4ufe", "c.yaml is not utf-8 text; save it as UTF-8"),
        (b"tlpo: {steps: 3}\ntlpo: {batch: 2}", "key tlpo occurs twice"),
        (b"tlpo: {steps: 3, steps: 4}", "key steps occurs twice"),
        (b"tlpo: {stepz: 3}", "did you mean tlpo.steps"),
        (b"tlpo: 3", "c.yaml: tlpo is a section"),
        (b"? [a, b]\n: 1", "c.yaml is not valid YAML: a key must be text"),
        (b"[" * 5000, "c.yaml is not valid YAML"),
        (b"seed: " + b"9" * 5000, "c.yaml is not valid YAML"),
        (b"seed: 1\n---\nseed: 2", "c.yaml is not valid YAML"),
        (b"seed: 1:30", "seed must be a valid integer, got '1:30'"),
        (b"seed: 1_000", "seed must be a valid integer"),
        (b"seed: 0x10", "seed must be a valid integer"),
        (b"seed: 2024-01-01", "seed must be a valid integer"),
        (b"seed: trueish", "seed must be a valid integer"),
        (b'run_dir: "a\\0b"', "run_dir: must not hold a zero byte"),
        (b"run_dir: ''", "run_dir: must not be empty"),
    ],
)
def test_what_a_file_cannot_say_is_named(tmp_path, data, says):
    file = tmp_path / "c.yaml"
    file.write_bytes(data)
    with pytest.raises(ConfigurationError, match=says):
        load_config(file)


def test_the_text_of_a_file_is_taken_as_it_stands_there(tmp_path):
    file = tmp_path / "c.yaml"
    for text in ("2024", "2024-01-01", "1:30", "1e3", "010", "true", "yes", "0x1f", "1.5 photos", "trueish"):
        file.write_text(f"prompts:\n  portraits: {text}\n")
        config = load_config(file)
        assert config.prompts.portraits == text
        file.write_text(to_yaml(config))
        assert load_config(file) == config
        assert yaml.safe_load(to_yaml(config))["prompts"]["portraits"] == text, "by YAML 1.1 too"


def test_a_number_is_decimal():
    assert load_config(None, ["seed=010"]).seed == 10


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    file = tmp_path / "c.yaml"
    lists = [f"&{b} [{', '.join(['*' + a] * 10)}]" for a, b in pairwise("abcdefghijklmnop")]
    file.write_text(f"seed: [&a [1], {', '.join(lists)}]")
    with pytest.raises(ConfigurationError) as caught:
        load_config(file)
    assert len(str(caught.value)) < 5000 and "seed must be a valid integer" in str(caught.value)


def test_an_override_that_is_given_twice_is_refused():
    with pytest.raises(ConfigurationError, match="tlpo.steps=5 and tlpo.steps=6 are given; leave one out"):
        load_config(None, ["tlpo.steps=5", "seed=1", "tlpo.steps=6"])
    with pytest.raises(ConfigurationError, match="leave one out"):
        load_config(None, ["seed=1", "seed=1"])


def test_an_empty_section_is_the_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("prompts:\n  # seconds: 2\nseed: 4\n")
    assert load_config(file) == AlignConfig(seed=4)


def test_words_that_yaml_1_1_takes_for_truth_values_are_text(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("resources: {pools: {training: {on: pool=no}}}\ntlpo: {optimizer: {learning_rate: 1e-4}}")
    config = load_config(file)
    assert config.resources.pools.training.on == "pool=no" and config.tlpo.optimizer.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tlpo.loss.beta=.nan"], "tlpo.loss.beta must be a finite number"),
        (["prompts.seconds=0.5"], "prompts.seconds must be greater than or equal to 1"),
        (["evaluation.systems=[tlpo]"], "a list with base in it"),
        (["evaluation.systems=[base, expert_xx]"], "no system expert_xx; there are base, expert_mn"),
        (["tlpo.baseline=false", "evaluation.systems=[base, dpo_sum]"], "no system dpo_sum"),
        (["tlpo.batch=3"], "tlpo.batch 3 must be a multiple of resources.pools.training.count 2"),
        (["schedule.rounds=50"], "must be at most tlpo.steps 40"),
        (["dimensions=[{name: a, title: a, question: b, mask: x}]"], "mask"),
        (["dimensions=[mn, xx]"], "'xx' is not one of mn, ls, vq; give your own with its name"),
        (["dimensions=[mn, mn]"], "a name occurs twice in mn, mn"),
        (["dimensions=[]"], "dimensions"),
        (["dimensions=[{name: calm, title: calm}]"], "question"),
        (["dimensions=[{name: sum, title: a, question: b}]"], "sum means something else"),
        (["dimensions=[{name: a b, title: a, question: b}]"], "name"),
        (["dimensions=[{name: a, title: a, question: b, metric: x}]"], "metric"),
        (["resources.address=nonsense"], "neither auto nor host:port"),
        (["seed=-1"], "seed must be greater than or equal to 0"),
        (["evaluation.seeds=[0, 9999999999999999999]"], "evaluation.seeds: must be less than 2"),
        (["evaluation.seeds=[1, 1]"], "holds a value twice"),
        (["evaluation.systems=[base, base]"], "holds a value twice"),
        (["curation.vary.audio_scale=[1, 1]"], "holds a value twice"),
        (["prompts.seconds=301"], "at most max_recording_seconds 300"),
        (["prompts.hop_seconds=1e-9"], "prompts.hop_seconds must be greater"),
        (["prompts.portraits="], "prompts.portraits"),
        (["run_dir= "], "run_dir"),
        (["generator.weights="], "generator.weights"),
        (["generator.size=257"], "generator.size must be a multiple of 2"),
        (["generator.size=1000000"], "generator.size must be less than"),
        (["resources.pools.training.gpus=1.5"], "whole cards"),
        (["tlpo.experts.targets=blocks.("], "is not a regular expression"),
        (["tlpo.gate.mode=segments", "tlpo.gate.order=[0, 1, 3]"], "of the 3 experts, got"),
        (["tlpo.gate.mode=segments", "tlpo.gate.boundaries=[0.5]"], "1 boundaries need 2 of the 3 experts"),
        (["pairs.margin=30"], "margin 30 leaves no pair"),
        (["pairs.margin=1.1", "pairs.margin_space=p"], "margin 1.1 leaves no pair"),
    ],
)
def test_values_and_combinations_that_cannot_work_are_refused(overrides, says):
    with pytest.raises(ConfigurationError, match=says):
        load_config(None, overrides)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tlpo.loss.gamma=0.5"], "gamma is the target margin of simpo; dpo has none"),
        (["tlpo.gate.order=[2, 1, 0]"], "boundaries and order are of the mode segments"),
        (["tlpo.gate.mode=layer", "tlpo.gate.shared=true"], "shared is of the mode full"),
        (["pairs.max_pairs=3"], "max_pairs is of the kind all"),
        (["tlpo.draws.mean=1"], "mean and std are of logit_normal"),
        (["resources.compute.offload=true"], "offload needs zero_stage"),
    ],
)
def test_settings_without_effect_are_refused(overrides, says):
    with pytest.raises(ConfigurationError, match=says):
        load_config(None, overrides)


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.name)
def test_the_presets_load(file):
    assert load_config(file).run_dir.startswith("runs/")


def test_knobs_of_every_owner_are_reachable():
    config = load_config(
        None,
        [
            "tlpo.loss.kind=simpo",
            "tlpo.loss.gamma=0.5",
            "tlpo.gate.mode=segments",
            "tlpo.gate.boundaries=[0.3, 0.6]",
            "tlpo.gate.order=[2, 1, 0]",
            "tlpo.draws.timestep=logit_normal",
            "tlpo.draws.mean=0.3",
            "tlpo.draws.std=0.8",
            "pairs.kind=all",
            "pairs.max_pairs=4",
            "pairs.full_strict=true",
            "pairs.full_tolerance=0.1",
            r"tlpo.experts.targets=blocks\.\d+\.attn1\.to_q",
            "tlpo.optimizer.max_norm=0.3",
            "generator.sampling.window=40",
            "generator.sampling.overlap=9",
        ],
    )
    assert config.tlpo.experts.targets == r"blocks\.\d+\.attn1\.to_q"
    assert config.tlpo.gate.order == (2, 1, 0) and config.pairs.full_tolerance == 0.1


# Where 0 is a choice ("no retries"), and where negative numbers are one.
POOLS = [f"resources.pools.{pool}" for pool in ("generators", "critic", "training")]
MAY_BE_ZERO = {
    *("seed", "evaluation.seeds", "evaluation.report_videos", "critic.retries", "pairs.margin"),
    *("pairs.full_tolerance", "schedule.max_staleness", "tlpo.gate_steps", "tlpo.gate_groups"),
    *("tlpo.loss.anchor", "tlpo.loss.safeguard_mu", "tlpo.loss.winner_weight", "tlpo.gate.order"),
    *("resources.compute.zero_stage", "tlpo.draws.drop_conditions", "waiting", "retry_after_seconds"),
    *(f"{pool}.{what}" for pool in POOLS for what in ("cpus", "gpus")),
}
MAY_BE_NEGATIVE = {
    *("generator.sampling.text_scale", "generator.sampling.audio_scale", "curation.vary.audio_scale"),
    *("tlpo.draws.mean", "tlpo.loss.gamma"),
}
TOGETHER = {  # what a setting has no effect without
    "tlpo.draws.mean": {"timestep": "logit_normal"},
    "tlpo.loss.gamma": {"kind": "simpo"},
    "tlpo.gate.order": {"mode": "segments"},
    "tlpo.gate.boundaries": {"mode": "segments"},
    "tlpo.draws.std": {"timestep": "logit_normal"},
    "pairs.max_pairs": {"kind": "all"},
}


def numbers(settings: type[Settings], prefix: str = "") -> Iterator[tuple[str, type[Settings], str, bool]]:
    """Every numeric setting: its full name, its class, its name there, whether it is a list."""
    for name, hint in typing.get_type_hints(settings).items():
        parts = _parts(hint)
        if isinstance(hint, type) and issubclass(hint, Settings):
            yield from numbers(hint, f"{prefix}{name}.")
        elif name in settings.model_fields and {int, float} & parts:
            yield prefix + name, settings, name, tuple in parts


def _parts(hint: Any) -> set[Any]:
    """The plain types that a type hint is made of."""
    if typing.get_origin(hint) is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    inner = [_parts(part) for part in typing.get_args(hint)]
    return {hint, typing.get_origin(hint)}.union(*inner)


NUMBERS = {
    name: rest
    for config in (AlignConfig, CriticServeConfig, GeneratorServeConfig)
    for name, *rest in numbers(config)
}


def test_the_walk_meets_every_room():
    assert len(NUMBERS) > 70
    assert {name.split(".")[0] for name in NUMBERS} >= {*AlignConfig.model_fields} - {"run_dir", "dimensions"}
    assert set(NUMBERS) >= MAY_BE_ZERO | MAY_BE_NEGATIVE, "a name here is that of no setting any more"


@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_that_cannot_work_gets_through(name):
    """NaN, infinities, what no machine counts, 0, negative, text, truth values."""
    settings, field, is_list = NUMBERS[name]

    def accepted(value: Any) -> bool:
        try:
            settings.model_validate({field: [value] if is_list else value} | TOGETHER.get(name, {}))
        except ValidationError:
            return False
        return True

    for value in (math.nan, math.inf, -math.inf, 10**400, "1", "", True, [1], {}):
        assert not accepted(value), value
    negative = name in MAY_BE_NEGATIVE
    assert accepted(-1) == negative
    assert accepted(0) == (name in MAY_BE_ZERO or negative)
