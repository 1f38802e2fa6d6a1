import numpy as np
import pytest

from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import mouth_gap
from studies import validity
from studies.validity import average_mouth, noise_floor, order, wins


def test_wins_counts_ties_half_and_people_alike():
    assert wins({"a": [1.0], "b": [0.0, 0.0, 0.0]}, [0.0]) == pytest.approx((1 + 0.5) / 2)


def test_order_counts_steps_that_do_not_rise():
    assert order([[3, 2, 1], [3, 3, 4]]) == pytest.approx(0.75)


def test_the_floor_shrinks_with_the_root_of_the_prompts_and_skips_what_is_unknown():
    rows = [
        [{"mn": v, "ls": v, "vq": None if v > 3 else v} for v in side]
        for side in ((1, 2, 3, 4), (0, 0, 0, 0))
    ]
    floor = noise_floor(rows)
    assert floor["mn"]["n"] == 4 and floor["vq"]["n"] == 3
    assert floor["mn"]["detectable"] == pytest.approx(
        floor["mn"]["paired_sd"] * (2.0687 + 0.8416) / 24**0.5, abs=1e-3
    )


def test_an_average_mouth_opens_by_the_phone_table_and_nothing_else_moves(monkeypatch):
    basis = MotionBasis.load()
    x_CF = np.random.default_rng(0).normal(size=(basis.channels, 75))
    curve_F = np.sin(np.arange(75) / 4)
    monkeypatch.setattr(validity, "phone_curve", lambda wav_T, frames: curve_F)
    average_CF = average_mouth(x_CF, basis, np.zeros(48000))
    outside = np.ones(basis.channels, bool)
    outside[basis.mouth] = False
    assert np.array_equal(average_CF[outside], x_CF[outside])
    gap_F = mouth_gap(basis.decode(average_CF, 100 * basis.canonical_P3))
    assert np.corrcoef(gap_F, curve_F)[0, 1] > 0.5
