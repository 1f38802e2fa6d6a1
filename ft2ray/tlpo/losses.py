"""Preference losses on velocity errors: pure functions -> (loss, metrics).

Flow matching as in Wan: x_t = (1 - t) x_0 + t eps, target v = eps - x_0. The error of a model on a sample is
l(x) = mean over elements of (v - v_model(x_t, t))^2; the mean is what beta is stated for (100 to 2000; a sum
over elements would want beta smaller by their number). With winner w, loser l, reference = adapters off:

    h = -1/2 [(l(w) - l_ref(w)) - (l(l) - l_ref(l))]          implicit reward margin / beta
    DPO    -log sigmoid(beta h)                               ln 2 at step 0 (paper.md 3.2)
    IPO    (beta h - 1/2)^2                                   Azar et al.: (h - 1/(2 beta))^2, times beta^2;
                                                              its gradient starts at twice DPO's
    SimPO  -log sigmoid(-beta/2 (l(w) - l(l)) - gamma)        no reference; the mean normalises the length

The fourth kind learns from groups, not from pairs: every candidate has a share of good r in [0, 1] (see
preference/groups.py), and the policy is mixed with the reference in two ways (DiffusionNFT, 2509.16117):

    v+ = (1 - b) v_ref + b v,    v- = (1 + b) v_ref - b v
    NFT    beta/(4 b) [r |v+ - v*|^2 + (1 - r) |v- - v*|^2 - l_ref],    summed over two candidates

with v* the target. With d = v - v_ref and e = v_ref - v* the bracket is 2 b (2 r - 1) <e, d> + b^2 |d|^2:
linear in the advantage, and bounded, least at d = -(2 r - 1) e / b. The factor makes its first gradient DPO's
where r is 1 and 0, so that one anchor serves both. With r = 1 and b = 1 it is beta/4 times fine-tuning on
that candidate; r = 1/2 only holds to the reference.

Losses on pairs only ask that winners and losers are told apart, and few pairs are told apart most easily by a
larger error on both. The winners' own flow-matching loss, added as in Playmate2 (2510.12089), asks for what
is wanted: weight beta/2 sigmoid(-beta h) (l(w) - l_ref(w)), what DPO's gradient weighs the winners' error by.
It fades as the pair is told apart, as DPO does: with a constant weight (beta/4, DPO's at the start) a
training ends as plain fine-tuning on its winners.

Where the error counts one region only, nothing in it says what happens elsewhere, and an expert for lips
moves heads. The anchor holds it to the reference there: weight times the mean over the elements outside of
the mask of (v - v_ref)^2.

Shapes: B pairs, C latent channels, F latent frames, H W latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ft2ray.tlpo.settings import LossSettings

Metrics = dict[str, float]


@dataclass(frozen=True)
class PairErrors:
    """Velocity errors [B] of winner and loser; `ref_*` are the reference's, None where a loss needs none.

    `drift_B`: mean squared distance from the reference outside of the mask, over both sides of the pair.
    `displacement_B`: squared distance from the reference over the reference's square, whole frame: how far
    the policy has gone, which is watched only.
    `implicit_B`: error of the two implicit policies, over both sides; of the loss on groups alone.
    """

    winner_B: Tensor
    loser_B: Tensor
    ref_winner_B: Tensor | None = None
    ref_loser_B: Tensor | None = None
    drift_B: Tensor | None = None
    implicit_B: Tensor | None = None
    displacement_B: Tensor | None = None


def velocity_error(
    v_BCFHW: Tensor,
    target_BCFHW: Tensor,
    mask_BCFHW: Tensor | None = None,
    weight_C: Tensor | None = None,
) -> Tensor:
    """Mean squared velocity error per sample [B].

    With a mask (0..1, broadcastable) l = (N / ||M||_1) mean((M (v - target))^2): area-normalised, so that a
    small mouth counts as much as a large one. A mask that is 0 everywhere gives NaN; PairBatch refuses it.
    With weights of the channels both sums count each channel by its weight.
    """
    error = (v_BCFHW.float() - target_BCFHW.float()).flatten(1)
    if mask_BCFHW is None and weight_C is None:
        return error.square().mean(1)
    mask, weight = _flat(mask_BCFHW, v_BCFHW), _flat(_channels(weight_C), v_BCFHW)
    return (weight * (mask * error).square()).sum(1) / (weight * mask).sum(1)


def drift(v_BCFHW: Tensor, v_ref_BCFHW: Tensor, mask_BCFHW: Tensor, weight_C: Tensor | None = None) -> Tensor:
    """Mean squared distance from the reference's velocity outside of the mask, per sample [B].

    A mask that is 1 everywhere leaves nothing to hold: 0.
    """
    outside = _flat(_channels(weight_C), v_BCFHW) * (1 - _flat(mask_BCFHW, v_BCFHW))
    moved = (v_BCFHW.float() - v_ref_BCFHW.float()).flatten(1)
    return (outside * moved.square()).sum(1) / outside.sum(1).clamp_min(1e-6)


def _channels(weight_C: Tensor | None) -> Tensor | None:
    return None if weight_C is None else weight_C[None, :, None, None, None]


def _flat(of: Tensor | None, like_BCFHW: Tensor) -> Tensor:
    """Mask or weights of every element of a sample, [B, elements]; None counts everything as 1."""
    whole = torch.ones((), device=like_BCFHW.device) if of is None else of.to(like_BCFHW.device)
    return whole.expand(like_BCFHW.shape).float().flatten(1)


def implicit_error(
    v_BCFHW: Tensor,
    v_ref_BCFHW: Tensor,
    target_BCFHW: Tensor,
    r_B: Tensor,
    b: float,
    mask_BCFHW: Tensor | None = None,
    weight_C: Tensor | None = None,
) -> Tensor:
    """r |v+ - target|^2 + (1 - r) |v- - target|^2 per sample [B], counted as `velocity_error` does."""
    ref_BCFHW = v_ref_BCFHW.float()
    step_BCFHW = b * (v_BCFHW.float() - ref_BCFHW)
    good_B = velocity_error(ref_BCFHW + step_BCFHW, target_BCFHW, mask_BCFHW, weight_C)
    bad_B = velocity_error(ref_BCFHW - step_BCFHW, target_BCFHW, mask_BCFHW, weight_C)
    return r_B * good_B + (1 - r_B) * bad_B


def flow_dpo(errors: PairErrors, beta: float) -> tuple[Tensor, Metrics]:
    """-log sigmoid of the reward margin beta h; ln 2 where policy and reference agree."""
    margin_B = beta * _half_gap(errors)
    return -F.logsigmoid(margin_B).mean(), _metrics(margin_B, errors)


def ipo(errors: PairErrors, beta: float) -> tuple[Tensor, Metrics]:
    """Squared distance of the margin from 1/2: stops pushing once the pair is told apart; 1/4 at step 0."""
    margin_B = beta * _half_gap(errors)
    return (margin_B - 0.5).square().mean(), _metrics(margin_B, errors)


def simpo(errors: PairErrors, beta: float, gamma: float = 0.0) -> tuple[Tensor, Metrics]:
    """Reference-free: the winner's error itself must be the smaller, by gamma in units of the margin."""
    margin_B = -0.5 * beta * (errors.winner_B - errors.loser_B) - gamma
    return -F.logsigmoid(margin_B).mean(), _metrics(margin_B, errors)


