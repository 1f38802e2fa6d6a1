"""Pair rules: which pairs may exist, and how they react to margins, missing scores and other dimensions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ft2ray.preference.rules import FULL, Pair, PairRule, pairs
from ft2ray.systems import SUM

DIMS = ("mn", "ls", "vq")
PAPER = PairRule(answers_differ=True, margin=0.3, margin_space="p")
probability = st.one_of(st.floats(0, 1), st.just(math.nan), st.sampled_from([0.0, 0.5, 1.0]))
scores_NK = st.integers(1, 7).flatmap(lambda n: arrays(np.float64, (n, 3), elements=probability))
rules = st.builds(
    PairRule,
    kind=st.just("all"),
    answers_differ=st.booleans(),
    margin=st.floats(0, 1),
    margin_space=st.sampled_from(["p", "logit"]),
)


def column_pairs(p_N, rule):
    return pairs(p_N[:, None], ["ls"], rule)["ls"]


def full_dimension_pairs(p_NK, rule):
    return pairs(p_NK, DIMS, rule, [FULL])[FULL]


def summed_pairs(p_NK, rule):
    return pairs(p_NK, DIMS, rule, [SUM])[SUM]


def keys(found):
    return {(pair.winner, pair.loser) for pair in found}


def every_kind(p_NK, rule):
    yield from pairs(p_NK, DIMS, rule).values()
    yield full_dimension_pairs(p_NK, rule)
    yield full_dimension_pairs(p_NK, rule.replaced(full_strict=True))
    yield summed_pairs(p_NK, rule)


@given(scores_NK, rules)
def test_no_pair_holds_both_ways_or_with_itself_and_margins_are_positive(p_NK, rule):
    tolerant = full_dimension_pairs(p_NK, rule.replaced(full_tolerance=rule.margin / 2))
    for found in (*every_kind(p_NK, rule), tolerant):
        assert not keys(found) & {(loser, winner) for winner, loser in keys(found)}
        assert all(pair.margin > 0 for pair in found)
        assert [pair.margin for pair in found] == sorted((pair.margin for pair in found), reverse=True)


@given(scores_NK, rules)
def test_a_missing_score_never_becomes_a_pair(p_NK, rule):
    for k, found in enumerate(pairs(p_NK, DIMS, rule).values()):
        assert not any(np.isnan(p_NK[[pair.winner, pair.loser], k]).any() for pair in found)
    for found in (full_dimension_pairs(p_NK, rule), summed_pairs(p_NK, rule)):
        assert not any(np.isnan(p_NK[[pair.winner, pair.loser]]).any() for pair in found)


@given(scores_NK, rules, st.floats(0, 1))
def test_a_larger_margin_only_removes_pairs(p_NK, rule, more):
    margin = rule.margin + more
    stricter = rule.replaced(margin=min(margin, 1.0) if rule.margin_space == "p" else margin)
    for loose, strict in zip(every_kind(p_NK, rule), every_kind(p_NK, stricter), strict=True):
        assert keys(strict) <= keys(loose)


@given(scores_NK, rules, st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_pairs_of_a_dimension_depend_on_its_own_column_only(p_NK, rule, k, seed):
    others = np.random.default_rng(seed).random(p_NK.shape)
    others[:, k] = p_NK[:, k]
    assert pairs(p_NK, DIMS, rule)[DIMS[k]] == pairs(others, DIMS, rule)[DIMS[k]]


@given(scores_NK, rules, st.integers(1, 4))
def test_best_worst_is_the_first_of_all_and_survives_a_cap(p_NK, rule, cap):
    best = rule.replaced(kind="best_worst")
    capped = rule.replaced(max_pairs=cap)
    for all_, one, some in zip(
        every_kind(p_NK, rule), every_kind(p_NK, best), every_kind(p_NK, capped), strict=True
    ):
        assert one == all_[:1] and some == all_[:cap]


@given(scores_NK, rules)
def test_renaming_the_candidates_renames_the_pairs(p_NK, rule):
    reverse = {(len(p_NK) - 1 - w, len(p_NK) - 1 - lo) for w, lo in keys(column_pairs(p_NK[:, 0], rule))}
    assert keys(column_pairs(p_NK[::-1, 0], rule)) == reverse


@given(scores_NK, rules)
def test_strict_full_dimension_pairs_are_weak_ones_and_hold_in_every_column(p_NK, rule):
    strict = full_dimension_pairs(p_NK, rule.replaced(full_strict=True))
    assert keys(strict) <= keys(full_dimension_pairs(p_NK, rule))
    free = rule.replaced(answers_differ=False)
    for found in pairs(p_NK, DIMS, free).values():
        assert keys(strict) <= keys(found)


def test_the_example_of_the_paper_one_pair_of_videos_in_three_stores_with_opposite_winners():
    p_NK = np.array([[0.9, 0.1, 0.2], [0.1, 0.8, 0.9]])  # A = (Yes, No, No), B = (No, Yes, Yes)
    found = pairs(p_NK, DIMS, PAPER)
    assert [keys(found[d]) for d in DIMS] == [{(0, 1)}, {(1, 0)}, {(1, 0)}]
    assert full_dimension_pairs(p_NK, PAPER) == []
    assert keys(summed_pairs(p_NK, PAPER)) == {(1, 0)}


def test_answers_must_differ_unless_told_otherwise():
    p_N = np.array([0.95, 0.55])
    assert column_pairs(p_N, PAPER) == []
    assert column_pairs(p_N, PAPER.replaced(answers_differ=False)) == [Pair(0, 1, pytest.approx(0.4))]
    assert column_pairs(np.array([0.9, 0.5]), PAPER) != []  # 0.5 is a No


def test_logit_margins_still_order_a_saturated_critic():
    p_N = np.array([0.001, 0.01])  # both No; 0.009 apart in P, 2.3 nats apart in logits
    assert column_pairs(p_N, PAPER.replaced(answers_differ=False)) == []
    logit = PairRule(answers_differ=False, margin=1.0, margin_space="logit")
    assert keys(column_pairs(p_N, logit)) == {(1, 0)}
    assert math.isfinite(column_pairs(np.array([0.0, 1.0]), logit)[0].margin)


@pytest.mark.parametrize(
    "call",
    [
        lambda: PairRule(kind="some"),
        lambda: PairRule(margin=-0.1),
        lambda: PairRule(margin=math.nan),
        lambda: PairRule(margin_space="q"),
        lambda: PairRule(max_pairs=0),
        lambda: pairs(np.zeros((4, 2)), DIMS, PAPER),
        lambda: pairs(np.zeros(4), DIMS, PAPER),
        lambda: pairs(np.full((4, 3), 1.5), DIMS, PAPER),
        lambda: PairRule(margin=0.1, full_tolerance=0.2),
    ],
)
def test_mistakes_are_named(call):
    with pytest.raises(ValueError, match=r"[Pp]air|scores"):
        call()
