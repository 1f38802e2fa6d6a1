"""The study's systems: which strengths are tried, and that adapters are put together as their names say."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.sampler import Conditions
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.policy import policy_of
from studies.annotators import DIMENSIONS
from studies.tlpo import Study, System, attach
from studies.tlpo_table import RULES
from studies.trainings import EXPERTS, _merge, least_motion, segments


@pytest.mark.parametrize(
    "gains, further",
    [
        ({0.5: 1, 1.0: 2, 3.0: 1}, None),
        ({0.5: 2, 1.0: 1, 3.0: 0}, 0.25),
        ({0.5: 0, 1.0: 1, 3.0: 2}, 4.5),
        ({1 / 32: 2, 1.0: 1}, None),
        ({1.0: 1, 34.0: 2}, None),
    ],
)
def test_strengths_are_tried_beyond_the_end_where_the_best_lies(tmp_path, gains, further):
    study = Study(SimpleNamespace(out=tmp_path), 1, 1, 1, explore=True)
    for strength, gain in {None: 0, **gains}.items():
        name, split = ("base", "validation") if strength is None else ("tlpo", "validation")
        place = {"system": name, "seed": 0, "split": split, "strength": strength or 1.0}
        study.rows += [
            place | {"prompt": f"p{n}", "noise": 0} | dict.fromkeys((*DIMENSIONS, *RULES), float(n + gain))
            for n in range(4)
        ]
    assert study.beyond("tlpo", 0) == further


@pytest.fixture(scope="module")
def generator() -> PortraitGenerator:
    return PortraitGenerator.load("embedded-uncurated")


@pytest.fixture
def policy(generator):
    """Three adapters of some size."""
    detach_experts(generator.transformer)
    experts = Experts(generator.transformer, DIMENSIONS, EXPERTS, seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name in DIMENSIONS:
            for key, parameter in experts.named_parameters(name).items():
                if "lora_B" in key:
                    parameter.normal_(std=0.003)
    yield policy_of(experts, DIMENSIONS, generator.fingerprint)
    detach_experts(generator.transformer)


def velocity(generator, sampled):
    frames, rng = 25, torch.Generator().manual_seed(0)
    width = generator.encode_prompt(None, np.zeros(16_000, np.float32)).audio_LD
    x = torch.randn(1, *generator.codec.latent_shape(frames), generator=rng)
    cond = Conditions(None, width, frames)
    with torch.no_grad():
        return sampled.velocity(x, torch.tensor([0.4]), [cond])


def test_a_merged_adapter_moves_the_base_as_an_attached_one(generator, policy):
    weights = (0.5, 1.0, 2.0)
    attached = velocity(generator, attach(generator, System(policy, weights)))
    merged = copy.deepcopy(attach(generator, System(None)))
    for weight, (config, tensors) in zip(weights, policy.adapters.values(), strict=True):
        _merge(merged.transformer, config, tensors, weight)
    assert torch.allclose(velocity(generator, merged), attached, atol=1e-5)
    assert not torch.allclose(velocity(generator, attach(generator, System(None))), attached, atol=1e-3)


def test_a_blend_adds_what_each_expert_alone_changes(generator, policy):
    base = velocity(generator, attach(generator, System(None)))
    alone = [
        velocity(generator, attach(generator, System(policy, tuple(float(i == k) for i in range(3)))))
        for k in range(3)
    ]
    wanted = base + 2.0 * sum(v - base for v in alone)
    blended = velocity(generator, attach(generator, System(policy, blended=True), 2.0))
    assert torch.allclose(blended, wanted, atol=1e-5)


def test_segments_hand_over_from_motion_to_lips_to_shape():
    t_B = torch.tensor([0.9, 0.5, 0.1])
    assert segments()(torch.zeros(3, 1), t_B)[:, 0].argmax(-1).tolist() == [0, 1, 2]


def test_least_motion_prefers_the_smallest_latents():
    candidates = [SimpleNamespace(latents_CFHW=np.full((2, 3), size)) for size in (2.0, 0.5, 1.0)]
    p_NK = least_motion(SimpleNamespace(candidates=candidates), np.random.default_rng(0))
    assert p_NK.shape == (3, 3) and np.argsort(-p_NK[:, 0]).tolist() == [1, 2, 0]
    assert ((p_NK > 0) & (p_NK < 1)).all()
