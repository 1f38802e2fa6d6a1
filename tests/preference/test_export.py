"""Export: a file that pandas reads, with the right pairs in it, and nothing half-written."""

import numpy as np
import pandas as pd
import pytest

from ft2ray.preference.export import export_pairs
from ft2ray.preference.rules import FULL, PairRule
from ft2ray.preference.wrong_pairs import WrongPair
from ft2ray.records import Candidate, PromptGroup
from ft2ray.storage import read_bytes

DIMS = ("mn", "ls", "vq")
PAPER = PairRule(answers_differ=True, margin=0.3, margin_space="p")


def make_group(name: str, scores: list[list[float] | None]) -> PromptGroup:
    rng = np.random.default_rng(len(name))
    candidates = [
        Candidate(
            candidate_id=f"{name}-{i}",
            policy="base",
            seed=i,
            sampler={"steps": 4, "audio_scale": 2.0},
            latents_CFHW=rng.standard_normal((2, 3, 1, 1)).astype(np.float32),
            lip_mask=np.ones((2, 1, 1, 1), np.float32),
            scores=row,
            error=None if row else "critic timed out",
        )
        for i, row in enumerate(scores)
    ]
    return PromptGroup(
        name, 0, "prompt", "a.jpg", "pid", "b.wav", 0.0, 3.0, "gen", "critic", DIMS,
        np.zeros((1, 2), np.float32), np.zeros((4, 2), np.float32), 3, candidates,
    )  # fmt: skip


GROUPS = [
    make_group("g1", [[0.9, 0.1, 0.2], [0.1, 0.8, 0.9], None]),
    make_group("g2", [[0.9, 0.9, 0.9], [0.1, 0.2, 0.3]]),
    make_group("g3", [[0.6, 0.6, 0.6], [0.6, 0.6, 0.6]]),
]


def test_pandas_reads_the_pairs_as_they_are(tmp_path):
    path = tmp_path / "pairs.parquet"
    counts = export_pairs(iter(GROUPS), PAPER, path, "critic", {"ls": "Is the lip synchronized?"})
    assert counts == {"mn": 2, "ls": 2, "vq": 2, FULL: 1}
    table = pd.read_parquet(path)
    assert len(table) == 7
    ls = table[(table.dimension == "ls") & (table.group_id == "g1")].iloc[0]
    assert (ls.winner_id, ls.loser_id) == ("g1-1", "g1-0")
    assert (ls.winner_answer, ls.loser_answer, ls.question) == ("Yes.", "No.", "Is the lip synchronized?")
    assert ls.margin == pytest.approx(0.7) and list(ls.winner_scores) == [0.1, 0.8, 0.9]
    latents = np.reshape(ls.winner_latents, ls.latents_shape)
    np.testing.assert_array_equal(latents, GROUPS[0].candidates[1].latents_CFHW)
    full = table[table.dimension == FULL].iloc[0]
    assert (full.group_id, full.winner_id) == ("g2", "g2-0") and pd.isna(full.winner_answer)


def test_a_pair_that_people_marked_as_wrong_is_left_out(tmp_path):
    wrong = [WrongPair("g2", "ls", 0, 1)]
    counts = export_pairs(GROUPS, PAPER, tmp_path / "p.parquet", "critic", wrong=wrong)
    assert counts == {"mn": 2, "ls": 1, "vq": 2}


def test_latents_can_stay_out(tmp_path):
    export_pairs(GROUPS, PAPER, tmp_path / "p.parquet", "critic", latents=False)
    table = pd.read_parquet(tmp_path / "p.parquet")
    assert table.winner_latents.isna().all() and table.latents_shape.isna().all()


def test_no_pair_at_all_is_an_empty_table_with_the_same_columns(tmp_path):
    assert export_pairs(GROUPS[2:], PAPER, tmp_path / "none.parquet", "critic") == {}
    export_pairs(GROUPS, PAPER, tmp_path / "some.parquet", "critic")
    none, some = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("none", "some"))
    assert len(none) == 0 and list(none.columns) == list(some.columns)


def test_an_error_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "pairs.parquet"
    export_pairs(GROUPS[:1], PAPER, path, "critic")
    before = path.read_bytes()

    def broken():
        yield GROUPS[1]
        raise OSError("store went away")

    with pytest.raises(OSError, match="went away"):
        export_pairs(broken(), PAPER, path, "critic")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.parquet"]


def test_pairs_are_exported_to_s3(s3, tmp_path):
    counts = export_pairs(GROUPS, PAPER, f"{s3}/pairs.parquet", "critic")
    assert counts == export_pairs(GROUPS, PAPER, tmp_path / "pairs.parquet", "critic") and sum(
        counts.values()
    )
    assert read_bytes(f"{s3}/pairs.parquet") == (tmp_path / "pairs.parquet").read_bytes()


def test_scores_of_another_critic_are_not_exported(tmp_path):
    other = make_group("g4", [[0.9, 0.1, 0.2], [0.1, 0.8, 0.9]])
    other.critic = "another"
    with pytest.raises(
        ValueError, match="g4 was scored by critic another, now it is critic: .* cannot be mixed"
    ):
        export_pairs([*GROUPS, other], PAPER, tmp_path / "p.parquet", "critic")
    assert not (tmp_path / "p.parquet").exists()
