"""Resuming: a run that was stopped and loaded goes on bitwise like one that never stopped."""

import pytest
import torch

from ft2ray.errors import NonFiniteError
from ft2ray.preference.draws import DrawRule, PairPool, draws
from ft2ray.preference.rules import Pair
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.settings import ExpertSettings, LossSettings
from ft2ray.tlpo.step import expert_step, gate_step, pair_batch
from ft2ray.tlpo.training_state import load_training_state, save_training_state
from ft2ray.training import update
from tests.tlpo.conftest import CHANNELS, DIMS, FRAMES, LAYERS, WIDTH, tiny_wan, velocity_of

POOL = PairPool((f"g{i}", [Pair(0, 1, 0.5)]) for i in range(5))


def latents(group_id, candidate):
    generator = torch.Generator().manual_seed(10 * int(group_id[1:]) + candidate)
    return torch.randn(CHANNELS, FRAMES, 1, 1, generator=generator)


class Run:
    """Two steps of everything at a time: three experts and the gate, driven by cursors alone."""

    def __init__(self):
        self.transformer = tiny_wan()
        self.experts = Experts(self.transformer, DIMS, ExpertSettings(rank=4))
        self.gate = TimestepLayerGate(LAYERS, 3, WIDTH)
        self.optimizers = {
            name: torch.optim.AdamW(self.experts.parameters(name), lr=1e-2, betas=(0.8, 0.95))
            for name in DIMS
        }
        self.optimizers["gate"] = torch.optim.AdamW(self.gate.parameters(), lr=1e-2)
        self.cursors = dict.fromkeys((*DIMS, "full"), 0)

    def batch(self, pool):
        cursor = self.cursors[pool]
        self.cursors[pool] += 2
        text = torch.ones(3, 8)
        return pair_batch(
            draws(DrawRule(), pool, cursor, 2, POOL),
            latents,
            lambda draw: text * int(draw.group_id[1:]),
            lambda group_id, candidate: torch.ones(CHANNELS, 1, 1, 1),
        )

    def train(self):
        velocity = velocity_of(self.transformer)
        for _ in range(2):
            for name in DIMS:
                expert_step(velocity, self.experts, name, self.batch(name), LossSettings())
                update(self.optimizers[name])
            gate_step(velocity, self.experts, self.gate, DIMS, self.batch("full"), LossSettings())
            update(self.optimizers["gate"])

    def save(self, folder):
        moments = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        save_training_state(folder, self.experts, self.gate, moments, self.cursors)

    def load(self, folder):
        self.cursors = load_training_state(folder, self.experts, self.gate, self.optimizers)

    def everything(self):
        return {**self.transformer.state_dict(), **self.gate.state_dict()}


def test_resuming_is_bitwise_going_on(tmp_path):
    straight, stopped, resumed = Run(), Run(), Run()
    straight.train()
    straight.train()
    stopped.train()
    stopped.save(tmp_path / "state")
    resumed.load(tmp_path / "state")
    resumed.train()
    assert resumed.cursors == straight.cursors
    wanted, got = straight.everything(), resumed.everything()
    assert set(wanted) == set(got) and all(torch.equal(wanted[key], got[key]) for key in wanted)
    assert not all(torch.equal(tensor, stopped.everything()[key]) for key, tensor in wanted.items())


def test_only_safetensors_and_json_are_written(tmp_path):
    Run().save(tmp_path / "state")
    assert sorted(p.name for p in (tmp_path / "state").iterdir()) == ["state.json", "state.safetensors"]


def test_mistakes_are_named(tmp_path):
    run = Run()
    run.save(tmp_path / "state")
    with pytest.raises(ValueError, match="exists already"):
        run.save(tmp_path / "state")
    with pytest.raises(ValueError, match=r"no state\.json"):
        run.load(tmp_path)
    del run.optimizers["vq"]
    with pytest.raises(ValueError, match="this run trains"):
        run.load(tmp_path / "state")


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    run = Run()
    run.train()
    with torch.no_grad():
        run.experts.parameters("ls")[0].view(-1)[0] = float("nan")
    with pytest.raises(NonFiniteError, match="training state: the tensor expert/ls/.* is not finite"):
        run.save(tmp_path / "state")
    assert list(tmp_path.iterdir()) == []
