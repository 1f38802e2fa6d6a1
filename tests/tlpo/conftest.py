"""A tiny Wan transformer and synthetic pairs, so that every test of this room runs in milliseconds."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import settings

from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.settings import ExpertSettings
from ft2ray.tlpo.step import PairBatch

CHANNELS, FRAMES, LAYERS, WIDTH = 4, 5, 2, 24
DIMS = ("mn", "ls", "vq")

torch.set_num_threads(1)
settings.register_profile("no_deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no_deadline")


def tiny_wan(seed: int = 0) -> WanTransformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=2,
            attention_head_dim=WIDTH // 2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=8,
            freq_dim=16,
            ffn_dim=32,
            num_layers=LAYERS,
            cross_attn_norm=True,
        )


def velocity_of(transformer):
    """The generator as the steps see it; one condition is a text [L, 8]."""

    def velocity(x_BCFHW, t_B, conditions):
        return transformer(x_BCFHW, t_B * 1000, torch.stack(conditions), return_dict=False)[0]

    return velocity


def randomise(experts: Experts, std: float = 0.05, seed: int = 1) -> None:
    """Give every expert an effect: a new adapter has none, its B is zero."""
    generator = torch.Generator().manual_seed(seed)
    for name in experts.names:
        for parameter in experts.parameters(name):
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * std)


def make_batch(pairs: int = 3, seed: int = 0, masks: bool = True) -> PairBatch:
    g = torch.Generator().manual_seed(seed)
    shape = (pairs, CHANNELS, FRAMES, 1, 1)
    mask = torch.zeros(pairs, CHANNELS, 1, 1, 1)
    mask[:, :2] = 1
    return PairBatch(
        x_w_BCFHW=torch.randn(shape, generator=g),
        x_l_BCFHW=torch.randn(shape, generator=g),
        mask_w_BCFHW=mask if masks else None,
        mask_l_BCFHW=mask if masks else None,
        conditions=list(torch.randn(pairs, 3, 8, generator=g)),
        eps_BCFHW=torch.randn(shape, generator=g),
        t_B=torch.rand(pairs, generator=g),
    )


@pytest.fixture
def transformer():
    return tiny_wan()


@pytest.fixture
def experts(transformer):
    """mn, ls, vq with random effects and an alpha unlike the rank."""
    experts = Experts(transformer, DIMS, ExpertSettings(rank=4, alpha=6))
    randomise(experts)
    return experts


@pytest.fixture
def call(transformer):
    """call() -> the transformer's velocity on fixed inputs, without gradients."""
    batch = make_batch()
    velocity = velocity_of(transformer)

    @torch.no_grad()
    def run():
        return velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions)

    return run
