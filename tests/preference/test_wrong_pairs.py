"""Marks of people: what is marked takes no part, what is taken back does; without marks all is as before."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.config import load_config
from ft2ray.preference.rules import FULL, Pair
from ft2ray.preference.wrong_pairs import WrongPair, mark, mark_store, marked, without
from ft2ray.records import Prompt
from ft2ray.rounds.schedule import group_specs, training_key
from ft2ray.systems import SUM

PAIRS = [WrongPair("g1", "ls", 0, 1), WrongPair("g1", "mn", 1, 0), WrongPair("g2", "ls", 2, 3)]


@given(st.lists(st.tuples(st.sampled_from(PAIRS), st.booleans()), max_size=8))
@settings(max_examples=20, deadline=None)
def test_the_last_mark_counts(tmp_path_factory, history):
    store = mark_store(tmp_path_factory.mktemp("marks"))
    for pair, wrong in history:
        mark(store, pair, wrong, "Anna")
    assert marked(store) == sorted(pair for pair, wrong in dict(history).items() if wrong)
    assert len(list(store.rows())) == len(history)


def test_a_wrong_pair_leaves_its_dimension_the_sum_and_stage_2_but_not_the_other_way_round():
    pools = {name: [Pair(0, 1, 1.0), Pair(1, 0, 0.5)] for name in ("ls", "mn", SUM, FULL)}
    left = without("g1", pools, [PAIRS[0]])
    assert {name: [(p.winner, p.loser) for p in pairs] for name, pairs in left.items()} == {
        "ls": [(1, 0)],
        "mn": [(0, 1), (1, 0)],
        SUM: [(1, 0)],
        FULL: [(1, 0)],
    }
    assert without("another", pools, PAIRS[:1]) == pools


def test_other_marks_are_another_training_and_none_are_the_one_of_before():
    config = load_config(None, ["schedule.rounds=2"])
    assert training_key(config, "g", "c", []) == training_key(config, "g", "c", [], ())
    assert training_key(config, "g", "c", []) != training_key(config, "g", "c", [], PAIRS[:1])
    assert training_key(config, "g", "c", [], PAIRS[:1]) != training_key(config, "g", "c", [], PAIRS)
    prompts = [Prompt("prompt", "a.jpg", "b.wav", 0.0, 3.0)]
    before, after = (group_specs(config, "g", "c", prompts, wrong) for wrong in ((), PAIRS))
    assert before[0] == after[0], "what the base makes is the same"
    assert before[1].group_id != after[1].group_id, "what the policy of another training makes is not"
