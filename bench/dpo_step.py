"""A preference step: one forward of winner and loser, and again for the reference, against the usual four.

    python bench/dpo_step.py

  ours    winners and losers in one batch; the reference is the same model with its adapters off
  usual   winner and loser one after the other through the policy (peft's own adapter), then both through a
          second model, as DPO trainers for language models were first written
Both compute the same losses and gradients; the bound is what putting two forwards into one gains at most.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from figures import Figure, in_turns, main, profiled, ratios

from ft2ray.planning.trace import trace
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.losses import PairErrors, preference_loss, velocity_error
from ft2ray.tlpo.settings import ExpertSettings, LossSettings
from ft2ray.tlpo.step import PairBatch, expert_step

EXPERT = "mn"
CALLS = 4
PACKAGED = {"width": 128, "layers": 6, "tokens": 75}
LARGER = {"width": 512, "layers": 8, "tokens": 75}  # where weights are what fills the memory, as at full size


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    figures = []
    for pairs in (1, 4):
        batch = pair_batch(pairs, PACKAGED["tokens"])
        ours, usual, _ = steps(PACKAGED, batch)
        model = transformer(PACKAGED)
        both = torch.cat([batch.x_w_BCFHW, batch.x_l_BCFHW])

        def apart(model: Any = model, batch: PairBatch = batch) -> None:
            velocity(model)(batch.x_w_BCFHW, batch.t_B, batch.conditions)
            velocity(model)(batch.x_l_BCFHW, batch.t_B, batch.conditions)

        def at_once(model: Any = model, batch: PairBatch = batch, both: torch.Tensor = both) -> None:
            velocity(model)(both, batch.t_B.repeat(2), batch.conditions * 2)

        ways = {"ours": ours, "usual": usual, "apart": apart, "at once": at_once}
        repeated = {name: several(way) for name, way in ways.items()}
        in_turns(repeated, 1)
        times = in_turns(repeated, repetitions)
        figures.append(
            Figure(
                f"DPO step, {pairs} pair{'s' if pairs > 1 else ''}",
                "four separate forwards, reference model",
                ratios(times["usual"], times["ours"]),
                "x faster",
                ">= 1.3",
                statistics.median(ratios(times["apart"], times["at once"])),
                profiled(repeated["ours"]),
            )
        )
    return [*figures, memory()]


def memory() -> Figure:
    """Weights and the most that a step holds beside them, counted tensor by tensor."""
    ours, usual, weights = steps(LARGER, pair_batch(1, LARGER["tokens"]))
    held = weights + trace(ours).peak_bytes
    usually = 2 * weights + trace(usual).peak_bytes
    return Figure(
        f"memory of the step, {weights / 1e6:.0f} MB of weights",
        "two model copies",
        [usually / held],
        "x less",
    )


def steps(size: dict[str, int], batch: PairBatch) -> tuple[Callable[[], Any], Callable[[], Any], float]:
    """Our step, the usual one, and the bytes of the weights of one model."""
    lora = ExpertSettings(rank=16, alpha=16)
    config = LossSettings()
    model, policy, reference = transformer(size), transformer(size), transformer(size)
    weights = sum(p.nbytes for p in reference.parameters())
    experts = Experts(model, (EXPERT,), lora)
    policy.add_adapter(lora.lora(), adapter_name=EXPERT)

    def ours() -> None:
        expert_step(velocity(model), experts, EXPERT, batch, config)

    def error(of: Any, x0: torch.Tensor) -> torch.Tensor:
        t = batch.t_B.view(-1, 1, 1, 1, 1)
        v = velocity(of)((1 - t) * x0 + t * batch.eps_BCFHW, batch.t_B, batch.conditions)
        return velocity_error(v, batch.eps_BCFHW - x0, None)

    def usual() -> None:
        winner, loser = error(policy, batch.x_w_BCFHW), error(policy, batch.x_l_BCFHW)
        with torch.no_grad():
            reference_winner, reference_loser = (
                error(reference, batch.x_w_BCFHW),
                error(reference, batch.x_l_BCFHW),
            )
        loss, _ = preference_loss(PairErrors(winner, loser, reference_winner, reference_loser), config)
        policy.zero_grad()
        loss.backward()

    return ours, usual, weights


def transformer(size: dict[str, int]) -> Any:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=4,
        attention_head_dim=size["width"] // 4,
        in_channels=32,
        out_channels=32,
        text_dim=32,
        freq_dim=64,
        ffn_dim=4 * size["width"],
        num_layers=size["layers"],
        cross_attn_norm=True,
    )
    return model.requires_grad_(False)


def velocity(model: Any) -> Any:
    def call(x_BCFHW: torch.Tensor, t_B: torch.Tensor, conditions: list[Any]) -> torch.Tensor:
        return model(x_BCFHW, 1000 * t_B, torch.stack(conditions), return_dict=False)[0]

    return call


def pair_batch(pairs: int, tokens: int) -> PairBatch:
    torch.manual_seed(1)
    x_w, x_l, eps = torch.randn(3, pairs, 32, tokens, 1, 1)
    return PairBatch(x_w, x_l, None, None, list(torch.randn(pairs, 4, 32)), eps, torch.rand(pairs))


def several(step: Callable[[], Any]) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(CALLS):
            step()

    return calls


if __name__ == "__main__":
    main("dpo", measure)
