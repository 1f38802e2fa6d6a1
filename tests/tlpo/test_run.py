"""The whole of TLPO as one loop: its order, its resuming, its workers' shares."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ft2ray.dimensions import DEFAULT_DIMENSIONS, masks
from ft2ray.generator.sampler import text_tokens
from ft2ray.generator.settings import SamplerSettings
from ft2ray.preference.draws import DrawSettings
from ft2ray.preference.rules import Pair
from ft2ray.records import Candidate, PromptGroup
from ft2ray.systems import SUM
from ft2ray.tlpo.run import FULL, GATE, TlpoRun
from ft2ray.tlpo.settings import (
    ComputeSettings,
    ExpertSettings,
    LossSettings,
    OptimizerSettings,
    TlpoSettings,
)
from ft2ray.tlpo.step import noisy
from tests.tlpo.conftest import CHANNELS, DIMS, FRAMES, tiny_wan


def make_group(i):
    rng = np.random.default_rng(i)
    mask = np.zeros((CHANNELS, 1, 1, 1), np.float32)
    mask[:2] = 1
    candidates = [
        Candidate(f"{i}-{n}", "base", n, {}, rng.standard_normal((CHANNELS, FRAMES, 1, 1)).astype("f4"), mask)
        for n in range(3)
    ]
    return PromptGroup(
        f"g{i}", 0, f"p{i}", "a.jpg", "a", "b.wav", 0.0, 3.0, "gen", None, DIMS,
        rng.standard_normal((3, 8)).astype("f4"), np.zeros((4, 2), np.float32), FRAMES, candidates,
    )  # fmt: skip


GROUPS = [make_group(i) for i in range(4)]
PAIRS = {name: [Pair(k % 3, (k + 1) % 3, 0.5)] for k, name in enumerate((*DIMS, SUM, FULL))}
REGIONS = {"head": torch.tensor([0.0, 0.0, 1.0, 0.0]), "shape": torch.tensor([0.0, 1.0, 0.0, 1.0])}
LAST = 4  # 2 steps of the experts, 2 of the gate
SETTINGS = TlpoSettings(
    experts=ExpertSettings(rank=2), loss=LossSettings(beta=500.0, winner_weight=0.0), batch=2, steps=2,
    gate_steps=2, gate_groups=0.0, optimizer=OptimizerSettings(learning_rate=1e-2, gate_learning_rate=1e-2),
)  # fmt: skip


def make_run(without=(), rank=0, workers=1, **changes):
    compute = {name: changes.pop(name) for name in ComputeSettings.model_fields if name in changes}
    sampling, rounds = changes.pop("sampling", None), changes.pop("rounds", 1)
    transformer = tiny_wan()

    def velocity(x_BCFHW, t_B, conditions):
        text = torch.stack([text_tokens(c, transformer) for c in conditions]).to(transformer.dtype)
        return transformer(x_BCFHW.to(text), t_B * 1000, text, return_dict=False)[0].to(x_BCFHW)

    generator = SimpleNamespace(
        transformer=transformer,
        velocity=velocity,
        fingerprint="base-1",
        regions=REGIONS,
        channel_weights=None,
    )
    run = TlpoRun(
        generator, DIMS, SETTINGS.replaced(**changes), ComputeSettings(checkpoint_every=1, **compute),
        sampling=sampling, rounds=rounds, rank=rank, workers=workers, masks=masks(DEFAULT_DIMENSIONS),
    )  # fmt: skip
    for group in GROUPS:
        run.add(group, {name: found for name, found in PAIRS.items() if name not in without})
    return run


def test_stopped_after_any_step_and_resumed_it_ends_with_the_same_policy(tmp_path):
    straight = make_run()
    straight.train(LAST, lambda run: run.save(tmp_path / str(run.step)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2", "3", "4"]
    for step in (1, 2, 3):
        resumed = make_run()
        resumed.restore(tmp_path / str(step))
        resumed.train(LAST, lambda run: None)
        assert resumed.policy().fingerprint == straight.policy().fingerprint
        assert resumed.curves == [point for point in straight.curves if point["step"] >= step]


def test_the_baseline_gets_as_many_updates_as_all_experts_together():
    run = make_run()
    run.train(LAST, lambda run: None)
    names = [point["name"] for point in run.curves]
    assert [names.count(name) for name in (*DIMS, SUM, GATE)] == [2, 2, 2, 6, 2]


def test_workers_share_a_batch_without_overlap():
    whole = make_run()._batch("mn").eps_BCFHW
    shares = [make_run(rank=rank, workers=2)._batch("mn").eps_BCFHW for rank in range(2)]
    assert torch.equal(torch.cat([shares[0][:1], shares[1][:1]]), whole)


def test_a_dimension_without_pairs_stays_as_it_was_and_is_named():
    run = make_run(without=("vq", FULL))
    run.train(LAST, lambda run: None)
    assert run.untrained == ["vq", FULL]
    state = run.experts.state("vq")
    assert all(tensor.abs().sum() == 0 for key, tensor in state.items() if "lora_B" in key)
    assert "vq" not in {point["name"] for point in run.curves}


def test_no_pair_in_any_dimension_is_one_clear_error():
    with pytest.raises(ValueError, match="no dimension has a single preference pair"):
        make_run(without=DIMS).train(LAST, lambda run: None)


def test_groups_that_arrive_during_the_training_are_drawn_from_then_on():
    def arriving(run):
        run.add(GROUPS[run.step], PAIRS)

    late = make_run(without=(*DIMS, SUM, FULL))
    late.groups.clear()
    late.train(LAST, lambda run: None, arriving)
    assert sorted(late.groups) == [group.group_id for group in GROUPS]
    straight = make_run()
    straight.train(LAST, lambda run: None)
    assert late.curves[0] != straight.curves[0], "the first step drew from groups that were not there yet"


def test_trained_in_segments_it_ends_with_the_same_policy():
    whole, parts = make_run(), make_run()
    whole.train(LAST, lambda run: None)
    for until in (1, 2, LAST):
        parts.train(until, lambda run: None)
        assert parts.step == until
    assert parts.policy().fingerprint == whole.policy().fingerprint


def finished(**changes):
    run = make_run(**changes)
    run.train(LAST, lambda run: None)
    return run


def test_checkpointing_changes_no_bit_and_parts_only_the_last_ones():
    whole = finished()
    assert finished(checkpointing=True).policy().fingerprint == whole.policy().fingerprint
    for point, wanted in zip(finished(microbatch=1).curves, whole.curves, strict=True):
        assert point.pop("name") == wanted.pop("name")
        assert point == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_adapters_learn_in_float32_on_a_bf16_base():
    """The losses follow those of a float32 base as far as bf16's three digits, times beta, allow."""
    mild = {
        "optimizer": SETTINGS.optimizer.replaced(learning_rate=1e-4),
        "loss": LossSettings(beta=50, winner_weight=0.0),
    }
    run, exact = finished(precision="bf16", **mild), finished(**mild)
    base = {p.dtype for n, p in run.generator.transformer.named_parameters() if "ffn" in n and "base" in n}
    assert base == {torch.bfloat16}
    assert {p.dtype for name in DIMS for p in run.experts.parameters(name)} == {torch.float32}
    assert {p.dtype for p in run.gate.parameters()} == {torch.float32}
    for point, wanted in zip(run.curves, exact.curves, strict=True):
        assert point["loss"] == pytest.approx(wanted["loss"], abs=0.05)
    # A first step of Adam moves every weight by its learning rate, 1/2500 of the largest: below bf16's reach.
    start, moved = (dict(r.experts.named_parameters("mn")) for r in (make_run(), run))
    key = next(key for key in start if "lora_A" in key)
    assert (moved[key] != start[key]).float().mean() > 0.9


