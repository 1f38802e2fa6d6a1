"""Rounds in turns, and with curation and training at the same time, killed in the middle."""

import json
import shutil

import pytest

from ft2ray.observe.timeline import read_spans
from ft2ray.run import Run, read_groups, span_store
from tests.pipeline.whole_run import GROUPS, TWO_ROUNDS, finish, joined, kill_when, result

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# The third round waits for the first policy.
TOGETHER = (*TWO_ROUNDS, "schedule.rounds=3", "schedule.max_staleness=1")
# Online: all candidates of the policy of the round before, which is the reference too.
ONLINE = (*TWO_ROUNDS, "tlpo.loss.kind=nft", "tlpo.loss.reference=last_round")


def test_in_turns_the_second_round_is_generated_by_the_policy_of_the_first(tmp_path):
    kill_when(
        tmp_path,
        lambda: len(list((tmp_path / "store" / "groups").glob("*.parquet"))) > GROUPS / 2,
        lambda: Run.open(tmp_path).current_policy.endswith(
            "-1"
        ),  # whoever serves the run has it before the second round
        *ONLINE,
    )
    finish(tmp_path, *ONLINE)
    assert Run.open(tmp_path).current_policy.endswith("-2")
    groups = read_groups(tmp_path)
    policies = {
        round: {c.policy for g in groups if g.round == round for c in g.candidates} for round in (0, 1)
    }
    (first,) = (tmp_path / "policies").glob("*-1/policy.json")
    assert policies == {0: {"base"}, 1: {json.loads(first.read_text())["fingerprint"]}}
    assert len(groups) == GROUPS


def test_curated_and_trained_together_a_kill_loses_and_doubles_nothing(tmp_path):
    specs = 3 * GROUPS // 2

    def committed():
        return list((tmp_path / "store" / "groups").glob("*.parquet"))

    kill_when(
        tmp_path,
        lambda: len(committed()) >= 1 and any((tmp_path / "intake").rglob("*.json")),
        lambda: len(committed()) < specs,
        *TOGETHER,
    )
    finish(tmp_path, *TOGETHER)
    groups = read_groups(tmp_path)
    assert len({(g.round, g.prompt_id) for g in groups}) == len(groups) == len(committed()) == specs
    versions = {"base": 0} | {
        json.loads(file.read_text())["fingerprint"]: int(file.parent.name.rpartition("-")[2])
        for file in (tmp_path / "policies").glob("*/policy.json")
    }
    for group in groups:
        assert {group.round - versions[c.policy] for c in group.candidates} <= {0, 1}, "too stale"
    lanes = {span.lane for span in read_spans(span_store(tmp_path)) if span.kind == "generate"}
    assert len(lanes) <= 2 * 2, "two attempts with two generators each started more than these"

    lists = joined(tmp_path)
    assert sorted(sum(lists, [])) == sorted(g.group_id for g in groups), "every group joined exactly once"
    assert len(lists) > 1, "the training began before all groups were there"

    policy = result(tmp_path)["policy"]
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "policies")
    finish(tmp_path, *TOGETHER)  # the same groups at the same steps, as they were written down
    assert result(tmp_path)["policy"] == policy