def diffusion_nft(errors: PairErrors, beta: float, b: float) -> tuple[Tensor, Metrics]:
    """Every candidate drawn to or pushed from by its share of good; 0 where policy and reference agree."""
    assert (
        errors.implicit_B is not None and errors.ref_winner_B is not None and errors.ref_loser_B is not None
    )
    above_B = errors.implicit_B - errors.ref_winner_B - errors.ref_loser_B
    return beta / (4 * b) * above_B.mean(), _metrics(beta * _half_gap(errors), errors)


def preference_loss(errors: PairErrors, config: LossSettings) -> tuple[Tensor, Metrics]:
    """The loss named by `config.kind`, the winners' own and the anchor."""
    if config.kind == "simpo":
        loss, metrics = simpo(errors, config.beta, config.gamma)
    elif config.kind == "nft":
        loss, metrics = diffusion_nft(errors, config.beta, config.mixing)
    else:
        loss, metrics = {"dpo": flow_dpo, "ipo": ipo}[config.kind](errors, config.beta)
    weight = config.weight_of_winners
    if weight:
        known_B = 0.0 if errors.ref_winner_B is None else errors.ref_winner_B
        fade_B: Tensor | float = 0.5
        if config.winner_fades:
            fade_B = torch.sigmoid(-config.beta * _half_gap(errors).detach())
        loss = loss + (weight * config.beta / 2 * fade_B * (errors.winner_B - known_B)).mean()
    if errors.drift_B is not None:
        loss = loss + config.anchor * errors.drift_B.mean()
        metrics["drift"] = errors.drift_B.mean().item()
    return loss, metrics


