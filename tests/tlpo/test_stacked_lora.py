"""The stacked forward against K separate adapters, and its cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn

from ft2ray.tlpo.stacked_lora import StackedLora, install_stacked_forward
from tests.tlpo.conftest import DIMS, make_batch, tiny_wan, velocity_of


class Toy(nn.Module):
    """One linear where a transformer block has it."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"to_q": nn.Linear(7, 5)})])


def toy(ranks, alphas, seed=0):
    from peft import inject_adapter_in_model

    torch.manual_seed(seed)
    model = Toy()
    for k, (rank, alpha) in enumerate(zip(ranks, alphas, strict=True)):
        model = inject_adapter_in_model(
            LoraConfig(r=rank, lora_alpha=alpha, target_modules=r".*to_q"), model, adapter_name=f"e{k}"
        )
    routing, (layer,) = install_stacked_forward(model)
    for k in range(len(ranks)):
        nn.init.normal_(layer.factors(f"e{k}")[1])
    layer.set_adapter([f"e{k}" for k in range(len(ranks))])
    return routing, layer


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 999))
def test_equals_the_weighted_sum_of_separate_adapters_of_any_rank(sizes, seed):
    routing, layer = toy([r for r, _ in sizes], [a for _, a in sizes], seed)
    x_BLD = torch.randn(3, 6, 7)
    routing.weights_BNK = torch.randn(3, 1, len(sizes))
    wanted = layer.base_layer(x_BLD)
    for k in range(len(sizes)):
        a, b = layer.factors(f"e{k}")
        wanted = wanted + routing.weights_BNK[:, 0, k, None, None] * layer.scaling[f"e{k}"] * (
            x_BLD @ a.T @ b.T
        )
    torch.testing.assert_close(layer(x_BLD), wanted, atol=1e-5, rtol=1e-5)


def test_without_weights_it_is_peft_own_sum_of_active_adapters():
    _, layer = toy([2, 3, 4], [2, 6, 4])
    x_BLD = torch.randn(2, 4, 7)
    stacked = layer(x_BLD)
    layer.__class__ = StackedLora.__bases__[0]
    torch.testing.assert_close(stacked, layer(x_BLD), atol=1e-5, rtol=1e-5)


def test_the_whole_transformer_equals_peft_own_three_adapters(experts, transformer, call):
    experts.use(DIMS)
    stacked = call()
    for layer in experts.layers:
        layer.__class__ = StackedLora.__bases__[0]
    torch.testing.assert_close(stacked, call(), atol=1e-5, rtol=1e-5)


def test_works_on_the_audio_transformer_and_leaves_its_cross_attention_alone():
    from ft2ray.generator.transformer import AudioWanTransformer
    from ft2ray.tlpo.experts import Experts
    from ft2ray.tlpo.settings import ExpertSettings

    model = AudioWanTransformer(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=2, audio_features=6, audio_dim=8, audio_stride=1,
    )  # fmt: skip
    experts = Experts(model, DIMS, ExpertSettings(rank=2))
    adapted = {name.split(".lora_A")[0] for name in experts.named_parameters("ls") if ".lora_A." in name}
    wanted = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "ffn.net.0.proj", "ffn.net.2")
    assert adapted == {f"blocks.{i}.{name}" for i in range(2) for name in wanted}


def test_the_cached_stack_follows_every_change_of_a_frozen_adapter(experts, call):
    experts.use(DIMS)
    before = call()
    assert torch.equal(call(), before)
    with torch.no_grad():
        experts.parameters("ls")[1].add_(1.0)
    assert not torch.equal(call(), before)
    experts.load_state("vq", {key: tensor * 2 for key, tensor in experts.state("vq").items()})
    after = call()
    for layer in experts.layers:
        layer.__dict__.pop("_stacks")
    assert torch.equal(call(), after)


def test_stacks_built_in_inference_mode_serve_training_later(experts, transformer):
    batch, weights = make_batch(), torch.full((1, 1, 3), 0.4, requires_grad=True)
    velocity = velocity_of(transformer)
    experts.use(DIMS, lambda tau, t: weights)
    with torch.inference_mode():
        velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions)
    velocity(batch.x_w_BCFHW, batch.t_B, batch.conditions).sum().backward()
    assert weights.grad is not None and weights.grad.abs().sum() > 0


@pytest.mark.parametrize("learn", [True, False])
def test_float32_adapters_on_a_bf16_base_widen_nothing_and_stay_close(learn):
    routing, layer = toy([4, 4, 4], [8, 8, 8])
    layer.requires_grad_(False)
    x_BLD = torch.randn(3, 6, 7).bfloat16()
    routing.weights_BNK = torch.rand(3, 1, 3).requires_grad_()
    layer.base_layer.bfloat16()
    exact = nn.functional.linear(
        x_BLD.float(), layer.base_layer.weight.float(), layer.base_layer.bias.float()
    )
    base = exact.clone()
    for k in range(3):
        a, b = layer.factors(f"e{k}")
        exact = exact + 2 * routing.weights_BNK[:, 0, k, None, None] * (x_BLD.float() @ a.T @ b.T)
        a.requires_grad_(learn)
        b.requires_grad_(learn)

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y_BLO = layer(x_BLD)
    assert y_BLO.dtype == torch.bfloat16
    assert (y_BLO - exact).norm() < 0.01 * (exact - base).norm()  # bf16 has 8 bits
    assert kept and not [t.shape for t in kept if t.dtype == torch.float32 and t.ndim == 3]
    y_BLO.sum().backward()
    if learn:
        gradients = [layer.factors(f"e{k}")[i].grad for k in range(3) for i in range(2)]
        assert all(g.dtype == torch.float32 and g.norm() > 0 for g in gradients)


def test_adapters_outside_the_blocks_are_refused():
    model = tiny_wan()
    model.add_adapter(LoraConfig(r=2, target_modules=["proj_out"]), adapter_name="x")
    with pytest.raises(ValueError, match="no transformer block"):
        install_stacked_forward(model)
