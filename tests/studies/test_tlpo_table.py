"""The study's table: paired differences, intervals that are refused for few prompts, joint rates."""

import numpy as np
import pytest

from studies.tlpo_table import DIMENSIONS, interval, table


def rows(system, values, prompts=8):
    return [
        {"system": system, "seed": 0, "prompt": f"p{n}", "noise": i, "displacement": 0.1}
        | {k: n + i + value for k, value in zip(DIMENSIONS, values, strict=True)}
        for n in range(prompts)
        for i in range(2)
    ]


def test_differences_are_paired_by_prompt_and_the_worst_dimension_counts():
    found = table(rows("base", (0, 0, 0)) + rows("tlpo", (1, 2, -1)) + rows("curated", (1, 1, 1)))
    system = found["systems"]["tlpo"]
    for name, value in zip(DIMENSIONS, (1, 2, -1), strict=True):
        difference = system["difference"][name]
        assert difference["mean"] == difference["low"] == difference["high"] == pytest.approx(value)
    assert system["least_in_spread_of_base"] == pytest.approx(-1 / found["spread_of_base"]["vq"])
    assert system["joint"] == {"better": 0.0, "worse": 0.0}
    assert found["references"]["curated"]["joint"]["better"] == 1 and "curated" not in found["systems"]


def test_an_interval_of_few_prompts_is_refused_and_one_of_many_holds_the_mean():
    assert interval(np.arange(5.0))["low"] is None
    rng = np.random.default_rng(0)
    held = [i["low"] < 0 < i["high"] for i in (interval(rng.standard_normal(8)) for _ in range(400))]
    assert 0.92 < np.mean(held) < 0.98
