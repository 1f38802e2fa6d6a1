"""The forecast of a step (tensors without data) against what the same step really allocates and does."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.planning.generation import expert_step_cost, experts_on, forward_cost, inputs
from ft2ray.planning.plan import OPTIMIZER_BYTES, TRAINED_BYTES
from ft2ray.planning.shapes import GeneratorShape
from ft2ray.planning.trace import trace
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.settings import ExpertSettings, LossSettings
from ft2ray.tlpo.step import PairBatch, expert_step

EXPERT = ExpertSettings(rank=4, alpha=4.0)
PAIRS = 1
WIDTH = 64
HEARD = 17  # audio tokens around each latent frame
SHAPE = GeneratorShape(
    name="toy",
    backbone=AudioWanTransformer,
    architecture=dict(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=16, in_channels=36, out_channels=16,
        text_dim=32, freq_dim=64, ffn_dim=128, num_layers=5, image_dim=48, added_kv_proj_dim=64,
        audio_features=12, audio_dim=24,
    ),
    dtype=torch.float32,
    latent_CFHW=(16, 3, 16, 16),
    seconds=1.0, text=5, image=7, audio=18, window=3, overlap=1, wan=True,
)  # fmt: skip


def real(checkpointing=False):
    """The toy itself, with data, and its training step as a run does it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AudioWanTransformer(**SHAPE.architecture).requires_grad_(False)
    experts = Experts(model, ("ls",), EXPERT)
    if checkpointing:
        model.train()
        model.enable_gradient_checkpointing()
    arguments = inputs(SHAPE, 2 * PAIRS, "cpu")
    stacked = arguments.pop("hidden_states")[:, 16:]

    def velocity(x_BCFHW, t_B, conditions):
        rest = arguments | {"timestep": 1000 * t_B}
        return model(torch.cat([x_BCFHW, stacked], 1), **rest)[0]

    def latents():
        return torch.randn(PAIRS, *SHAPE.latent_CFHW)

    batch = PairBatch(latents(), latents(), None, None, [None] * PAIRS, latents(), torch.full((PAIRS,), 0.5))
    return model, lambda: expert_step(velocity, experts, "ls", batch, LossSettings())


def allocated(run, file):
    """Most bytes that PyTorch's allocator held for `run`, as its profiler recorded them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    recorded.export_chrome_trace(str(file))
    events = [e for e in json.loads(file.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e["ts"]):
        live += event["args"]["Bytes"]
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_training_step_is_what_the_allocator_records(tmp_path, checkpointing):
    _, step = real(checkpointing)
    step()  # what is made once only is made now
    forecast = expert_step_cost(SHAPE, EXPERT, PAIRS, checkpointing).peak_bytes
    assert forecast == pytest.approx(allocated(step, tmp_path / "trace.json"), rel=0.02)


def test_checkpointing_saves_what_it_repeats():
    plain, checkpointed = (expert_step_cost(SHAPE, EXPERT, PAIRS, on) for on in (False, True))
    assert checkpointed.peak_bytes < plain.peak_bytes / 2
    assert 1.2 < checkpointed.flops / plain.flops < 1.4  # two forwards and a backward, and one forward more


def test_flops_of_the_sampler_are_those_that_pytorch_counts():
    model, _ = real()
    counter = FlopCounterMode(display=False)
    # The CPU's fused attention is not counted by PyTorch; the plain one does the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs(SHAPE, 3, "cpu"))
    assert forward_cost(SHAPE, 3).flops == counter.get_total_flops()


def test_flops_of_a_training_step_are_those_that_pytorch_counts():
    _, step = real()
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        step()
    # The plain attention makes its scores once and no gradients that nothing asks for. The fused kernel's
    # backward makes the scores again, and always the gradients of keys and values: also those of the
    # conditions, which lead to no adapter.
    tokens, conditions = SHAPE.tokens, SHAPE.text + SHAPE.image + HEARD
    per_key = 2 * 2 * PAIRS * tokens * WIDTH  # FLOPs of one product, winners and losers
    more = per_key * ((tokens + conditions) + 2 * conditions)
    forecast = expert_step_cost(SHAPE, EXPERT, PAIRS, False).flops
    assert forecast == counter.get_total_flops() + SHAPE.layers * more


def test_extrapolated_layers_cost_what_all_layers_cost():
    model = SHAPE.transformer()
    arguments = inputs(SHAPE, 2)
    with torch.no_grad():
        whole = trace(lambda: model(**arguments))
    assert forward_cost(SHAPE, 2) == whole


def test_optimiser_and_adapters_take_the_bytes_of_the_table():
    experts = experts_on(SHAPE.transformer(), ("ls",), EXPERT)
    adapter = [torch.nn.Parameter(torch.zeros(p.shape, dtype=p.dtype)) for p in experts.parameters("ls")]
    optimizer = torch.optim.AdamW(adapter)
    for parameter in adapter:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [m for state in optimizer.state.values() for m in state.values() if m.ndim]
    count = sum(p.numel() for p in adapter)
    for tensors, bytes_each in ((adapter, TRAINED_BYTES), (moments, OPTIMIZER_BYTES)):
        assert sum(t.numel() * t.element_size() for t in tensors) == bytes_each * count
