"""Draws: deterministic, independent per dimension, stable when the pool grows, even over groups and times."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.preference.draws import DrawRule, DrawSettings, PairPool, draw, draws
from ft2ray.preference.rules import Pair


def group(i: int, pairs: int = 1) -> tuple[str, list[Pair]]:
    return f"group{i}", [Pair(k, k + 1, 0.5) for k in range(pairs)]


POOL = PairPool([group(i, 1 + i % 3) for i in range(20)])


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_draws_of_a_group_are_shared_by_its_pairs_and_dimensions(cursor, count):
    config = DrawRule(settings=DrawSettings(per_group=count))
    found: dict[str, set] = {}
    for dimension in ("mn", "ls"):
        shared = draws(config, dimension, cursor, 60, POOL)
        own = draws(DrawRule(), dimension, cursor, 60, POOL)
        assert [(d.group_id, d.pair) for d in shared] == [(d.group_id, d.pair) for d in own]
        for d in shared:
            found.setdefault(d.group_id, set()).add((d.noise_seed, d.t))
    assert all(len(times) == len({seed for seed, _ in times}) <= count for times in found.values())
    seeds = [seed for times in found.values() for seed, _ in times]
    assert len(set(seeds)) == len(seeds), "groups have noise of their own"


@given(st.integers(0, 2**31), st.integers(0, 10**6), st.integers(0, 12))
def test_a_cursor_is_all_the_state_there_is(seed, cursor, cut):
    config = DrawRule(seed)
    whole = draws(config, "ls", cursor, 12, POOL)
    assert whole == draws(config, "ls", cursor, cut, POOL) + draws(config, "ls", cursor + cut, 12 - cut, POOL)
    assert whole[3] == draw(config, "ls", cursor + 3, POOL)


@given(st.integers(0, 10**6))
def test_dimensions_and_seeds_have_streams_of_their_own(cursor):
    a = draw(DrawRule(0), "ls", cursor, POOL)
    assert a.noise_seed != draw(DrawRule(0), "mn", cursor, POOL).noise_seed
    assert a.noise_seed != draw(DrawRule(1), "ls", cursor, POOL).noise_seed
    assert a.noise_seed != draw(DrawRule(0), "ls", cursor + 1, POOL).noise_seed
    assert 0 <= a.noise_seed < 2**63


@given(st.integers(1, 30), st.integers(0, 2**31))
def test_a_new_group_changes_only_the_draws_that_it_wins(groups, seed):
    before = PairPool([group(i) for i in range(groups)])
    after = PairPool([group(i) for i in range(groups + 1)])
    for cursor in range(40):
        old, new = (draw(DrawRule(seed), "vq", cursor, pool) for pool in (before, after))
        assert new == old or new.group_id == f"group{groups}"
        assert (new.t, new.noise_seed) == (old.t, old.noise_seed)


def test_the_order_of_groups_does_not_matter_and_adding_twice_is_harmless():
    groups = [group(i, 2) for i in range(15)]
    shuffled = groups[::2] + groups
    random.Random(0).shuffle(shuffled)
    a, b = PairPool(groups), PairPool(shuffled)
    assert len(a) == len(b) == 30 and a.groups == b.groups == 15
    assert draws(DrawRule(), "mn", 0, 50, a) == draws(DrawRule(), "mn", 0, 50, b)


def test_every_group_counts_the_same_however_many_pairs_it_has():
    pool = PairPool([("few", [Pair(0, 1, 1.0)]), ("many", [Pair(i, i + 1, 1.0) for i in range(9)])])
    drawn = draws(DrawRule(3), "mn", 0, 2000, pool)
    share = Counter(d.group_id for d in drawn)["few"] / len(drawn)
    assert share == pytest.approx(0.5, abs=0.05)
    assert len({d.pair for d in drawn if d.group_id == "many"}) == 9


def test_timesteps_cover_the_flow_evenly():
    for start in (0, 777):  # any stretch of a run, not only its beginning
        t = np.array([d.t for d in draws(DrawRule(5), "mn", start, 100, POOL)])
        counts, _ = np.histogram(t, bins=10, range=(0, 1))
        assert counts.min() >= 8 and counts.max() <= 12
    assert ((t > 0) & (t < 1)).all()


def test_logit_normal_and_shift_move_the_timesteps():
    t = np.array(
        [
            d.t
            for d in draws(
                DrawRule(settings=DrawSettings(timestep="logit_normal", std=0.5)), "mn", 0, 500, POOL
            )
        ]
    )
    logit = np.log(t / (1 - t))
    assert logit.mean() == pytest.approx(0, abs=0.05) and logit.std() == pytest.approx(0.5, abs=0.05)
    plain = [d.t for d in draws(DrawRule(), "mn", 0, 50, POOL)]
    shifted = [d.t for d in draws(DrawRule(shift=5), "mn", 0, 50, POOL)]
    assert shifted == pytest.approx([5 * u / (1 + 4 * u) for u in plain])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no pair to draw"):
        draw(DrawRule(), "mn", 0, PairPool([("empty", [])]))
    with pytest.raises(ValueError, match="cursor"):
        draw(DrawRule(), "mn", -1, POOL)
    with pytest.raises(ValueError, match="timestep"):
        DrawSettings(timestep="cosine")
    with pytest.raises(ValueError, match="std"):
        DrawSettings(std=0)