def test_a_bf16_base_resumes_bitwise(tmp_path):
    straight = make_run(precision="bf16")
    straight.train(LAST, lambda run: run.save(tmp_path / str(run.step)))
    resumed = make_run(precision="bf16")
    resumed.restore(tmp_path / "1")
    resumed.train(LAST, lambda run: None)
    assert resumed.policy().fingerprint == straight.policy().fingerprint


def test_nothing_depends_on_the_global_random_numbers():
    """All that is drawn (pairs, noise, times, adapters) has seeds of its own: no such state to save."""
    torch.manual_seed(1)
    first = finished().policy().fingerprint
    torch.manual_seed(2)
    np.random.seed(2)
    run = make_run()
    before = torch.get_rng_state()
    run.train(LAST, lambda run: None)
    assert run.policy().fingerprint == first
    assert torch.equal(torch.get_rng_state(), before), "nor are any drawn"


def test_the_published_policy_is_the_running_average():
    decay = 0.5
    run, last = make_run(ema=decay), finished()
    values = []
    while run.step < LAST:
        run.train(run.step + 1, lambda run: None)
        values.append(run.experts.state("mn"))
    start = make_run().experts.state("mn")
    for key, wanted in start.items():
        for n in range(SETTINGS.steps):  # the experts learn for two steps only
            now = min(decay, (1 + n) / (10 + n))
            wanted = now * wanted + (1 - now) * values[n][key]
        torch.testing.assert_close(run.policy().adapters["mn"][1][key], wanted)
        assert torch.equal(run.experts.state("mn")[key], values[-1][key]), "the training's own are put back"
    assert run.policy().fingerprint != last.policy().fingerprint
    assert not torch.equal(run.policy().gate.bias_NK, run.gate.bias_NK.detach())
    assert [point["loss"] for point in run.curves] == [point["loss"] for point in last.curves]


