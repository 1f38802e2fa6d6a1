"""The gate: the figure's formula, its modes, its size on Wan-14B and the user's hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.tlpo.gate import TimestepLayerGate, UserWeights, weights_over_time
from ft2ray.tlpo.settings import GateSettings
from tests.tlpo.conftest import DIMS, LAYERS, WIDTH, make_batch, velocity_of


def random_gate(config, seed=0, layers=4, width=6):
    gate = TimestepLayerGate(layers, 3, width, config)
    torch.manual_seed(seed)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    return gate


def inputs(seed=0, batch=5, width=6):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, width, generator=g), torch.rand(batch, generator=g)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_full_gate_is_softmax_of_the_projection_plus_bias_per_layer(seed, shared):
    gate = random_gate(GateSettings(shared=shared), seed)
    tau_BD, t_B = inputs(seed)
    w_BNK = gate(tau_BD, t_B)
    for b in range(5):
        for n in range(4):
            p_KD = gate.projection_NKD[0 if shared else n]
            wanted = torch.softmax(p_KD @ tau_BD[b], 0) + gate.bias_NK[n]
            torch.testing.assert_close(w_BNK[b, n], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["full", "timestep", "layer"])
@pytest.mark.parametrize(("start", "weight"), [("sum", 1.0), ("average", 1 / 3)])
def test_starts_with_every_expert_in_full_or_with_their_average(mode, start, weight):
    gate = TimestepLayerGate(4, 3, 6, GateSettings(mode=mode, start=start))
    torch.testing.assert_close(weights_over_time(gate, *inputs()), torch.full((5, 4, 3), weight))


@pytest.mark.parametrize(("mode", "weight"), [("sum", 1.0), ("uniform", 1 / 3)])
def test_a_gate_that_does_not_learn_has_one_weight(mode, weight):
    gate = TimestepLayerGate(4, 3, 6, GateSettings(mode=mode))
    assert not list(gate.parameters())
    torch.testing.assert_close(weights_over_time(gate, *inputs()), torch.full((5, 4, 3), weight))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_modes_depend_on_what_they_are_named_after(seed):
    tau_BD, t_B = inputs(seed)
    gates = [random_gate(GateSettings(mode=mode), seed) for mode in ("full", "timestep", "layer")]
    full, timestep, layer = (weights_over_time(gate, tau_BD, t_B) for gate in gates)
    assert full.std(0).max() > 0 and full.std(1).max() > 0
    assert timestep.std(0).max() > 0 and timestep.std(1).max() == 0
    assert layer.std(0).max() == 0 and layer.std(1).max() > 0


def test_614520_parameters_on_wan_14b():
    with torch.device("meta"):
        gate = TimestepLayerGate(40, 3, 5120)
    assert sum(p.numel() for p in gate.parameters()) == 614_520
    with torch.device("meta"):
        shared = TimestepLayerGate(40, 3, 5120, GateSettings(shared=True))
    assert sum(p.numel() for p in shared.parameters()) == 3 * 5120 + 40 * 3


@pytest.mark.parametrize("mode", ["uniform", "segments"])
def test_modes_without_parameters(mode):
    assert list(TimestepLayerGate(4, 3, 6, GateSettings(mode=mode)).parameters()) == []


def test_segments_switch_hard_at_their_boundaries():
    config = GateSettings(mode="segments", boundaries=(0.4, 0.8), order=(2, 1, 0))
    gate = TimestepLayerGate(4, 3, 6, config)
    t_S = torch.tensor([0.0, 0.39, 0.4, 0.79, 0.8, 1.0])
    w_SNK = weights_over_time(gate, torch.zeros(6, 6), t_S)
    assert w_SNK[:, 0].argmax(-1).tolist() == [2, 2, 1, 1, 0, 0]
    assert (w_SNK.sum(-1) == 1).all() and w_SNK.shape == (6, 4, 3)
    thirds = TimestepLayerGate(4, 3, 6, GateSettings(mode="segments"))
    w_SNK = weights_over_time(thirds, torch.zeros(3, 6), torch.tensor([0.1, 0.5, 0.9]))
    assert w_SNK[:, 0].argmax(-1).tolist() == [0, 1, 2]


def test_user_weights_multiply_or_replace_the_gate():
    gate = random_gate(GateSettings())
    tau_BD, t_B = inputs()
    doubled = UserWeights(gate, {"ls": 2.0, "vq": 0.0}, DIMS, "multiply")(tau_BD, t_B)
    torch.testing.assert_close(doubled, gate(tau_BD, t_B) * torch.tensor([1.0, 2.0, 0.0]))
    replaced = UserWeights(gate, {"mn": 0.1, "ls": 0.2, "vq": 0.3}, DIMS, "replace")(tau_BD, t_B)
    torch.testing.assert_close(replaced, torch.tensor([[[0.1, 0.2, 0.3]]]))


def test_a_new_gate_in_the_transformer_is_the_sum_of_the_experts(experts, call):
    experts.use(DIMS, TimestepLayerGate(LAYERS, 3, WIDTH))
    gated = call()
    experts.use(DIMS, torch.ones(3))
    torch.testing.assert_close(gated, call(), atol=1e-6, rtol=1e-6)


def test_samples_of_a_batch_are_gated_by_their_own_timestep(experts, transformer):
    experts.use(DIMS, random_gate(GateSettings(), layers=LAYERS, width=WIDTH))
    batch, velocity = make_batch(), velocity_of(transformer)
    with torch.no_grad():
        together = velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions)
        alone = velocity(batch.x_w_BCFHW[1:2], batch.t_B[1:2], batch.conditions[1:2])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: GateSettings(mode="soft"),
        lambda: TimestepLayerGate(4, 3, 6, GateSettings(mode="segments", boundaries=(0.5,), order=(0, 1, 2))),
        lambda: TimestepLayerGate(
            4, 3, 6, GateSettings(mode="segments", boundaries=(0.8, 0.4), order=(0, 1, 2))
        ),
        lambda: TimestepLayerGate(4, 3, 6, GateSettings(mode="segments", boundaries=(0.5,), order=(0, 3))),
        lambda: UserWeights(random_gate(GateSettings()), {"xx": 1.0}, DIMS, "multiply"),
        lambda: UserWeights(random_gate(GateSettings()), {"mn": 1.0}, DIMS, "replace"),
        lambda: UserWeights(random_gate(GateSettings()), {"mn": 1.0}, DIMS, "add"),
        lambda: UserWeights(random_gate(GateSettings()), {"mn": float("nan")}, DIMS, "multiply"),
        lambda: UserWeights(random_gate(GateSettings()), {"mn": float("inf")}, DIMS, "multiply"),
    ],
)
def test_mistakes_are_named(call):
    with pytest.raises(ValueError, match=r"gate|GateSettings|user weights"):
        call()
