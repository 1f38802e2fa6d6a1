import numpy as np
import pytest

from studies.realism import told_apart


def people(count, level, seed, clips=3):
    draw = np.random.default_rng(seed)
    return {
        f"{seed}-{n}": [
            {"turn": float(np.exp(draw.normal(level, 1))), "speed": float(np.exp(draw.normal()))}
            for _ in range(clips)
        ]
        for n in range(count)
    }


def test_equal_motion_cannot_be_told_apart_and_other_motion_can():
    assert told_apart(people(20, 0.0, 1), people(20, 0.0, 2)) == pytest.approx(0.5, abs=0.15)
    assert told_apart(people(20, 3.0, 1), people(20, 0.0, 2)) > 0.95


def test_what_only_one_person_does_is_not_learnt_from_that_person():
    """Noise in many traits: a fit on all clips tells them apart, one that leaves people out does not."""
    draw = np.random.default_rng(0)

    def noise(count):
        own = draw.normal(size=(count, 8))  # constant in a person, so that knowing the person is enough
        return {str(n): [{str(d): float(np.exp(v)) for d, v in enumerate(own[n])}] * 3 for n in range(count)}

    assert told_apart(noise(8), noise(8)) < 0.8


def test_traits_that_some_clips_lack_are_left_out():
    real, generated = people(6, 3.0, 1), people(6, 0.0, 2)
    next(iter(real.values()))[0]["silent_lips"] = 1.0
    assert told_apart(real, generated) > 0.9
