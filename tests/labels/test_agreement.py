"""Agreement against published figures, and the laws that it must keep."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.labels.agreement import agreement, cohens_kappa, krippendorffs_alpha, reliability

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: four observers, values missing.
OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def test_alpha_is_the_published_one():
    units = [
        [value for value in unit if value != "."]
        for unit in zip(*(o.split() for o in OBSERVERS), strict=True)
    ]
    assert krippendorffs_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_alpha_of_two_observers_is_the_published_one():
    """Example A: ten units, two observers, two values."""
    a, b = (0, 1, 0, 0, 0, 0, 0, 0, 1, 0), (1, 1, 1, 0, 0, 1, 0, 0, 0, 0)
    assert krippendorffs_alpha(list(zip(a, b, strict=True))) == pytest.approx(0.095, abs=5e-4)


def test_kappa_is_that_of_its_definition():
    """50 clips: both Yes 20, both No 15, and 15 apart; 0.7 observed and 0.5 by chance."""
    a = ["y"] * 20 + ["y"] * 5 + ["n"] * 10 + ["n"] * 15
    b = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert cohens_kappa(a, b) == pytest.approx(0.4)


WORDS = st.sampled_from("yn")
UNITS = st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=12)


@given(UNITS)
def test_alpha_is_at_most_one_and_one_only_without_a_disagreement(units):
    alpha = krippendorffs_alpha(units)
    pairable = [unit for unit in units if len(unit) > 1]
    if len({word for unit in pairable for word in unit}) < 2:
        assert alpha is None
        return
    assert alpha is not None and -1 <= alpha <= 1
    assert (alpha == 1) == all(len(set(unit)) == 1 for unit in pairable)


@given(UNITS, st.randoms())
def test_alpha_knows_neither_order_nor_names_and_passes_over_single_answers(units, random):
    shuffled = [random.sample(unit, len(unit)) for unit in random.sample(units, len(units))]
    renamed = [["no" if word == "y" else "yes" for word in unit] for unit in shuffled]
    alpha, other = krippendorffs_alpha(units), krippendorffs_alpha([*renamed, ["yes"]])
    assert (alpha is None and other is None) or math.isclose(alpha, other, abs_tol=1e-12)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=30))
def test_kappa_is_symmetric_and_one_only_for_full_agreement(both):
    a, b = zip(*both, strict=True)
    kappa = cohens_kappa(a, b)
    assert kappa == cohens_kappa(b, a)
    if kappa is None:
        assert set(a) == set(b) and len(set(a)) == 1
    else:
        assert (kappa == pytest.approx(1)) == (a == b)


def test_attention_checks_and_skips_take_no_part_in_agreement_and_show_who_attends(said):
    answers = [
        said("Anna", "a", "yes", seconds=1.0),
        said("Anna", "b", "no", seconds=3.0),
        said("Anna", "a", "no", check="repeat", seconds=2.0),
        said("Anna", "b", "no", check="repeat", seconds=2.0),
        said("Anna", "c", "yes", check="wrong_sound", sound="a"),
        said("Anna", "c", "skip"),
        said("Bob", "a", "yes"),
        said("Bob", "b", "yes"),
        said("Bob", "c", "no", check="wrong_sound", sound="a"),
    ]
    (found,) = agreement(answers).values()
    assert (found.clips, found.shared) == (2, 2)
    assert found.kappas == {("Anna", "Bob"): 0.0}
    people = reliability(answers)
    assert (people["Anna"].repeated, people["Anna"].repeated_alike) == (2, 1)
    assert (people["Anna"].wrong_sound, people["Anna"].wrong_sound_noticed) == (1, 0)
    assert (people["Bob"].wrong_sound, people["Bob"].wrong_sound_noticed) == (1, 1)
    assert people["Anna"].seconds == 1.5
