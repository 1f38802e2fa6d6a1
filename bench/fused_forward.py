"""Speed of the fused three-expert forward: one stacked low-rank product against the usual ways.

    python bench/fused_forward.py [--width 128 --layers 6 --tokens 75 --rank 16 --batch 2 --repeat 60]

Ways to get base + three weighted experts, all in one process, interleaved call by call so that whatever else
the machine does hits each alike:
  base       no adapter: what cannot be saved
  stacked    ft2ray's forward, weights from a timestep-layer gate
  peft       peft's own forward with three active adapters (constant weights, the most peft can do)
  passes     one transformer pass per expert, velocities averaged (mixing at the output)
Prints medians and the ratios to `stacked`.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from diffusers import WanTransformer3DModel
from peft.tuners.lora.layer import Linear as LoraLinear

from ft2ray.tlpo.experts import ExpertConfig, Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.stacked_lora import StackedLora

NAMES = ("mn", "ls", "vq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"width": 128, "layers": 6, "tokens": 75, "rank": 16, "batch": 2, "repeat": 60, "threads": 1}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    size = parser.parse_args()
    torch.set_num_threads(size.threads)
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=size.width // 4,
        in_channels=32,
        out_channels=32,
        text_dim=32,
        freq_dim=64,
        ffn_dim=4 * size.width,
        num_layers=size.layers,
        cross_attn_norm=True,
    ).eval()
    experts = Experts(model, NAMES, ExpertConfig(rank=size.rank, alpha=size.rank))
    for name in NAMES:
        for parameter in experts.parameters(name):
            torch.nn.init.normal_(parameter, std=0.02)
    gate = TimestepLayerGate(size.layers, len(NAMES), size.width)
    x = torch.randn(size.batch, 32, size.tokens, 1, 1)
    t, text = torch.full((size.batch,), 500.0), torch.randn(size.batch, 4, 32)

    def forward() -> torch.Tensor:
        return model(x, t, text, return_dict=False)[0]

    def base() -> None:
        experts.use()
        timed("base")

    def stacked() -> None:
        experts.use(NAMES, gate)
        timed("stacked")

    def peft() -> None:
        experts.use(NAMES)
        for layer in experts.layers:
            layer.__class__ = LoraLinear
        timed("peft")
        for layer in experts.layers:
            layer.__class__ = StackedLora

    def passes() -> None:
        spent = 0.0
        for name in NAMES:
            experts.use((name,))
            spent += seconds()
        times["passes"].append(spent)

    def seconds() -> float:
        start = time.perf_counter()
        forward()
        return time.perf_counter() - start

    def timed(way: str) -> None:
        times[way].append(seconds())

    times: dict[str, list[float]] = {"base": [], "stacked": [], "peft": [], "passes": []}
    with torch.inference_mode():
        for _ in range(size.repeat):
            for way in (base, stacked, peft, passes):
                way()
    skip = size.repeat // 10  # the first calls fill caches
    medians = {way: statistics.median(values[skip:]) for way, values in times.items()}
    print(f"{vars(size)}, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters with experts")
    for way, median in medians.items():
        print(f"{way:8s} {1000 * median:8.2f} ms   {median / medians['stacked']:.2f} x stacked")


if __name__ == "__main__":
    main()
