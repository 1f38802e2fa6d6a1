"""Pairs are built of one critic's scores only, wherever they are built."""

import numpy as np
import pytest

from ft2ray.config import AlignConfig
from ft2ray.critic.base import CriticCard
from ft2ray.errors import DataError, StoredDataError
from ft2ray.pipeline.align import check_critic
from ft2ray.pipeline.training import pairs_of
from ft2ray.preference.rules import FULL
from ft2ray.preference.wrong_pairs import WrongPair
from ft2ray.records import Candidate, Prompt, PromptGroup
from ft2ray.rounds.schedule import GroupSpec
from ft2ray.rounds.scores import pair_counts, pairs_by_group, scored_candidates
from ft2ray.run import Run, group_store
from tests.runs import stated

CONFIG = AlignConfig()


def group(name: str, critic: str | None) -> PromptGroup:
    """Two candidates of which the first is better in everything."""
    latents = np.zeros((1, 1, 1, 1), np.float32)
    candidates = [Candidate(f"{name}{n}", "base", n, {}, latents, latents, scores=[p] * 3)
                  for n, p in enumerate((0.9, 0.1))]  # fmt: skip
    return PromptGroup(
        group_id=name,
        round=0,
        prompt_id="prompt",
        portrait="a.jpg",
        portrait_id="pid",
        speech="b.wav",
        start_seconds=0.0,
        seconds=3.0,
        generator="gen",
        critic=critic,
        dimensions=CONFIG.dimension_names,
        text_LD=None,
        audio_LD=np.zeros((1, 1), np.float32),
        frames=75,
        candidates=candidates,
    )


def card(fingerprint: str, dimensions=CONFIG.dimension_names, questions=None) -> CriticCard:
    return CriticCard(dimensions, fingerprint, None, questions)


def stored(tmp_path, *groups: PromptGroup) -> Run:
    config = CONFIG.replaced(run_dir=str(tmp_path))
    group_store(config.run_dir).commit_once([one.to_row() for one in groups])
    prompt = Prompt("prompt", "a.jpg", "b.wav", 0.0, 3.0)
    return stated(config, [GroupSpec(one.group_id, 0, prompt) for one in groups])


def test_scores_of_one_critic_make_pairs(tmp_path):
    assert len(pairs_of(CONFIG, group("a", "mine"), "mine")["ls"]) == 1
    run = stored(tmp_path, group("a", "mine"), group("b", "mine"))
    assert pair_counts(run.config, scored_candidates(run))["mn"] == 2


@pytest.mark.parametrize("critic", ["another", None])
def test_scores_of_another_critic_never_become_pairs(tmp_path, critic):
    message = f"b was scored by critic {critic}, now it is mine: scores of two critics cannot be mixed"
    with pytest.raises(ValueError, match=message):
        pairs_of(CONFIG, group("b", critic), "mine")
    run = stored(tmp_path, group("a", "mine"), group("b", critic))
    with pytest.raises(ValueError, match="scores of the critics .*: scores of two critics cannot be mixed"):
        pair_counts(run.config, scored_candidates(run))


def test_a_pair_that_people_marked_as_wrong_neither_trains_nor_counts(tmp_path):
    run = stored(tmp_path, group("a", "mine"), group("b", "mine"))
    run = stated(run.config, run.specs, critic="mine")
    run.wrong_pairs = (WrongPair("b", "mn", 0, 1),)
    trained = {name: pairs for name, pairs in pairs_by_group(run, ["a", "b"])}
    assert [len(trained[name]["mn"]) for name in "ab"] == [1, 0]
    assert [len(trained[name]["ls"]) for name in "ab"] == [1, 1]
    counts = pair_counts(run.config, scored_candidates(run), run.wrong_pairs)
    assert counts == {pool: sum(len(pairs[pool]) for pairs in trained.values()) for pool in counts}
    assert counts["mn"] == 1 and counts["ls"] == 2 and counts[FULL] == 1


@pytest.mark.parametrize("kind", ["best_worst", "all"])
def test_the_training_gets_the_pairs_of_each_group_from_the_index_alone(tmp_path, monkeypatch, kind):
    rng = np.random.default_rng(0)
    groups = [group(f"{n:02}", "mine") for n in range(12)]
    for n, one in enumerate(groups):
        for candidate in one.candidates[n % 3 :]:
            candidate.scores = rng.random(3).tolist()
        if n == 5:
            one.candidates[0].scores = None
    config = CONFIG.replaced(run_dir=str(tmp_path), pairs=CONFIG.pairs.replaced(kind=kind, margin=0.0))
    for one in groups:
        group_store(config.run_dir).commit_once([one.to_row()])
    monkeypatch.setattr("ft2ray.rounds.scores.GROUPS_AT_A_TIME", 5)
    wanted = [one.group_id for one in groups if one.group_id != "03"]
    run = stated(config, critic="mine")
    found = list(pairs_by_group(run, wanted))
    assert found == [(g.group_id, pairs_of(config, g, "mine")) for g in groups if g.group_id != "03"]
    with pytest.raises(StoredDataError, match="the prompt group lost is missing"):
        next(pairs_by_group(run, ["00", "lost"]))
    with pytest.raises(DataError, match="were scored by critic mine, now it is another"):
        next(pairs_by_group(stated(config, critic="another"), wanted))


def test_a_run_folder_with_another_critics_scores_is_refused(tmp_path):
    """The first round's specs are the same whatever the critic, so a run looks at the scores themselves."""
    run = stored(tmp_path, group("a", "mine"))
    check_critic(run, card("mine"))
    with pytest.raises(ValueError, match="holds scores of critic mine, now it is tuned again; choose a new"):
        check_critic(run, card("tuned again"))
    with pytest.raises(ValueError, match="are not the critic's"):
        check_critic(run, card("mine", ("mn", "vq")))
    asked = {name: "Is it good?" for name in CONFIG.dimension_names}
    with pytest.raises(ValueError, match="its critic is asked 'Is it good"):
        check_critic(run, card("mine", questions=asked))
