"""Pairs of a table are those of its groups one by one, wherever batches cut it."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.preference.rules import FULL, Pair, PairRule, pairs, standardised
from ft2ray.preference.scored_rows import PAIR, pairs_of_rows
from ft2ray.systems import SUM

DIMS = ("mn", "ls", "vq")
probability = st.one_of(st.floats(0, 1), st.just(math.nan), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
candidate = st.tuples(probability, probability, probability)
groups = st.lists(st.lists(candidate, min_size=1, max_size=5), max_size=8)
rules = st.builds(
    PairRule,
    answers_differ=st.booleans(),
    margin=st.sampled_from([0.0, 0.3, 1.0]),
    margin_space=st.sampled_from(["p", "logit"]),
    sum_of=st.sampled_from(["z", "raw"]),
)
kinds = st.sampled_from([{"kind": "best_worst"}, *({"kind": "all", "max_pairs": n} for n in (None, 1, 2))])
rules = st.builds(lambda rule, kind: rule.replaced(**kind), rules, kinds)


def table_of(scores) -> pa.Table:
    rows = [(f"g{g}", *candidate) for g, group in enumerate(scores) for candidate in group]
    ids = pa.array([row[0] for row in rows], pa.string())
    columns = [pa.array([row[k + 1] for row in rows], pa.float64(), from_pandas=True) for k in range(3)]
    return pa.table([ids, *columns], ["group_id", *DIMS])


def pools(p_NK, rule) -> dict[str, list[tuple[int, int, float]]]:
    """The rule in plain words, two candidates at a time."""
    scaled_NK, size = rule.scale(p_NK), range(len(p_NK))
    summed_N = (standardised(scaled_NK) if rule.sum_of == "z" else scaled_NK).sum(1)
    found = {name: [] for name in (*DIMS, SUM, FULL)}
    for w, lo in ((w, lo) for w in size for lo in size):
        gap_K = scaled_NK[w] - scaled_NK[lo]
        enough_K = (gap_K > 0) & (gap_K >= rule.margin)
        for k, name in enumerate(DIMS):
            yes_no = p_NK[w, k] > 0.5 and p_NK[lo, k] <= 0.5
            if enough_K[k] and (yes_no or not rule.answers_differ):
                found[name].append((w, lo, gap_K[k]))
        total = summed_N[w] - summed_N[lo]
        if total > 0 and total >= rule.margin:
            found[SUM].append((w, lo, total))
        if (gap_K >= 0).all() and enough_K.any() and gap_K.sum() > 0:
            found[FULL].append((w, lo, gap_K.sum()))
    most = 1 if rule.kind == "best_worst" else rule.max_pairs
    return {name: sorted(all_, key=lambda p: (-p[2], *p[:2]))[:most] for name, all_ in found.items()}


def one_by_one(scores, rule) -> list[tuple]:
    return sorted(
        (name, f"g{g}", n, *pair)
        for g, group in enumerate(scores)
        for name, found in pools(np.array(group), rule).items()
        for n, pair in enumerate(found)
    )


@given(groups, rules, st.integers(1, 12))
def test_a_table_has_the_pairs_of_its_groups_one_by_one(scores, rule, rows_per_batch):
    batches = table_of(scores).to_batches(max_chunksize=rows_per_batch)
    found, rank = [], {}
    for table in pairs_of_rows(batches, DIMS, rule, (*DIMS, SUM, FULL)):
        assert table.schema == PAIR
        for row in table.to_pylist():
            place = rank.setdefault((row["dimension"], row["group_id"]), [])
            found.append(
                (
                    row["dimension"],
                    row["group_id"],
                    len(place),
                    row["winner"],
                    row["loser"],
                    row["margin"],
                )
            )
            place.append(row)
    assert sorted(found) == one_by_one(scores, rule)


def test_scores_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="probabilities"):
        list(pairs_of_rows(table_of([[(0.1, 1.2, 0.3)]]).to_batches(), DIMS, PairRule()))


def test_rows_of_two_critics_are_refused_wherever_the_batches_part():
    rows = table_of([[(0.9, 0.9, 0.9), (0.1, 0.1, 0.1)], [(0.9, 0.9, 0.9), (0.1, 0.1, 0.1)]])
    one = rows.append_column("critic", pa.array(["mine"] * 4))
    assert sum(len(table) for table in pairs_of_rows(one.to_batches(1), DIMS, PairRule())) == 6
    two = rows.append_column("critic", pa.array(["mine"] * 2 + ["another"] * 2))
    with pytest.raises(ValueError, match="critics another, mine: scores of two critics cannot be mixed"):
        list(pairs_of_rows(two.to_batches(1), DIMS, PairRule()))


@given(groups, rules)
def test_what_is_counted_is_what_is_trained_on(scores, rule):
    counted = {(name, f"g{g}"): [] for name in (*DIMS, SUM, FULL) for g in range(len(scores))}
    for table in pairs_of_rows(table_of(scores).to_batches(), DIMS, rule, (*DIMS, SUM, FULL)):
        for row in table.to_pylist():
            pair = Pair(row["winner"], row["loser"], row["margin"])
            counted[row["dimension"], row["group_id"]].append(pair)
    trained = [pairs(np.array(group), DIMS, rule, (*DIMS, SUM, FULL)) for group in scores]
    assert counted == {(name, f"g{g}"): found[name] for g, found in enumerate(trained) for name in found}
