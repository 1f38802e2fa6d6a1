"""Merged LoRAs per timestep bucket against the gate that they stand for."""

import pytest
import torch

from ft2ray.generator.sampler import timesteps
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.formats.adapters import read_adapter, write_adapter
from ft2ray.tlpo.formats.buckets import bucketing_errors, merged_adapter, timestep_buckets
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.policy import AttachedPolicy, policy_of
from ft2ray.tlpo.settings import ExpertSettings, GateSettings
from tests.tlpo.conftest import DIMS, LAYERS, WIDTH, make_batch, randomise, tiny_wan, velocity_of

TIMES = torch.tensor(timesteps(8, 3.0)[:-1])


def tau(transformer):
    def embedding(timestep_B):
        embedder = transformer.condition_embedder
        return embedder.time_embedder(embedder.timesteps_proj(timestep_B))

    return embedding


@pytest.fixture
def policy():
    experts = Experts(tiny_wan(), DIMS, ExpertSettings(rank=4, alpha=6))
    randomise(experts)
    gate = TimestepLayerGate(LAYERS, 3, WIDTH, GateSettings(mode="full"))
    torch.manual_seed(0)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    return policy_of(experts, DIMS, "base-1", gate)


def samples(pairs=3):
    batch = make_batch(pairs)
    return [(batch.x_w_BCFHW, batch.conditions)]


def test_buckets_share_out_the_steps_and_meet_half_way(policy, transformer):
    buckets = timestep_buckets(policy.gate, tau(transformer), TIMES, 3)
    assert torch.equal(torch.cat([bucket.times_S for bucket in buckets]), TIMES)
    assert (buckets[0].high, buckets[-1].low) == (1.0, 0.0)
    assert all(a.low == b.high for a, b in zip(buckets[:-1], buckets[1:], strict=True))
    assert all(b.low < b.times_S.min() and b.times_S.max() <= b.high for b in buckets)


@pytest.mark.parametrize("count", [0, 9])
def test_a_bucket_has_a_step_at_least(policy, transformer, count):
    with pytest.raises(ValueError, match="take 1 to 8"):
        timestep_buckets(policy.gate, tau(transformer), TIMES, count)


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_the_merged_file_does_what_the_mean_weights_do(tmp_path, policy, transformer, call, layout):
    bucket = timestep_buckets(policy.gate, tau(transformer), TIMES, 3)[1]
    attached = AttachedPolicy(transformer, policy)
    attached.experts.use(DIMS, bucket.weights_NK)
    wanted = call()
    detach_experts(transformer)
    write_adapter(tmp_path / "m.safetensors", merged_adapter(policy, bucket.weights_NK), layout)
    config, tensors = read_adapter(tmp_path / "m.safetensors", transformer)
    assert (config.r, config.lora_alpha) == (12, 12)  # 3 r, and all scaling is in B
    Experts.from_states(transformer, {"merged": (config, tensors)}).use(("merged",))
    torch.testing.assert_close(call(), wanted, atol=1e-6, rtol=1e-5)


def test_one_bucket_per_step_is_exact_and_fewer_are_worse(policy, transformer):
    velocity = velocity_of(transformer)
    attached = AttachedPolicy(transformer, policy)

    def mean(count):
        buckets = timestep_buckets(policy.gate, tau(transformer), TIMES, count)
        errors = bucketing_errors(velocity, attached, buckets, samples())
        return sum(e.of_effect for e in errors) / count

    assert mean(len(TIMES)) < 1e-5 < mean(4) < mean(1)


def test_the_error_is_the_one_that_the_outputs_show(policy, transformer):
    """Held against a plain recomputation for one sample and one step."""
    velocity = velocity_of(transformer)
    attached = AttachedPolicy(transformer, policy)
    times = torch.tensor([0.8, 0.4])
    (bucket,) = timestep_buckets(policy.gate, tau(transformer), times, 1)
    (x_BCFHW, conditions), *_ = samples(1)
    (error,) = bucketing_errors(velocity, attached, [bucket], [(x_BCFHW, conditions)], seed=5)
    eps = torch.randn(x_BCFHW.shape, generator=torch.Generator().manual_seed(5))
    outputs = []
    with torch.no_grad():
        for use in (
            lambda: attached.experts.use(DIMS, bucket.weights_NK),
            lambda: attached.use("tlpo"),
            lambda: attached.use("base"),
        ):
            use()
            outputs.append(
                torch.stack([velocity((1 - t) * x_BCFHW + t * eps, t[None], conditions) for t in times])
            )
    static, exact, base = outputs
    assert error.of_velocity == pytest.approx(((static - exact).norm() / exact.norm()).item(), rel=1e-4)
    assert error.of_effect == pytest.approx(
        ((static - exact).norm() / (exact - base).norm()).item(), rel=1e-4
    )
