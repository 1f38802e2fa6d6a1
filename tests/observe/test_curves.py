"""What is drawn of a run over its steps and rounds."""

import pyarrow as pa

from ft2ray.observe.curves import scores_by_round


def candidates(**columns):
    return pa.table(columns)


def test_what_the_critic_says_is_shown_by_round():
    table = candidates(
        round=[1, 0, 0, 1], mn=[0.9, 0.2, 0.4, None], ls=[None, 0.5, 0.5, None], vq=[0.1, 0.2, 0.2, 0.1]
    )
    (lines,) = scores_by_round(table, ("mn", "ls", "vq")).values()
    assert lines["mn"] == [(0, 0.30000000000000004), (1, 0.9)]
    assert lines["ls"] == [(0, 0.5)]
    assert lines["vq"] == [(0, 0.2), (1, 0.1)]


def test_one_round_makes_no_curve():
    assert scores_by_round(candidates(round=[0, 0], mn=[0.1, 0.2]), ("mn",)) == {}
