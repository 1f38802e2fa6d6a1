"""A judge that only compares: its scores order a group and say by how much."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.critic.base import Critic
from ft2ray.critic.pairwise import PairwiseCritic
from ft2ray.critic.talking.view import ClipView
from ft2ray.errors import CriticError
from ft2ray.loaders import load_critic, load_viewer
from ft2ray.pipeline.critic_service import CriticService, score_views
from ft2ray.preference.rules import PairRule, pairs
from recipes.embedded.rule_critic import RuleCritic, by_rules


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=float)))


def of_strengths(strength_N) -> Critic:
    """Clips are numbers; the judge obeys Bradley and Terry's model exactly."""
    return PairwiseCritic(lambda a, b: [sigmoid(strength_N[a] - strength_N[b])], ("mn",), "told")


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=7))
def test_logits_are_the_strengths_against_their_mean(strengths):
    p_N = of_strengths(strengths).score(range(len(strengths)))[:, 0]
    assert np.allclose(np.log(p_N / (1 - p_N)), np.array(strengths) - np.mean(strengths), atol=1e-6)


def test_a_judge_that_prefers_the_first_clip_prefers_none():
    biased = PairwiseCritic(lambda a, b: [0.8, sigmoid(a - b)], ("mn", "ls"), "biased")
    p_NK = biased.score([1, 2, 3])
    assert np.allclose(p_NK[:, 0], 0.5) and (np.diff(p_NK[:, 1]) > 0).all()


def test_a_clip_alone_is_the_average_and_no_clips_are_no_rows():
    critic = of_strengths([3.0])
    assert critic.score([0]).tolist() == [[0.5]] and critic.score([]).shape == (0, 1)


def test_certain_answers_stay_finite_and_wrong_ones_are_refused():
    certain = PairwiseCritic(lambda a, b: [float(a > b)], ("mn",), "certain")
    assert np.isfinite(certain.score([1, 2])).all()
    for answer in ([float("nan")], [1.2], [0.5, 0.5]):
        with pytest.raises(CriticError, match="clips 0 and 1 gave"):
            PairwiseCritic(lambda a, b, answer=answer: answer, ("mn",), "wrong").score([1, 2])


def test_the_margin_of_a_pair_is_the_log_odds_that_its_winner_wins():
    p_NK = of_strengths([0.0, 1.0, -0.4]).score([0, 1, 2])
    rule = PairRule(answers_differ=False, margin=0.5, margin_space="logit")
    (pair,) = pairs(p_NK, ("mn",), rule)["mn"]
    assert (pair.winner, pair.loser) == (1, 2) and pair.margin == pytest.approx(1.4)


def views(count: int) -> list[ClipView]:
    rng = np.random.default_rng(0)
    shapes = (1, 75, 84, 56, 3), (1, 2, 112, 112, 3)
    return [
        ClipView(
            *[rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes],
            *[
                rng.standard_normal(shape).astype(np.float32)
                for shape in ((1, 80, 300), (1, 24, 75), (1, 384, 75))
            ],
        )
        for _ in range(count)
    ]


def test_both_short_critics_are_named_by_the_configuration():
    rules, compared = (
        load_critic("recipes.embedded.rule_critic:RuleCritic.load", allow_code=True),
        load_critic(by := "recipes.embedded.rule_critic:by_rules", allow_code=True),
    )
    assert isinstance(rules, RuleCritic) and compared.dimensions == rules.dimensions == ("mn", "ls", "vq")
    assert compared.fingerprint == by_rules().fingerprint != rules.fingerprint
    assert load_viewer(by, allow_code=True) is compared.viewer
    clips = views(3)
    alone, together = (np.log(p / (1 - p)) for p in (rules.score(clips), compared.score(clips)))
    assert np.allclose(together, alone - alone.mean(axis=0), atol=1e-4)


@dataclass
class Handle:
    """A Serve handle on a service in this process; its first `failures` calls fail."""

    service: CriticService
    failures: int = 0
    calls: list[int] = field(default_factory=list)

    @property
    def score_together(self):
        return self

    def remote(self, views, critic=None):
        self.calls.append(len(views))
        self.views = views
        return self

    def result(self, timeout_s):
        if len(self.calls) <= self.failures:
            raise TimeoutError("no answer")
        return asyncio.run(self.service.score_together(self.views))


@pytest.mark.parametrize("failures, scored", [(0, True), (1, True), (2, False)])
def test_candidates_of_a_prompt_are_compared_in_one_call(failures, scored):
    service = CriticService.func_or_class("recipes.embedded.rule_critic:by_rules", 600, 60.0)
    clips = views(3)
    assert service.groupwise()
    handle = Handle(service, failures)
    results = score_views(handle, clips, timeout_seconds=5.0, retries=1, groupwise=True)
    expected = [(row.tolist(), None) for row in by_rules().score(clips)]
    assert results == (expected if scored else [(None, "TimeoutError: no answer")] * 3)
    assert handle.calls == [3] * min(failures + 1, 2)
