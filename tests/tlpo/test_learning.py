"""Does it learn? A base that knows two kinds of clips, preferences for one kind, pairs never seen."""

from functools import partial

import pytest
import torch

from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.settings import ExpertSettings, LossSettings
from ft2ray.tlpo.step import PairBatch, expert_step, pair_metrics
from ft2ray.training import update
from tests.tlpo.conftest import CHANNELS, FRAMES, tiny_wan, velocity_of

plain_loss = partial(LossSettings, beta=500.0, winner_weight=0.0)  # DPO alone

PATTERN = torch.tensor([1.0, -1.0, 0.5, 0.0]).view(CHANNELS, 1, 1, 1).expand(CHANNELS, FRAMES, 1, 1)
TEXT = torch.ones(3, 8)


def clips(count, sign, g):
    """Winners lie around +PATTERN, losers around -PATTERN."""
    return sign * PATTERN + 0.5 * torch.randn((count, *PATTERN.shape), generator=g)


def pairs(count, seed):
    g = torch.Generator().manual_seed(seed)
    return PairBatch(
        clips(count, 1, g), clips(count, -1, g), None, None, [TEXT] * count,
        torch.randn((count, *PATTERN.shape), generator=g), torch.rand(count, generator=g),
    )  # fmt: skip


@pytest.fixture(scope="module")
def base():
    """Trained by flow matching on both kinds alike."""
    model, g = tiny_wan(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        x0 = torch.cat([clips(8, 1, g), clips(8, -1, g)])
        eps, t_B = torch.randn(x0.shape, generator=g), torch.rand(16, generator=g)
        t = t_B.view(-1, 1, 1, 1, 1)
        v = velocity_of(model)((1 - t) * x0 + t * eps, t_B, [TEXT] * 16)
        (v - (eps - x0)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@torch.no_grad()
def liking(velocity):
    """How far samples lean to the winners' side: mean projection on PATTERN, +1 on winners, -1 on losers."""
    x = torch.randn((64, *PATTERN.shape), generator=torch.Generator().manual_seed(99))
    for step in range(8):
        t_B = torch.full((64,), 1 - step / 8)
        x = x - velocity(x, t_B, [TEXT] * 64) / 8
    return ((x * PATTERN).sum((1, 2, 3, 4)) / PATTERN.square().sum()).mean().item()


@pytest.mark.parametrize(
    "config",
    [
        plain_loss(beta=20),
        plain_loss(beta=20, safeguard_mu=0.9),
        plain_loss(kind="ipo", beta=2),
        plain_loss(kind="simpo", beta=5),
    ],
    ids=["dpo", "dpo_safeguarded", "ipo", "simpo"],
)
def test_the_margin_rises_on_held_out_pairs_and_samples_move_to_the_winners(base, config):
    model = tiny_wan()
    model.load_state_dict(base)
    velocity, held_out = velocity_of(model), pairs(64, seed=12345)
    experts = Experts(model, ("mn",), ExpertSettings(rank=4, alpha=4))
    before = liking(velocity)
    optimizer = torch.optim.AdamW(experts.parameters("mn"), lr=3e-3, weight_decay=0.0)
    for step in range(40):
        expert_step(velocity, experts, "mn", pairs(8, seed=step), config)
        update(optimizer)
    experts.use(("mn",))
    metrics = pair_metrics(velocity, experts, held_out, plain_loss(beta=20))
    assert metrics["margin"] > 0.15 and metrics["accuracy"] > 0.8
    assert liking(velocity) > before + 0.2
    experts.use()
    assert pair_metrics(velocity, experts, held_out, plain_loss(beta=20))["margin"] == 0
    assert liking(velocity) == before
