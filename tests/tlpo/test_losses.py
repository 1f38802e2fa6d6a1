"""Losses: values known in closed form, invariances, and the winner's safeguard."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ft2ray.tlpo.losses import (
    PairErrors,
    drift,
    flow_dpo,
    ipo,
    preference_loss,
    safe_loser_scale,
    simpo,
    velocity_error,
)
from ft2ray.tlpo.settings import LossSettings

error = st.floats(0, 4)
quadruple = st.tuples(error, error, error, error)


def errors(w, lo, ref_w, ref_l):
    return PairErrors(*(torch.tensor([value], dtype=torch.float64) for value in (w, lo, ref_w, ref_l)))


def test_where_policy_and_reference_agree_dpo_is_ln_2_and_every_margin_0():
    e = torch.rand(5)
    loss, metrics = flow_dpo(PairErrors(e, e.flip(0), e, e.flip(0)), beta=500)
    assert loss.item() == torch.tensor(math.log(2)).item()
    assert metrics["margin"] == metrics["winner_gap"] == metrics["loser_gap"] == 0
    assert metrics["accuracy"] == 0.5
    assert ipo(PairErrors(e, e, e, e), beta=500)[0].item() == 0.25


@given(quadruple, st.floats(0.1, 50))
def test_dpo_equals_its_formula_and_swapping_the_sides_mirrors_it(q, beta):
    w, lo, rw, rl = q
    margin = -beta / 2 * ((w - rw) - (lo - rl))
    loss, metrics = flow_dpo(errors(w, lo, rw, rl), beta)
    assert metrics["margin"] == pytest.approx(margin)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-abs(margin))) + max(-margin, 0))
    swapped, swapped_metrics = flow_dpo(errors(lo, w, rl, rw), beta)
    assert swapped_metrics["margin"] == pytest.approx(-margin)
    assert swapped.item() - loss.item() == pytest.approx(margin, abs=1e-9)


@given(quadruple, st.floats(0.01, 1))
def test_a_better_winner_or_a_worse_loser_lowers_the_loss(q, step):
    w, lo, rw, rl = q
    for config in (LossSettings(kind="dpo", beta=2, winner_weight=0.0), LossSettings(kind="simpo", beta=2)):
        here = preference_loss(errors(w, lo, rw, rl), config)[0]
        assert preference_loss(errors(w - step, lo, rw, rl), config)[0] < here
        assert preference_loss(errors(w, lo + step, rw, rl), config)[0] < here


@given(quadruple, st.floats(0, 5), st.sampled_from(["dpo", "ipo", "simpo"]))
def test_the_winners_own_loss_adds_to_the_winners_gradient_alone(q, weight, kind):
    e = errors(*q)
    e.winner_B.requires_grad_(True), e.loser_B.requires_grad_(True)
    sides = (e.winner_B, e.loser_B)
    plain, added = (
        torch.autograd.grad(
            preference_loss(e, LossSettings(kind=kind, beta=8, winner_weight=w, winner_fades=False))[0], sides
        )
        for w in (0.0, weight)
    )
    assert added[0].item() == pytest.approx(plain[0].item() + 2 * weight)
    assert added[1].item() == plain[1].item()


@given(error, error, st.floats(0, 5))
def test_the_winners_own_loss_is_in_units_of_dpos_weight_at_the_start(w, lo, weight):
    e = errors(w, lo, w, lo)
    e.winner_B.requires_grad_(True)
    loss = preference_loss(e, LossSettings(kind="dpo", beta=8, winner_weight=weight))[0]
    assert loss.item() == pytest.approx(math.log(2))
    assert torch.autograd.grad(loss, e.winner_B)[0].item() == pytest.approx((1 + weight) * 8 / 4)


@given(quadruple, st.floats(0.1, 10))
def test_ipo_is_least_where_the_half_gap_is_one_over_two_beta(q, beta):
    w, lo, rw, rl = q
    best = 2 * (1 / (2 * beta)) + (w - rw) + rl  # the loser's error that makes h = 1 / (2 beta)
    assert ipo(errors(w, best, rw, rl), beta)[0].item() == pytest.approx(0, abs=1e-12)
    assert ipo(errors(w, lo, rw, rl), beta)[0].item() >= 0


def test_simpo_needs_no_reference():
    loss, metrics = simpo(PairErrors(torch.tensor([0.2]), torch.tensor([0.5])), beta=10, gamma=0.5)
    assert metrics["margin"] == pytest.approx(1.0) and loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert "winner_gap" not in metrics


@given(st.integers(0, 10**6), st.floats(0.05, 1))
def test_a_masked_error_does_not_depend_on_the_area_or_on_what_lies_outside(seed, share):
    g = torch.Generator().manual_seed(seed)
    v, target = torch.zeros(2, 3, 8, 4, 4), torch.ones(2, 3, 8, 4, 4)
    mask = (torch.rand(2, 1, 8, 4, 4, generator=g) < share).float()
    assume((mask.flatten(1).sum(1) > 0).all())
    torch.testing.assert_close(velocity_error(v, target, mask), torch.ones(2))  # an error of 1 everywhere
    torch.testing.assert_close(velocity_error(v + 7 * (1 - mask), target, mask), torch.ones(2))


def test_a_full_mask_is_no_mask_and_the_error_is_the_mean_square():
    v, target = torch.randn(2, 3, 4, 1, 1), torch.randn(2, 3, 4, 1, 1)
    plain = velocity_error(v, target)
    torch.testing.assert_close(plain[1], (v[1] - target[1]).square().mean())
    torch.testing.assert_close(velocity_error(v, target, torch.ones(2, 1, 1, 1, 1)), plain)


@given(st.integers(0, 10**6), st.booleans())
def test_channel_weights_move_the_error_between_channels_and_leave_its_size(seed, masked):
    g = torch.Generator().manual_seed(seed)
    v, target, weight_C = (
        torch.zeros(2, 3, 4, 1, 1),
        torch.ones(2, 3, 4, 1, 1),
        torch.rand(3, generator=g) + 0.1,
    )
    mask = torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1, 1) if masked else None
    torch.testing.assert_close(velocity_error(v, target, mask, weight_C), torch.ones(2))
    v[:, 0] = 1  # no error in the first channel
    counted = weight_C[: 2 if masked else 3]
    wanted = 1 - weight_C[0] / counted.sum()
    torch.testing.assert_close(velocity_error(v, target, mask, weight_C), wanted.expand(2))
    same = velocity_error(v, target, mask, torch.full((3,), 0.7))
    torch.testing.assert_close(same, velocity_error(v, target, mask))


def test_the_anchor_counts_channels_by_their_weights():
    v, ref = torch.zeros(1, 3, 4, 1, 1), torch.zeros(1, 3, 4, 1, 1)
    v[:, 1] = 1
    mask, weight_C = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1, 1), torch.tensor([1.0, 3.0, 1.0])
    assert drift(v, ref, mask, weight_C).item() == pytest.approx(0.75)


vector = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4)


@given(vector, vector, st.floats(0.05, 1))
def test_the_safeguarded_step_never_raises_the_winners_error_to_first_order(w, lo, mu):
    winner, loser = torch.tensor(w, dtype=torch.float64), torch.tensor(lo, dtype=torch.float64)
    assume(winner.norm() > 1e-6 or winner.norm() == 0)  # below, the guard against dividing by zero decides
    scale = safe_loser_scale([winner[:1], winner[1:]], [loser[:1], loser[1:]], mu)
    assert 0 <= scale <= 1
    change = -torch.dot(winner, winner - scale * loser)  # d winner error along the step -(g_w - scale g_l)
    assert change <= -mu * winner.square().sum() + 1e-9
    if torch.dot(winner, loser) <= (1 - mu) * winner.square().sum():
        assert scale == 1  # the loser is held back only where it has to be


@pytest.mark.parametrize(
    "bad", [{"kind": "kto"}, {"beta": 0}, {"safeguard_mu": -0.1}, {"safeguard_mu": 1.5}, {"anchor": -1}]
)
def test_mistakes_are_named(bad):
    with pytest.raises(ValueError, match="LossSettings"):
        LossSettings(**bad)


@given(quadruple, st.floats(0.1, 5))
def test_the_winners_own_loss_fades_as_the_pair_is_told_apart(q, weight):
    """Its weight is DPO's own: beta/2 sigmoid(-margin), times the setting."""
    gradients = []
    for own in (0.0, weight):
        e = errors(*q)
        e.winner_B.requires_grad_(True)
        loss, metrics = preference_loss(e, LossSettings(beta=8, winner_weight=own))
        gradients.append(torch.autograd.grad(loss, e.winner_B)[0].item())
    assert gradients[1] == pytest.approx((1 + weight) * gradients[0])
    assert gradients[0] == pytest.approx(4 / (1 + math.exp(metrics["margin"])))


def test_every_kind_has_the_winner_weight_it_is_published_with():
    found = {kind: LossSettings(kind=kind).weight_of_winners for kind in ("dpo", "ipo", "simpo")}
    assert found == {"dpo": 0.5, "ipo": 0.0, "simpo": 0.0}
    assert LossSettings(winner_weight=0.0).weight_of_winners == 0


@given(quadruple, st.floats(-2, 2))
def test_simpos_target_margin_is_reached_through_its_settings(q, gamma):
    losses = [
        preference_loss(errors(*q), LossSettings(kind="simpo", beta=2, gamma=g))[1]["margin"]
        for g in (0.0, gamma)
    ]
    assert losses[0] - losses[1] == pytest.approx(gamma, abs=1e-9)


def test_ipos_gradient_starts_at_twice_dpos():
    found = []
    for kind in ("dpo", "ipo"):
        e = errors(1.0, 1.0, 1.0, 1.0)
        e.winner_B.requires_grad_(True)
        loss, _ = preference_loss(e, LossSettings(kind=kind, beta=8, winner_weight=0.0))
        found.append(torch.autograd.grad(loss, e.winner_B)[0].item())
    assert found[1] == pytest.approx(2 * found[0])