def test_averages_are_resumed_bitwise_and_missed_where_they_are_not_there(tmp_path):
    straight, plain = make_run(ema=0.9), make_run()
    straight.train(LAST, lambda run: run.save(tmp_path / str(run.step)))
    for step in (1, 3):
        resumed = make_run(ema=0.9)
        resumed.restore(tmp_path / str(step))
        resumed.train(LAST, lambda run: None)
        assert resumed.policy().fingerprint == straight.policy().fingerprint
    plain.save(tmp_path / "plain")
    with pytest.raises(ValueError, match="without the copies that tlpo.ema asks for"):
        make_run(ema=0.9).restore(tmp_path / "plain")


PER_GROUP = {"draws": DrawSettings(per_group=2), "loss": LossSettings(beta=100, winner_weight=0.0)}


@pytest.mark.parametrize("microbatch", [None, 1])
def test_kept_reference_velocities_are_those_of_the_step(microbatch):
    """Up to the order of float32 sums: they come from a batch of candidates, not of pairs."""
    run = make_run(**PER_GROUP, microbatch=microbatch)
    for name in ("mn", "ls"):
        batch = run._batch(name)
        x_TCFHW, t_T, _ = noisy(batch)
        with torch.no_grad(), run.experts.reference():
            exact = run.generator.velocity(x_TCFHW, t_T, batch.conditions * 2)
        torch.testing.assert_close(torch.cat([batch.ref_w_BCFHW, batch.ref_l_BCFHW]), exact)


def test_reference_velocities_are_computed_once_for_all_experts():
    calls = []
    run = make_run(**PER_GROUP)
    velocity = run.generator.velocity

    def counted(x_BCFHW, t_B, conditions):
        calls.append(torch.is_grad_enabled())
        return velocity(x_BCFHW, t_B, conditions)

    run.generator.velocity = counted
    run.train(LAST, lambda run: None)
    updates = SETTINGS.steps * 2 * len(DIMS) + SETTINGS.gate_steps
    assert calls.count(True) == updates
    assert calls.count(False) == len(run._references) <= 2 * len(GROUPS) < updates


def test_kept_reference_velocities_survive_resuming_and_more_workers_bitwise(tmp_path):
    straight = make_run(**PER_GROUP)
    straight.train(LAST, lambda run: run.save(tmp_path / str(run.step)))
    for step in (1, 3):
        resumed = make_run(**PER_GROUP)
        resumed.restore(tmp_path / str(step))
        resumed.train(LAST, lambda run: None)
        assert resumed.policy().fingerprint == straight.policy().fingerprint
    whole = make_run(**PER_GROUP)._batch("mn").ref_w_BCFHW
    shares = [make_run(rank=rank, workers=2, **PER_GROUP)._batch("mn").ref_w_BCFHW for rank in range(2)]
    assert torch.equal(torch.cat(shares), whole)


def test_a_loss_without_a_reference_has_none_to_keep():
    with pytest.raises(ValueError, match="simpo has no reference"):
        make_run(**(PER_GROUP | {"loss": LossSettings(kind="simpo")}))


