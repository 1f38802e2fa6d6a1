"""Speed of the fused three-expert forward: one stacked low-rank product against the usual ways.

    python bench/fused_forward.py

Ways to get base + three weighted experts:
  base       no adapter: what cannot be saved
  stacked    ft2ray's forward, weights from a timestep-layer gate
  peft       peft's own forward with three active adapters (constant weights, the most peft can do)
  passes     one transformer pass per expert, velocities averaged (mixing at the output)
"""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel
from figures import Figure, in_turns, main, profiled, ratios
from peft.tuners.lora.layer import Linear as LoraLinear

from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.settings import ExpertSettings
from ft2ray.tlpo.stacked_lora import StackedLora

NAMES = ("mn", "ls", "vq")
WIDTH, LAYERS, TOKENS, RANK, BATCH = 128, 6, 75, 16, 2  # the packaged generator's
CALLS = 20  # of every way in a row: one alone is a few milliseconds


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=WIDTH // 4,
        in_channels=32,
        out_channels=32,
        text_dim=32,
        freq_dim=64,
        ffn_dim=4 * WIDTH,
        num_layers=LAYERS,
        cross_attn_norm=True,
    ).eval()
    experts = Experts(model, NAMES, ExpertSettings(rank=RANK, alpha=RANK))
    for name in NAMES:
        for parameter in experts.parameters(name):
            torch.nn.init.normal_(parameter, std=0.02)
    gate = TimestepLayerGate(LAYERS, len(NAMES), WIDTH)
    x = torch.randn(BATCH, 32, TOKENS, 1, 1)
    t, text = torch.full((BATCH,), 500.0), torch.randn(BATCH, 4, 32)

    def forwards() -> None:
        for _ in range(CALLS):
            model(x, t, text, return_dict=False)

    def base() -> None:
        experts.use()
        forwards()

    def stacked() -> None:
        experts.use(NAMES, gate)
        forwards()

    def peft() -> None:
        experts.use(NAMES)
        for layer in experts.layers:
            layer.__class__ = LoraLinear
        forwards()
        for layer in experts.layers:
            layer.__class__ = StackedLora

    def passes() -> None:
        for name in NAMES:
            experts.use((name,))
            forwards()

    ways = {"base": base, "stacked": stacked, "peft": peft, "passes": passes}
    with torch.inference_mode():
        in_turns(ways, 1)  # fills caches
        times = in_turns(ways, repetitions)
        why = profiled(stacked)
    # Three passes can be beaten by no more than what the adapters leave: one base forward instead of theirs.
    bound = sorted(ratios(times["passes"], times["base"]))[repetitions // 2]
    return [
        Figure(
            "three experts in one forward",
            "three passes, velocities averaged",
            ratios(times["passes"], times["stacked"]),
            "x faster",
            ">= 2.2",
            bound,
            why,
        ),
        Figure(
            "three experts in one forward",
            "peft, three active adapters",
            ratios(times["peft"], times["stacked"]),
            "x faster",
            ">= 1.0",
        ),
        Figure(
            "three experts in one forward",
            "the base without adapters",
            ratios(times["stacked"], times["base"]),
            "x its time",
        ),
    ]


if __name__ == "__main__":
    main("fused", measure)
