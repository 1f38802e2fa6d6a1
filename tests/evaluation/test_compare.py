import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.evaluation.compare import (
    MIN_PROMPTS,
    Row,
    bootstrap_interval,
    compare,
    joint_shares,
    prompt_means,
    reference_figures,
    verdict,
    worst_gain,
)

DIMS = ("mn", "ls", "vq")


def rows_of(table, dimension="ls", seeds=(0,)):
    """{system: [figure per prompt]} -> rows, the same figure for every seed."""
    return [
        Row(system, f"p{i}", seed, {dimension: value})
        for system, values in table.items()
        for i, value in enumerate(values)
        for seed in seeds
    ]


def test_seeds_are_averaged_inside_the_prompt():
    figures = (("p", 0, 0.0), ("p", 1, 1.0), ("q", 0, None))
    rows = [Row("base", prompt, seed, {"ls": value}) for prompt, seed, value in figures]
    assert prompt_means(rows, "base", "ls") == {"p": 0.5}


def test_more_seeds_do_not_narrow_the_interval():
    table = {"base": [0.1, 0.2, 0.3, 0.4, 0.2, 0.3], "tlpo": [0.3, 0.2, 0.5, 0.9, 0.4, 0.1]}
    once, often = (compare(rows_of(table, seeds=s), ["ls"]) for s in ((0,), range(20)))
    assert once["tlpo"]["ls"]["delta_ci95"] == pytest.approx(often["tlpo"]["ls"]["delta_ci95"])


def test_pairing_removes_the_spread_between_prompts():
    base = [float(v) for v in range(8)]
    figures = compare(rows_of({"base": base, "tlpo": [v + 0.1 for v in base]}), ["ls"])["tlpo"]["ls"]
    assert figures["delta_vs_base"] == pytest.approx(0.1)
    assert figures["delta_ci95"] == pytest.approx([0.1, 0.1])
    assert figures["ci95"][1] - figures["ci95"][0] > 2
    assert verdict(figures) == "improved"


def test_missing_figures_stay_missing():
    rows = [*rows_of({"base": [0.1, 0.2]}), Row("tlpo", "p0", 0, {"ls": None}), Row("tlpo", "p1", 0, {})]
    assert compare(rows, ["ls"])["tlpo"]["ls"] == {
        "mean": None,
        "ci95": None,
        "delta_vs_base": None,
        "delta_ci95": None,
    }


def test_one_prompt_has_a_mean_and_no_interval():
    figures = compare(rows_of({"base": [0.1], "tlpo": [0.9]}), ["ls"])["tlpo"]["ls"]
    assert figures["delta_vs_base"] == pytest.approx(0.8)
    assert figures["delta_ci95"] is None and figures["ci95"] is None
    assert verdict(figures) == "not shown"


def test_references_without_a_figure_are_none():
    figures = reference_figures([Row("real_video", "clip", 0, {"ls": 0.4, "mn": -0.2})], DIMS)
    assert figures["real_video"]["ls"]["mean"] == pytest.approx(0.4)
    assert figures["real_video"]["vq"] is None and figures["wrong_audio"]["ls"] is None


def test_interval_covers_the_true_mean_with_six_prompts():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        values = generator.normal(0.3, 1.0, 6).tolist()
        low, high = compare(rows_of({"base": values}), ["ls"])["base"]["ls"]["ci95"]
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 300 <= 0.99


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(0.01, 0.5))
def test_a_constant_gain_is_found_in_every_prompt(base, gain):
    rows = [
        Row(system, f"p{i}", 0, dict.fromkeys(("mn", "ls", "vq"), value + shift))
        for system, shift in (("base", 0.0), ("tlpo", gain))
        for i, value in enumerate(base)
    ]
    assert joint_shares(rows, "tlpo", DIMS) == {"jdr": 1.0, "jcr": 0.0, "n": len(base)}
    assert compare(rows, DIMS)["tlpo"]["mn"]["delta_vs_base"] == pytest.approx(gain)


def test_worst_gain_takes_the_weakest_dimension_in_units_of_the_base():
    rows = []
    for i, spread in enumerate((-1.0, 1.0, -1.0, 1.0, -1.0, 1.0)):
        rows.append(Row("base", f"p{i}", 0, {"mn": spread, "ls": 10 * spread, "vq": spread}))
        rows.append(Row("tlpo", f"p{i}", 0, {"mn": spread + 1, "ls": 10 * spread + 5, "vq": spread + 1}))
        rows.append(Row("uniform", f"p{i}", 0, {"mn": spread + 3, "ls": 10 * spread + 1, "vq": spread + 3}))
    figures = worst_gain(rows, "tlpo", ["uniform", "dpo_sum"], DIMS)
    assert figures["value"] == pytest.approx(0.5)
    assert figures["versus"]["uniform"]["rival_value"] == pytest.approx(0.1)
    assert figures["versus"]["uniform"]["ci95"] == pytest.approx([0.4, 0.4])
    assert "dpo_sum" not in figures["versus"]


def test_no_base_is_an_error_that_names_what_is_there():
    with pytest.raises(ValueError, match="tlpo"):
        compare(rows_of({"tlpo": [0.1]}), ["ls"])


def test_fewer_prompts_than_six_have_no_interval():
    few = [float(v) for v in range(MIN_PROMPTS - 1)]
    figures = compare(rows_of({"base": few, "tlpo": [v + 1 for v in few]}), ["ls"])["tlpo"]["ls"]
    assert figures["delta_vs_base"] == pytest.approx(1)
    assert figures["delta_ci95"] is None and verdict(figures) == "not shown"
    assert bootstrap_interval(np.zeros(10), MIN_PROMPTS - 1) is None


def test_trainings_that_differ_widen_the_interval():
    def gains(spread):
        rows = rows_of({"base": [0.0] * 8})
        for training in range(3):
            values = [1 + 0.1 * i + spread * (training - 1) for i in range(8)]
            rows += [Row("tlpo", f"p{i}", 0, {"ls": v}, training) for i, v in enumerate(values)]
        low, high = compare(rows, ["ls"])["tlpo"]["ls"]["delta_ci95"]
        return high - low

    assert gains(0.5) > 2 * gains(0.0) > 0
