"""The study's table: paired differences, intervals that are refused for few prompts, joint rates."""

import numpy as np
import pytest

from studies.tlpo_table import DIMENSIONS, RULES, chosen_strength, interval, margin, table

KEYS = tuple(dict.fromkeys((*DIMENSIONS, *RULES)))


def rows(system, values, prompts=8, split="test", strength=1.0, seed=0):
    """`values`: by which every dimension's figure exceeds the base's."""
    gain = dict.fromkeys(RULES, 0.0) | dict(zip(DIMENSIONS, values, strict=True))
    place = {"system": system, "seed": seed, "split": split, "strength": strength, "displacement": 0.1}
    return [
        place | {"prompt": f"p{n}", "noise": i} | {key: n + i + gain[key] for key in KEYS}
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
    assert system["least_by_rules"] == pytest.approx(-1 / found["spread_of_base"]["vq"])
    assert system["joint"] == {"better": 0.0, "worse": 0.0}
    assert found["references"]["curated"]["joint"]["better"] == 1 and "curated" not in found["systems"]


def test_what_is_recovered_is_a_share_of_what_curation_gives():
    found = rows("base", (0, 0, 0)) + rows("tlpo_offline", (0, 1, 0)) + rows("curated", (0, 4, 0))
    share = table(found)["recovered"]["tlpo_offline"]
    assert share["mean"] == share["low"] == share["high"] == pytest.approx(0.25)


def test_an_interval_of_few_prompts_is_refused_and_one_of_many_holds_the_mean():
    assert interval(np.arange(5.0)[None])["low"] is None
    rng = np.random.default_rng(0)
    held = [i["low"] < 0 < i["high"] for i in (interval(rng.standard_normal((1, 8))) for _ in range(400))]
    assert 0.92 < np.mean(held) < 0.98


def test_an_interval_holds_the_mean_when_trainings_vary_too():
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        seeds, prompts = rng.standard_normal((3, 1)), rng.standard_normal((1, 24))
        found = interval(seeds + prompts + 0.5 * rng.standard_normal((3, 24)))
        held.append(found["low"] < 0 < found["high"])
    assert np.mean(held) > 0.9  # with three trainings their own spread is hardly known


def test_the_strength_with_the_best_worst_dimension_on_validation_prompts_is_chosen():
    found = rows("base", (0, 0, 0), split="validation") + rows("base", (0, 0, 0))
    found += rows("tlpo", (3, 3, 0), split="validation", strength=2.0)
    found += rows("tlpo", (1, 1, 1), split="validation", strength=1.0)
    found += rows("tlpo", (9, 9, 9), strength=0.5)  # what test prompts say does not count
    assert chosen_strength(found, "tlpo", 0) == 1.0


def test_a_margin_compares_worst_dimensions():
    found = rows("base", (0, 0, 0)) + rows("tlpo_offline", (1, 1, 1)) + rows("dpo_sum", (3, 3, 0))
    spread = table(found)["spread_of_base"]["mn"]
    compared = margin(found, "tlpo_offline", "dpo_sum")
    assert compared["mean"] == pytest.approx(1 / spread) and compared["low"] > 0
    assert table(found)["margins"]["tlpo_offline"]["dpo_sum"] == compared
    other = rows("tlpo_offline", (0, 0, 0), seed=1)  # of a training that the rival does not have
    assert margin(found + other, "tlpo_offline", "dpo_sum") == compared
    by_rules = table(found)["margins_by_rules"]["tlpo_offline"]["dpo_sum"]
    assert by_rules["mean"] == 0  # both gain nothing by two of the rules
