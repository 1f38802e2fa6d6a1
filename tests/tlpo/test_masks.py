"""Masks and anchors: an expert learns inside of its region and is held to the reference outside of it."""

import pytest
import torch

from ft2ray.preference.draws import DrawSettings, held_out
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.losses import drift
from ft2ray.tlpo.masks import region_mask
from ft2ray.tlpo.settings import ExpertSettings, LossSettings, OptimizerSettings
from ft2ray.tlpo.step import expert_step
from ft2ray.training import update
from tests.tlpo.conftest import CHANNELS, FRAMES, make_batch, tiny_wan, velocity_of
from tests.tlpo.test_run import REGIONS, make_run

LIPS = torch.zeros(CHANNELS, 1, 1, 1)
LIPS[:2] = 1


def test_a_region_is_the_lip_mask_its_complement_or_channels_of_the_generator():
    assert torch.equal(region_mask("lips", LIPS, {}), LIPS)
    assert torch.equal(region_mask("head", LIPS, {}), 1 - LIPS)
    assert torch.equal(region_mask("head", LIPS, REGIONS).flatten(), REGIONS["head"])
    assert region_mask("shape", LIPS, {}) is region_mask("all", LIPS, REGIONS) is None


def test_drift_counts_only_what_lies_outside():
    v, ref = torch.zeros(2, CHANNELS, FRAMES, 1, 1), torch.zeros(2, CHANNELS, FRAMES, 1, 1)
    mask = LIPS.expand(2, CHANNELS, 1, 1, 1)
    v[:, :2] = 7
    assert drift(v, ref, mask).tolist() == [0, 0]
    v[1, 2:] = 3
    assert drift(v, ref, mask).tolist() == [0, 9]
    assert drift(v, ref, torch.ones(2, 1, 1, 1, 1)).tolist() == [0, 0]  # nothing to hold


@pytest.mark.parametrize("kind", ["dpo", "simpo"])
def test_the_anchor_keeps_an_expert_to_its_region(kind):
    """Outside of the mask the anchored expert moves by less than a tenth of what it does without."""
    moved = {}
    for anchor in (0.0, 200.0):
        transformer = tiny_wan()
        velocity, experts = velocity_of(transformer), Experts(transformer, ("ls",), ExpertSettings(rank=4))
        optimizer = torch.optim.AdamW(experts.parameters("ls"), 3e-3, weight_decay=0.0)
        config = LossSettings(kind=kind, anchor=anchor, winner_weight=0.0)
        for _ in range(60):
            metrics = expert_step(velocity, experts, "ls", make_batch(), config)
            update(optimizer)
        assert metrics["accuracy"] == 1 and ("drift" in metrics) == (anchor > 0)
        batch = make_batch()
        with torch.no_grad():
            ref = velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions)
            with experts.train_expert("ls"):
                v = velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions)
        moved[anchor] = drift(v, ref, batch.mask_w_BCFHW).mean().item()
    assert moved[200.0] < 0.1 * moved[0.0]


def test_the_anchor_is_0_with_its_gradient_at_the_start(transformer):
    experts = Experts(transformer, ("ls",), ExpertSettings(rank=4))
    found = []
    for anchor in (0.0, 200.0):
        config = LossSettings(anchor=anchor)
        metrics = expert_step(velocity_of(transformer), experts, "ls", make_batch(), config)
        found.append((metrics["loss"], [p.grad.clone() for p in experts.parameters("ls")]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.parametrize("microbatch", [None, 1])
@pytest.mark.parametrize("per_group", [None, 2])
def test_every_dimension_has_its_own_mask_in_a_run(per_group, microbatch):
    run = make_run(draws=DrawSettings(per_group=per_group), loss=LossSettings(), microbatch=microbatch)
    for name, wanted in (("mn", REGIONS["head"]), ("ls", LIPS.flatten()), ("vq", REGIONS["shape"])):
        assert torch.equal(run._batch(name).mask_w_BCFHW[0].flatten(), wanted)
    assert run._batch("full").mask_w_BCFHW is run._batch("sum").mask_w_BCFHW is None
    run.train(2, lambda run: None)
    drifts = {point["name"] for point in run.curves if "drift" in point}
    assert drifts == {"mn", "ls", "vq"}  # the baseline has no mask, so nothing to hold it


def test_a_generator_without_channels_for_it_takes_the_complement_of_the_lips():
    run = make_run(loss=LossSettings())
    run.generator.regions = {}
    assert torch.equal(run._batch("mn").mask_w_BCFHW[0], 1 - LIPS)
    assert run._batch("vq").mask_w_BCFHW is None


def test_stage_2_learns_from_groups_that_stage_1_never_sees():
    share = 0.5
    run = make_run(gate_groups=share)
    gate = {group for group in run.groups if held_out(group, share)}
    assert 0 < len(gate) < len(run.groups)
    assert set(run.pools["full"]._ids) == gate
    assert set(run.pools["ls"]._ids) == set(run.groups) - gate


def test_about_the_share_of_groups_is_held_out():
    assert 150 < sum(held_out(f"group {n}", 0.2) for n in range(1000)) < 250
    assert not any(held_out(f"group {n}", 0.0) for n in range(100))


def test_a_training_ends_at_the_first_value_that_is_not_finite():
    from ft2ray.errors import NonFiniteError

    saved = []
    run = make_run(optimizer=OptimizerSettings(learning_rate=1e30, gate_learning_rate=1e-2))
    with pytest.raises(NonFiniteError, match="adapter (mn|ls|vq|sum) at step"):
        run.train(4, lambda run: saved.append(run.step))
    assert run.step not in saved
