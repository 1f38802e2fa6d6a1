"""Accuracy and calibration error, measured on labels that the scaling did not see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.critic.calibration import calibrate, expected_calibration_error, figures, placements


def test_calibration_error_by_hand():
    p = np.array([0.05, 0.05, 0.95, 0.95])
    assert expected_calibration_error(p, np.array([0, 0, 1, 1])) == pytest.approx(0.05)
    assert expected_calibration_error(p, np.array([0, 1, 1, 1])) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert expected_calibration_error(np.array([1.0, 0.0]), np.array([1, 0])) == 0.0


def test_accuracy_by_hand():
    found = figures(np.array([0.9, 0.8, 0.3, 0.6]), np.array([1, 1, 1, 0]))
    assert found["accuracy"] == 0.5 and found["balanced_accuracy"] == round((2 / 3 + 0) / 2, 4)
    assert found["n"] == 4


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=50))
def test_calibration_error_is_a_share(pairs):
    p, label = np.array(pairs).T
    assert 0 <= expected_calibration_error(p, label) <= 1


def test_a_critic_that_is_too_sure_is_scaled_down():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, 2000)
    label = (rng.random(2000) < 1 / (1 + np.exp(-truth))).astype(float)
    label[::7] = np.nan
    margin_NK, label_NK = np.stack([8 * truth + 3, truth], axis=1), np.stack([label, label], axis=1)
    scaling, calibration = calibrate(margin_NK, label_NK, ("ls", "vq"))
    assert scaling["ls"][0] == pytest.approx(1 / 8, rel=0.2)
    assert calibration["ece"]["ls"] < 0.06
    raw = figures(1 / (1 + np.exp(-margin_NK[:, 0])), np.nan_to_num(label))
    assert raw["ece"] > 3 * calibration["ece"]["ls"]
    assert calibration["n"] == {"ls": int((~np.isnan(label)).sum()), "vq": int((~np.isnan(label)).sum())}
    assert calibration["accuracy"]["ls"] == pytest.approx(calibration["accuracy"]["vq"], abs=0.02)


def test_what_is_not_known_is_not_measured():
    label_NK = np.array([[1.0, np.nan], [0.0, np.nan], [1.0, np.nan]])
    scaling, calibration = calibrate(np.array([[2.0, 1], [-1, 1], [-1, 1]]), label_NK, ("mn", "ls"))
    assert scaling == {"mn": (1.0, 0.0), "ls": (1.0, 0.0)}  # too few to fit anything
    assert calibration["accuracy"] == {"mn": 0.6667, "ls": None} and calibration["n"] == {"mn": 3, "ls": 0}


def test_no_label_judges_its_own_scaling():
    """Labels without any relation to the logits: a scaling fitted on them would look better than it is."""
    rng = np.random.default_rng(1)
    margin, label = rng.normal(0, 1, (60, 1)), (np.arange(60)[:, None] // 2 % 2).astype(float)
    _, calibration = calibrate(margin, label, ("mn",))
    assert calibration["accuracy"]["mn"] < 0.65


def test_placements_are_the_shares_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    margin, part = rng.integers(0, 6, 40).astype(float), rng.integers(0, 2, 40)
    label = rng.integers(0, 2, 40).astype(float)
    label[:4] = np.nan
    found = placements(margin, label, part)
    for n in range(40):
        others = [m for m in range(40) if part[m] == part[n] and label[m] == 1 - label[n]]
        sign = 1 if label[n] == 1 else -1
        right = [np.sign(sign * (margin[n] - margin[m])) / 2 + 0.5 for m in others]
        assert found[n] == pytest.approx(np.mean(right)) if others else np.isnan(found[n])
    assert np.isnan(placements(margin[:3], np.ones(3), part[:3])).all(), "nobody answered No"