def test_errors_count_channels_as_the_bases_own_training_did():
    weights = torch.tensor([1.0, 1.0, 6.0, 1.0])
    curves = {}
    for name, loss in (("weighted", SETTINGS.loss.replaced(weighted=True)), ("alike", SETTINGS.loss)):
        run = make_run(loss=loss, microbatch=1)
        run.generator.channel_weights = weights
        assert (run._batch("mn").weight_C is not None) == (name == "weighted")
        run.cursors["mn"] = 0
        run.train(1, lambda run: None)
        curves[name] = run.curves
    plain = make_run(microbatch=1)
    plain.train(1, lambda run: None)
    assert curves["alike"] == plain.curves != curves["weighted"]


def parts_of(run, name="mn", batches=100):
    return Counter(cond.part for _ in range(batches) for cond in run._batch(name).conditions)


@pytest.mark.parametrize(
    ("guidance", "others"),
    [
        ({"audio_scale": 1.0}, set()),
        ({"audio_scale": 3.0}, {"text"}),
        ({"audio_scale": 3.0, "text_scale": 3.0}, {"null"}),
        ({"audio_scale": 3.0, "text_scale": 2.0}, {"null", "text"}),
    ],
)
def test_every_pass_of_the_guidance_is_trained_and_no_other(guidance, others):
    share = 0.4
    run = make_run(sampling=SamplerSettings(**guidance), draws=DrawSettings(drop_conditions=share))
    found = parts_of(run)
    assert set(found) == {"all", *others}
    for name in others:
        assert found[name] / found.total() == pytest.approx(share / len(others), abs=0.1)
    assert set(parts_of(make_run(draws=DrawSettings(drop_conditions=share)))) == {"all"}


def test_the_kept_reference_is_that_of_the_pass_that_a_draw_trains():
    guided = {"sampling": SamplerSettings(audio_scale=3.0, text_scale=3.0)}
    run = make_run(**guided, loss=PER_GROUP["loss"], draws=DrawSettings(per_group=2, drop_conditions=0.5))
    seen = set()
    for _ in range(4):
        batch = run._batch("mn")
        seen |= {cond.part for cond in batch.conditions}
        x_TCFHW, t_T, _ = noisy(batch)
        with torch.no_grad(), run.experts.reference():
            exact = run.generator.velocity(x_TCFHW, t_T, batch.conditions * 2)
        torch.testing.assert_close(torch.cat([batch.ref_w_BCFHW, batch.ref_l_BCFHW]), exact)
    assert seen == {"all", "null"}


REFRESHED = {"rounds": 2, "loss": SETTINGS.loss.replaced(reference="last_round", anchor=0.0)}


def test_the_gate_learns_in_every_round():
    run = make_run(rounds=2)
    run.train(run.last_step, lambda run: None)
    assert [p["step"] for p in run.curves if p["name"] == "mn"] == [0, 3]
    assert [p["step"] for p in run.curves if p["name"] == GATE] == [1, 2, 4, 5]


def test_the_next_rounds_reference_is_the_expert_as_the_last_round_left_it():
    refreshed, base = make_run(**REFRESHED), make_run(rounds=2, loss=SETTINGS.loss.replaced(anchor=0.0))
    for run in (refreshed, base):
        run.train(run.last_step, lambda run: None)
    for name in DIMS:
        first, second = ([p for p in run.curves if p["name"] == name] for run in (refreshed, base))
        assert first[0] == second[0], "before there is a round behind it the reference is the base"
        assert first[1]["margin"] == first[1]["displacement"] == 0 != second[1]["margin"]


def test_a_refreshed_reference_is_resumed_bitwise(tmp_path):
    straight = make_run(**REFRESHED)
    straight.train(straight.last_step, lambda run: run.save(tmp_path / str(run.step)))
    for step in (1, 3, 4):
        resumed = make_run(**REFRESHED)
        resumed.restore(tmp_path / str(step))
        resumed.train(resumed.last_step, lambda run: None)
        assert resumed.policy().fingerprint == straight.policy().fingerprint
    with pytest.raises(ValueError, match="without the copies that tlpo.loss.reference asks for"):
        other = make_run(rounds=2)
        other.save(tmp_path / "plain")
        make_run(**REFRESHED).restore(tmp_path / "plain")
    with pytest.raises(ValueError, match="per_group keeps the base"):
        make_run(**REFRESHED, draws=DrawSettings(per_group=2))


def test_how_far_the_policy_has_gone_is_in_the_curves():
    run = make_run()
    run.train(LAST, lambda run: None)
    for name in DIMS:
        first, second = (p["displacement"] for p in run.curves if p["name"] == name)
        assert first == 0 < second