def safe_loser_scale(winner_grad: Sequence[Tensor], loser_grad: Sequence[Tensor], mu: float) -> Tensor:
    """Factor in [0, 1] on the loser's gradient that keeps the winner's error from rising (Diffusion-SDPO).

    A preference loss moves the parameters along -(g_w - lambda g_l), where g_w and g_l are the gradients of
    the pair-weighted errors of the winners and of the losers. To first order the winners' error then changes
    by -(|g_w|^2 - lambda <g_w, g_l>) times the step. Diffusion-SDPO asks that at least mu of the winner's own
    descent is left, |g_w|^2 - lambda <g_w, g_l> >= mu |g_w|^2: lambda = min(1, (1 - mu) |g_w|^2 / <g_w, g_l>)
    where the inner product is positive, 1 where it is not. mu = 0 only keeps the winners' error from rising,
    mu = 1 leaves the loser out. There lambda is found in the space of the outputs; here in that of the
    parameters, where the bound is exact for a plain gradient step; an adaptive optimiser rescales coordinates
    and keeps it approximately.
    """
    norm = sum((g.square().sum() for g in winner_grad), torch.zeros(()))
    inner = sum((w * lo).sum() for w, lo in zip(winner_grad, loser_grad, strict=True))
    assert isinstance(norm, Tensor) and isinstance(inner, Tensor)
    return torch.where(
        inner > 0, ((1 - mu) * norm / inner.clamp_min(1e-30)).clamp(max=1.0), torch.ones_like(norm)
    )


def _half_gap(errors: PairErrors) -> Tensor:
    """h [B]: half of how much more the policy improved on the winner than on the loser."""
    assert errors.ref_winner_B is not None and errors.ref_loser_B is not None, "this loss needs a reference"
    winner_gap = errors.winner_B - errors.ref_winner_B
    return -0.5 * (winner_gap - (errors.loser_B - errors.ref_loser_B))


def _metrics(margin_B: Tensor, errors: PairErrors) -> Metrics:
    """margin; share of pairs told apart (a tie counts half); error minus reference error of either side."""
    with torch.no_grad():
        margin = margin_B.detach()
        metrics = {
            "margin": margin.mean().item(),
            "accuracy": ((margin > 0).float() + 0.5 * (margin == 0).float()).mean().item(),
            "winner_error": errors.winner_B.mean().item(),
            "loser_error": errors.loser_B.mean().item(),
        }
        if errors.ref_winner_B is not None and errors.ref_loser_B is not None:
            metrics["winner_gap"] = (errors.winner_B - errors.ref_winner_B).mean().item()
            metrics["loser_gap"] = (errors.loser_B - errors.ref_loser_B).mean().item()
        if errors.displacement_B is not None:
            metrics["displacement"] = errors.displacement_B.mean().item()
    return metrics
