"""A whole group as a lesson: advantages inside the group, shares of good, and who meets whom."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.preference.draws import DrawRule, PairDraw
from ft2ray.preference.groups import advantages, couple, shares
from ft2ray.preference.rules import FULL, Pair
from ft2ray.systems import SUM

DIMS = ("mn", "ls", "vq")
RULE = DrawRule(seed=3)
probability = st.floats(0.01, 0.99)
scores = st.lists(st.tuples(probability, probability, probability), min_size=2, max_size=9)


@given(scores, st.sampled_from([*DIMS, SUM, FULL]), st.floats(0.5, 5))
def test_advantages_are_standardised_inside_the_group_and_shares_keep_their_order(p, pool, clip):
    z_N = advantages(np.array(p), DIMS, pool)
    assert z_N.mean() == pytest.approx(0, abs=1e-6)
    assert z_N.std() == pytest.approx(1) or np.abs(z_N).max() < 1e-6
    r_N = shares(z_N, clip)
    assert ((r_N >= 0) & (r_N <= 1)).all()
    assert (np.diff(r_N[np.argsort(z_N)]) >= 0).all()


def test_every_dimension_counts_alike_in_the_sum_however_wide_it_spreads():
    """A dimension of a hundredth of the spread, with the opposite order, cancels the other one."""
    logit_N = np.array([1.0, 0.0, -1.0])
    p_NK = 1 / (1 + np.exp(-np.stack([logit_N, -logit_N / 100], axis=1)))
    assert advantages(p_NK, ("a", "b"), SUM) == pytest.approx([0, 0, 0], abs=1e-6)
    assert advantages(p_NK, ("a", "b"), "b") == pytest.approx(-advantages(p_NK, ("a", "b"), "a"), abs=1e-6)


def test_without_spread_nobody_is_good_or_bad():
    assert shares(advantages(np.full((4, 3), 0.7), DIMS, "ls"), 2.0).tolist() == [0.5] * 4


def test_a_missing_score_takes_its_candidate_out_of_its_dimension_and_of_the_sum():
    p_NK = np.array([[0.2, 0.3, 0.4], [0.6, np.nan, 0.5], [0.9, 0.8, 0.1]])
    assert np.isnan(advantages(p_NK, DIMS, "ls")).tolist() == [False, True, False]
    assert np.isnan(advantages(p_NK, DIMS, SUM)).tolist() == [False, True, False]
    assert np.isfinite(advantages(p_NK, DIMS, "mn")).all()
    draw = PairDraw("g", Pair(0, 1, 0.1), 5, 0.5)
    met = [couple(RULE, "ls", n, draw, advantages(p_NK, DIMS, "ls")).pair for n in range(20)]
    assert {(pair.winner, pair.loser) for pair in met} == {(2, 0)}


@pytest.mark.parametrize("size", [2, 5, 8])
def test_all_candidates_meet_their_opposite_and_come_up_equally_often(size):
    z_N = np.random.default_rng(size).standard_normal(size)
    draw = PairDraw("g", Pair(0, 1, 0.1), noise_seed=5, t=0.5)
    drawn = [couple(RULE, "ls", n, draw, z_N) for n in range(2000)]
    assert all((d.group_id, d.noise_seed, d.t) == ("g", 5, 0.5) for d in drawn)
    place = {int(n): rank for rank, n in enumerate(np.argsort(-z_N))}
    for d in drawn:
        assert d.pair.margin == pytest.approx(z_N[d.pair.winner] - z_N[d.pair.loser]) and d.pair.margin > 0
        middle = place[d.pair.loser] == size // 2 and size % 2
        assert place[d.pair.winner] == (0 if middle else size - 1 - place[d.pair.loser])
    count = Counter(n for d in drawn for n in (d.pair.winner, d.pair.loser))
    assert len(count) == size
    usual = [
        count[int(n)] for n in np.argsort(-z_N)[1:]
    ]  # the best of an odd number meets the middle one too
    if size % 2 == 0:
        assert max(usual) < 1.25 * min(usual)


def test_a_couple_depends_on_its_number_alone():
    z_N = np.arange(8.0)
    draw = PairDraw("g", Pair(0, 1, 0.1), 5, 0.5)
    found = [couple(RULE, "ls", n, draw, z_N).pair for n in range(12)]
    assert found == [couple(RULE, "ls", n, draw, z_N).pair for n in range(12)]
    assert found != [couple(RULE, "mn", n, draw, z_N).pair for n in range(12)]
