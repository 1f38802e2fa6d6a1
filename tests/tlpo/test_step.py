"""Training steps: ln 2 at the start, experts that leave each other alone, a stage 2 that is the gate."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist

from ft2ray.preference.draws import PairDraw
from ft2ray.preference.rules import Pair
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.losses import velocity_error
from ft2ray.tlpo.settings import ExpertSettings, GateSettings, LossSettings
from ft2ray.tlpo.step import expert_step, gate_step, pair_batch, pair_errors, pair_metrics
from ft2ray.training import update
from tests.tlpo.conftest import DIMS, LAYERS, WIDTH, make_batch, randomise, tiny_wan, velocity_of

plain_loss = partial(LossSettings, beta=500.0, winner_weight=0.0)  # DPO alone

LN2 = torch.tensor(math.log(2)).item()


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)


def snapshot(module):
    return {key: tensor.clone() for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("dimension", DIMS)
def test_step_0_is_ln_2_with_margins_0(transformer, dimension):
    experts = Experts(transformer, DIMS, ExpertSettings(rank=4))
    metrics = expert_step(velocity_of(transformer), experts, dimension, make_batch(), plain_loss())
    assert metrics["loss"] == LN2
    assert metrics["margin"] == metrics["winner_gap"] == metrics["loser_gap"] == 0
    assert any(p.grad.abs().sum() > 0 for p in experts.parameters(dimension))


@pytest.mark.parametrize(
    "config",
    [plain_loss(), plain_loss(kind="ipo"), plain_loss(kind="simpo"), plain_loss(safeguard_mu=0.9)],
)
def test_training_three_experts_together_is_bitwise_training_them_apart(config):
    def train(names):
        transformer = tiny_wan()
        experts = Experts(transformer, names, ExpertSettings(rank=4))
        optimizers = {name: adamw(experts.parameters(name)) for name in names}
        for step in range(4):
            for name in names:
                batch = make_batch(seed=100 * DIMS.index(name) + step)
                expert_step(velocity_of(transformer), experts, name, batch, config)
                update(optimizers[name])
        return {name: experts.state(name) for name in names}

    together = train(DIMS)
    for name in DIMS:
        alone = train((name,))[name]
        assert all(torch.equal(alone[key], together[name][key]) for key in alone)
        assert any(tensor.abs().sum() > 0 for key, tensor in alone.items() if "lora_B" in key)


def test_a_step_of_one_dimension_changes_nothing_but_its_expert(experts, transformer):
    before = snapshot(transformer)
    expert_step(velocity_of(transformer), experts, "ls", make_batch(), plain_loss())
    update(adamw(experts.parameters("ls")))
    changed = {
        key for key, tensor in transformer.state_dict().items() if not torch.equal(tensor, before[key])
    }
    assert changed and all(".ls." in key for key in changed)


@pytest.mark.parametrize("mode", ["full", "timestep", "layer"])
def test_stage_2_changes_only_the_gate(experts, transformer, mode):
    gate = TimestepLayerGate(LAYERS, 3, WIDTH, GateSettings(mode=mode))
    before = snapshot(transformer)
    optimizer = adamw(gate.parameters())
    for step in range(3):
        gate_step(velocity_of(transformer), experts, gate, DIMS, make_batch(seed=step), plain_loss())
        update(optimizer)
    after = transformer.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert all(parameter.abs().sum() > 0 for parameter in gate.parameters())


def test_a_gate_without_parameters_has_no_stage_2(experts, transformer):
    gate = TimestepLayerGate(LAYERS, 3, WIDTH, GateSettings(mode="uniform"))
    with pytest.raises(ValueError, match="uniform gate has nothing to train"):
        gate_step(velocity_of(transformer), experts, gate, DIMS, make_batch(), plain_loss())


def test_winner_and_loser_in_one_forward_are_the_same_as_apart(transformer):
    batch, velocity = make_batch(), velocity_of(transformer)
    with torch.no_grad():
        errors = pair_errors(velocity, batch, LossSettings())
    for x, mask, error_B in (
        (batch.x_w_BCFHW, batch.mask_w_BCFHW, errors.winner_B),
        (batch.x_l_BCFHW, batch.mask_l_BCFHW, errors.loser_B),
    ):
        t = batch.t_B.view(-1, 1, 1, 1, 1)
        with torch.no_grad():
            v = velocity((1 - t) * x + t * batch.eps_BCFHW, batch.t_B, batch.conditions)
        torch.testing.assert_close(error_B, velocity_error(v, batch.eps_BCFHW - x, mask))


@pytest.mark.parametrize("config", [plain_loss(), plain_loss(safeguard_mu=0.5)])
def test_gradients_survive_checkpointing_and_the_reference_pass(experts, transformer, config):
    grads = []
    for checkpointing in (False, True):
        (transformer.enable_gradient_checkpointing if checkpointing else lambda: None)()
        expert_step(velocity_of(transformer), experts, "mn", make_batch(), config)
        grads.append([p.grad.clone() for p in experts.parameters("mn")])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("config", [plain_loss(), plain_loss(safeguard_mu=0.5), plain_loss(kind="simpo")])
@pytest.mark.parametrize("name", ["mn", "ls", "gate"])
def test_a_batch_in_parts_leaves_the_gradients_and_metrics_of_the_whole(experts, transformer, config, name):
    """Equal up to the order of float32 sums; loss and anchor pull against each other and partly cancel."""
    velocity, batch = velocity_of(transformer), make_batch(pairs=5)
    gate = TimestepLayerGate(LAYERS, len(DIMS), WIDTH)
    parameters = list(gate.parameters()) if name == "gate" else experts.parameters(name)
    found = {}
    for microbatch in (None, 2, 1):
        if name == "gate":
            metrics = gate_step(velocity, experts, gate, DIMS, batch, config, microbatch)
        else:
            metrics = expert_step(velocity, experts, name, batch, config, microbatch)
        found[microbatch] = metrics, torch.cat([p.grad.flatten() for p in parameters])
    metrics, whole = found[None]
    for microbatch in (2, 1):
        assert found[microbatch][0] == pytest.approx(metrics, rel=1e-5, abs=1e-4)
        assert (found[microbatch][1] - whole).abs().max() < 5e-4 * whole.abs().max()


def test_the_safeguard_keeps_the_winners_error_from_rising(transformer):
    """Losers close to their winners push the winners' error up under plain DPO; the safeguard stops that."""
    plain, guarded = [], []
    for seed in range(6):
        close = make_batch(pairs=1, seed=seed)
        close = replace(close, x_l_BCFHW=close.x_w_BCFHW + 0.3 * close.x_l_BCFHW)
        for mu, changes in ((None, plain), (0.0, guarded)):
            model = tiny_wan()
            experts = Experts(model, ("mn",), ExpertSettings(rank=4))
            randomise(experts)
            velocity = velocity_of(model)
            expert_step(
                velocity,
                experts,
                "mn",
                close,
                LossSettings(beta=100, safeguard_mu=mu, winner_weight=0.0, anchor=0.0),
            )
            experts.use(("mn",))
            before = pair_metrics(velocity, experts, close, plain_loss())["winner_error"]
            norm = sum(p.grad.square().sum() for p in experts.parameters("mn")).sqrt()
            with torch.no_grad():
                for p in experts.parameters("mn"):
                    p -= 1e-3 * p.grad / norm
            changes.append(pair_metrics(velocity, experts, close, plain_loss())["winner_error"] - before)
    assert max(plain) > 1e-5
    assert max(guarded) < 0.05 * max(plain)


