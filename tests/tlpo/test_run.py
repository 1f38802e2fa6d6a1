"""The whole of TLPO as one loop: its order, its resuming, its workers' shares."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ft2ray.preference.draws import DrawConfig
from ft2ray.preference.rules import Pair
from ft2ray.records import Candidate, PromptGroup
from ft2ray.tlpo.experts import ExpertConfig
from ft2ray.tlpo.gate import GateConfig
from ft2ray.tlpo.losses import LossConfig
from ft2ray.tlpo.policy import SUM
from ft2ray.tlpo.run import FULL, GATE, TlpoRun, TlpoSettings
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
LAST = 4  # 2 steps of the experts, 2 of the gate
SETTINGS = TlpoSettings(
    dimensions=DIMS, expert=ExpertConfig(rank=2), loss=LossConfig(), gate=GateConfig(), draw=DrawConfig(),
    batch=2, steps=2, learning_rate=1e-2, gate_steps=2, gate_learning_rate=1e-2, checkpoint_every=1,
)  # fmt: skip


def make_run(without=(), rank=0, workers=1):
    transformer = tiny_wan()

    def velocity(x_BCFHW, t_B, conditions):
        text = torch.stack([c.text_LD for c in conditions])
        return transformer(x_BCFHW, t_B * 1000, text, return_dict=False)[0]

    generator = SimpleNamespace(transformer=transformer, velocity=velocity, fingerprint="base-1")
    run = TlpoRun(generator, SETTINGS, rank, workers)
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
