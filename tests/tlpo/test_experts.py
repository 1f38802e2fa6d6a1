"""Experts: the base stays the base, each expert is alone with its gradients, states go round."""

import pytest
import torch

from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.settings import ExpertSettings
from tests.tlpo.conftest import DIMS, make_batch, randomise, tiny_wan, velocity_of


def same(tensors, others):
    return all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def learning(transformer):
    return {name for name, p in transformer.named_parameters() if p.requires_grad}


def test_a_new_expert_changes_nothing_and_the_reference_is_bitwise_the_base(transformer, call):
    base = call()
    experts = Experts(transformer, DIMS, ExpertSettings(rank=4))
    for name in DIMS:
        experts.use((name,))
        assert torch.equal(call(), base)
    randomise(experts)
    experts.use(DIMS)
    assert not torch.equal(call(), base)
    with experts.reference():
        assert torch.equal(call(), base)
    assert not torch.equal(call(), base)
    detach_experts(transformer)
    assert torch.equal(call(), base)
    assert set(transformer.state_dict()) == set(tiny_wan().state_dict())


def test_an_expert_starts_the_same_whoever_is_beside_it():
    together = Experts(tiny_wan(), DIMS, ExpertSettings(rank=4), seed=7)
    alone = Experts(tiny_wan(), ("ls",), ExpertSettings(rank=4), seed=7)
    assert same(together.parameters("ls"), alone.parameters("ls"))
    other = Experts(tiny_wan(), ("ls",), ExpertSettings(rank=4), seed=8)
    assert not torch.equal(other.parameters("ls")[0], alone.parameters("ls")[0])
    assert not torch.equal(together.parameters("ls")[0], together.parameters("mn")[0])


def test_only_the_expert_in_training_requires_gradients(experts, transformer):
    assert learning(transformer) == set()
    with experts.train_expert("ls"):
        assert learning(transformer) == set(experts.named_parameters("ls"))
        with experts.reference():
            assert learning(transformer) == set()
        assert learning(transformer) == set(experts.named_parameters("ls"))
    with experts.fused(DIMS, None):
        assert learning(transformer) == set()
    assert learning(transformer) == set()


def test_contexts_restore_what_was_before_even_after_an_error(experts, call):
    experts.use(("mn", "vq"), torch.tensor([0.3, 0.9]))
    before = call()
    with pytest.raises(RuntimeError), experts.train_expert("ls"), experts.fused(DIMS, None):
        raise RuntimeError
    assert torch.equal(call(), before)


def test_constant_weights_per_layer(experts, call):
    experts.use(DIMS, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    first_only = call()
    for layer in experts.layers:
        if layer.layer == 1:
            layer.set_adapter([])
    experts.routing.weights_BNK = None
    for layer in experts.layers:
        if layer.layer == 0:
            layer.set_adapter(["mn"])
    torch.testing.assert_close(call(), first_only, atol=1e-6, rtol=1e-6)


def test_the_source_of_weights_is_given_the_timestep_embedding_and_time(experts, transformer, call):
    seen = []

    def source(tau_BD, t_B):
        seen.append((tau_BD, t_B))
        return torch.ones(1, 1, 3)

    experts.use(DIMS, source)
    call()
    ((tau_BD, t_B),) = seen
    torch.testing.assert_close(t_B, make_batch().t_B)
    embedder = transformer.condition_embedder
    wanted = embedder.time_embedder(embedder.timesteps_proj(1000 * make_batch().t_B))
    torch.testing.assert_close(tau_BD, wanted)


def test_gradient_checkpointing_gives_the_same_gradients(experts, transformer):
    batch, grads = make_batch(), []
    for checkpointing in (False, True):
        (transformer.enable_gradient_checkpointing if checkpointing else lambda: None)()
        with experts.train_expert("mn"):
            v = velocity_of(transformer)(batch.x_w_BCFHW, batch.t_B, batch.conditions)
            grads.append(torch.autograd.grad(v.square().sum(), experts.parameters("mn")))
    assert same(*grads)


def test_state_goes_round_and_misfits_are_refused(experts):
    state = experts.state("mn")
    assert all(".lora_A.weight" in key or ".lora_B.weight" in key for key in state)
    other = Experts(tiny_wan(), ("mn",), ExpertSettings(rank=4, alpha=6))
    other.load_state("mn", state)
    assert same(other.parameters("mn"), experts.parameters("mn"))
    with pytest.raises(ValueError, match="does not fit"):
        other.load_state("mn", dict(list(state.items())[1:]))
    wide = Experts(tiny_wan(), ("mn",), ExpertSettings(rank=5))
    with pytest.raises(ValueError, match="does not fit"):
        wide.load_state("mn", state)


def test_mistakes_are_named(experts, transformer):
    with pytest.raises(ValueError, match="no expert named xx"):
        experts.use(("mn", "xx"))
    with pytest.raises(ValueError, match="2 weights for 3 experts"):
        experts.use(DIMS, torch.ones(2))
    with pytest.raises(ValueError, match="already carries"):
        Experts(transformer, DIMS)
    with pytest.raises(ValueError, match="distinct"):
        Experts(tiny_wan(), ("mn", "mn"))