def test_draws_become_a_batch_with_their_own_noise_and_masks():
    latents = {("g", i): torch.full((2, 3, 1, 1), float(i)) for i in range(3)}
    draws = [PairDraw("g", Pair(2, 0, 0.5), noise_seed=5, t=0.25), PairDraw("g", Pair(1, 0, 0.4), 6, 0.75)]

    def make(chosen):
        return pair_batch(
            chosen,
            lambda g, n: latents[g, n],
            lambda d: f"text of {d.group_id}",
            lambda g, n: torch.ones(2, 1, 1, 1),
        )

    batch = make(draws)
    assert batch.x_w_BCFHW[:, 0, 0, 0, 0].tolist() == [2, 1] and batch.x_l_BCFHW.abs().sum() == 0
    assert batch.t_B.tolist() == [0.25, 0.75] and batch.conditions == ["text of g"] * 2
    torch.testing.assert_close(make(draws[1:]).eps_BCFHW, batch.eps_BCFHW[1:], atol=0, rtol=0)
    assert not torch.equal(batch.eps_BCFHW[0], batch.eps_BCFHW[1])


def test_mistakes_are_named():
    batch = make_batch()
    with pytest.raises(ValueError, match="one shape"):
        replace(batch, x_l_BCFHW=batch.x_l_BCFHW[:, :, :2])
    with pytest.raises(ValueError, match="3 pairs, 2 conditions"):
        replace(batch, conditions=batch.conditions[:2])
    with pytest.raises(ValueError, match="mask is empty"):
        replace(batch, mask_l_BCFHW=torch.zeros_like(batch.mask_l_BCFHW))
    shapes = [torch.zeros(2, 3, 1, 1), torch.zeros(2, 4, 1, 1)]
    draws = [PairDraw("g", Pair(0, 1, 0.5), 1, 0.5), PairDraw("g", Pair(1, 0, 0.5), 1, 0.5)]
    with pytest.raises(ValueError, match="must have one shape"):
        pair_batch(draws, lambda g, n: shapes[n], lambda d: None)


def _worker(rank, port, folder, config):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.save(_gradients(slice(rank, None, 2), config), folder / f"{rank}.pt")
    dist.destroy_process_group()


def _gradients(share, config):
    transformer = tiny_wan()
    experts = Experts(transformer, ("mn",), ExpertSettings(rank=4))
    randomise(experts)
    whole = make_batch(pairs=4)
    fields = {key: value[share] for key, value in vars(whole).items() if value is not None}
    expert_step(velocity_of(transformer), experts, "mn", replace(whole, **fields), config)
    return [p.grad for p in experts.parameters("mn")]


@pytest.mark.parametrize("config", [plain_loss(), plain_loss(safeguard_mu=0.5)])
def test_two_workers_with_half_the_batch_each_are_one_worker_with_all_of_it(tmp_path, config):
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    workers = [context.Process(target=_worker, args=(rank, port, tmp_path, config)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    alone = _gradients(slice(None), config)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for a, b, c in zip(first, second, alone, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, atol=1e-5, rtol=1e-4)
