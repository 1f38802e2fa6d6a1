"""The loss on groups (nft): its gradient, its kinship with fine-tuning and DPO, its way through a run."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.dimensions import DEFAULT_DIMENSIONS, masks
from ft2ray.preference.draws import DrawSettings
from ft2ray.preference.rules import FULL
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.losses import implicit_error, velocity_error
from ft2ray.tlpo.settings import ExpertSettings, LossSettings
from ft2ray.tlpo.step import expert_step, pair_errors, with_reference
from ft2ray.training import update
from tests.tlpo.conftest import make_batch, tiny_wan, velocity_of
from tests.tlpo.test_run import DIMS, GROUPS, make_run

NFT = LossSettings(kind="nft", mixing=1.0, anchor=0.0)
share = st.floats(0, 1)


def group_batch(r_w, r_l, pairs=3, **settings):
    return replace(
        make_batch(pairs, **settings), r_w_B=torch.full((pairs,), r_w), r_l_B=torch.full((pairs,), r_l)
    )


def gradient(batch, config, parts=None):
    transformer = tiny_wan()
    experts = Experts(transformer, ("ls",), ExpertSettings(rank=4))
    metrics = expert_step(velocity_of(transformer), experts, "ls", batch, config, parts)
    return torch.cat([p.grad.flatten() for p in experts.parameters("ls")]), metrics


@given(st.integers(0, 10**6), share, st.floats(0.1, 2), st.booleans())
def test_it_is_linear_in_the_advantage_and_held_by_the_distance_from_the_reference(seed, r, b, masked):
    g = torch.Generator().manual_seed(seed)
    v, ref, target = torch.randn(3, 2, 4, 5, 1, 1, generator=g, dtype=torch.float64)
    mask = (torch.rand(2, 4, 1, 1, 1, generator=g) < 0.5).float() if masked else torch.ones(2, 1, 1, 1, 1)
    mask[:, 0] = 1
    r_B = torch.full((2,), r)
    found = implicit_error(v, ref, target, r_B, b, mask) - velocity_error(ref, target, mask)

    def mean(x):
        return (x * mask).flatten(1).sum(1) / mask.expand_as(x).flatten(1).sum(1)

    wanted = 2 * b * (2 * r - 1) * mean((ref - target) * (v - ref)) + b * b * mean((v - ref).square())
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=1e-4)


def test_a_candidate_that_is_all_good_is_fine_tuning_on_it():
    v, ref, target = torch.randn(3, 2, 4, 5, 1, 1)
    found = implicit_error(v, ref, target, torch.ones(2), 1.0, None)
    torch.testing.assert_close(found, velocity_error(v, target))


@pytest.mark.parametrize("masks", [False, True])
def test_the_first_step_of_extreme_shares_is_dpos(masks):
    dpo, _ = gradient(make_batch(masks=masks), LossSettings(winner_weight=0.0, anchor=0.0))
    nft, metrics = gradient(group_batch(1.0, 0.0, masks=masks), NFT)
    torch.testing.assert_close(nft, dpo, atol=1e-6 * float(dpo.abs().max()), rtol=1e-3)
    assert metrics["loss"] == pytest.approx(0, abs=1e-5) and metrics["margin"] == 0


def test_without_spread_nothing_is_learnt():
    grad, _ = gradient(group_batch(0.5, 0.5), NFT)
    full, _ = gradient(group_batch(1.0, 0.0), NFT)
    assert grad.abs().max() < 1e-5 * full.abs().max()


@pytest.mark.parametrize(("r_w", "r_l"), [(1.0, 0.0), (0.8, 0.4), (0.9, 0.6), (0.4, 0.1)])
def test_a_step_raises_the_better_candidate_over_the_worse_one(r_w, r_l):
    """Also where both are good, or both bad: what counts is who is the better."""
    transformer = tiny_wan()
    velocity, experts = velocity_of(transformer), Experts(transformer, ("ls",), ExpertSettings(rank=4))
    optimizer = torch.optim.AdamW(experts.parameters("ls"), 1e-3, weight_decay=0.0)
    batch = group_batch(r_w, r_l)
    for _ in range(8):
        metrics = expert_step(velocity, experts, "ls", batch, NFT)
        update(optimizer)
    assert metrics["winner_gap"] < metrics["loser_gap"] and metrics["margin"] > 0


def test_it_stops_by_itself_near_the_reference():
    """DPO goes on pushing a pair apart; here the distance has its least loss at a bounded place."""
    moved = {}
    for config in (NFT, NFT.replaced(mixing=0.25)):
        transformer = tiny_wan()
        velocity, experts = velocity_of(transformer), Experts(transformer, ("ls",), ExpertSettings(rank=4))
        optimizer = torch.optim.AdamW(experts.parameters("ls"), 3e-3, weight_decay=0.0)
        batch = group_batch(0.75, 0.25, masks=False)
        for _ in range(30):
            expert_step(velocity, experts, "ls", batch, config)
            update(optimizer)
        with torch.no_grad():
            ref = velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions)
            with experts.train_expert("ls"):
                moved[config.mixing] = (velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions) - ref).norm()
    assert moved[1.0] < 0.75 * moved[0.25]


@pytest.mark.parametrize("microbatch", [1, 2])
def test_a_batch_in_parts_leaves_the_gradients_of_the_whole(microbatch):
    batch = replace(make_batch(5), r_w_B=torch.linspace(1, 0.6, 5), r_l_B=torch.linspace(0, 0.5, 5))
    whole, metrics = gradient(batch, LossSettings(kind="nft"))
    parts, found = gradient(batch, LossSettings(kind="nft"), microbatch)
    torch.testing.assert_close(parts, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-3)
    assert found == pytest.approx(metrics, rel=1e-4, abs=1e-4)


def test_it_runs_the_transformer_as_often_as_dpo():
    counts = []
    for config, batch in ((LossSettings(), make_batch()), (LossSettings(kind="nft"), group_batch(1.0, 0.0))):
        transformer, calls = tiny_wan(), []
        velocity = velocity_of(transformer)

        def counted(x, t, conditions, calls=calls, velocity=velocity):
            calls.append((len(x), torch.is_grad_enabled()))
            return velocity(x, t, conditions)

        expert_step(counted, Experts(transformer, ("ls",)), "ls", batch, config)
        counts.append(calls)
    assert counts[0] == counts[1]


def test_the_reference_is_the_base_and_is_not_run_where_it_is_known():
    transformer = tiny_wan()
    velocity, experts = velocity_of(transformer), Experts(transformer, ("ls",))
    known = with_reference(velocity, experts, group_batch(1.0, 0.0), NFT)
    with torch.no_grad():
        errors = pair_errors(velocity, known, NFT)  # no adapter is at work
    torch.testing.assert_close(errors.implicit_B, errors.ref_winner_B + errors.ref_loser_B)
    assert with_reference(velocity, experts, known, NFT) is known


@pytest.mark.parametrize("per_group", [None, 2])
def test_a_run_gives_each_expert_the_advantages_of_its_own_dimension(per_group):
    scores = [[0.9, 0.2, 0.5], [0.1, 0.8, 0.6], [0.5, 0.5, 0.4]]
    for group in GROUPS:
        for candidate, score in zip(group.candidates, scores, strict=True):
            candidate.scores = score
    try:
        run = make_run(loss=LossSettings(kind="nft"), draws=DrawSettings(per_group=per_group))
        assert run.masks == masks(DEFAULT_DIMENSIONS)
        for name, best in zip(DIMS, (0, 1, 1), strict=True):
            batch = run._batch(name)
            assert (batch.r_w_B > batch.r_l_B).all()
            assert (batch.r_w_B <= 1).all() and (batch.r_l_B >= 0).all()
            latents = {torch.from_numpy(g.candidates[best].latents_CFHW).sum().item() for g in GROUPS}
            assert {
                x.sum().item() for x in batch.x_w_BCFHW
            } <= latents  # of three, the best is in every couple
        run.train(4, lambda run: None)
        moved = {point["name"] for point in run.curves if point["grad_norm"] > 0}
        assert moved == {*DIMS, "sum", "gate"} and FULL not in run.untrained
    finally:
        for group in GROUPS:
            for candidate in group.candidates:
                candidate.scores = None


@pytest.mark.parametrize(
    "bad", [{"winner_weight": 0.5}, {"safeguard_mu": 0.5}, {"mixing": 0}, {"advantage_clip": 0}]
)
def test_mistakes_are_named(bad):
    with pytest.raises(ValueError, match="LossSettings"):
        LossSettings(kind="nft", **bad)
