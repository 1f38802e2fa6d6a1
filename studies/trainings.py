"""The study's trainings: each makes a policy from the same groups, with as many updates in all.

Shape suffixes: N candidates, K dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import LoraConfig

from ft2ray.dimensions import DEFAULT_DIMENSIONS, masks
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.preference.rules import FULL, Pair, PairRule, pairs
from ft2ray.records import PromptGroup
from ft2ray.systems import SUM
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.policy import Policy, policy_of
from ft2ray.tlpo.run import TlpoRun
from ft2ray.tlpo.settings import ExpertSettings, GateSettings, LossSettings, TlpoSettings
from ft2ray.tlpo.step import expert_step
from ft2ray.training import update
from studies.annotators import DIMENSIONS

EXPERTS = ExpertSettings(rank=16, alpha=16.0, audio=True)
MASKS = masks(DEFAULT_DIMENSIONS)
RULE = PairRule(margin=0.0, full_tolerance=0.0)
"""Best against worst of every group, by the panel's answers in logits."""
ONE = "all"  # name of the one adapter of a system that does not decouple


Relabel = Callable[[PromptGroup, np.random.Generator], np.ndarray]
"""Other answers p_NK for the candidates of a group: a control."""


def shuffled(group: PromptGroup, rng: np.random.Generator) -> np.ndarray:
    """The answers handed to other candidates of the group."""
    return rng.permutation(group.scores_NK())


def least_motion(group: PromptGroup, rng: np.random.Generator) -> np.ndarray:
    """The smaller the latents the better, in every dimension: what sampling with less noise would give."""
    size_N = np.array([np.linalg.norm(c.latents_CFHW) for c in group.candidates])
    return np.repeat(1 / (1 + size_N / size_N.mean())[:, None], len(DIMENSIONS), axis=1)


def pairs_of(group: PromptGroup, p_NK: np.ndarray | None = None) -> dict[str, list[Pair]]:
    """Pairs by pool, by the panel's answers or by other ones."""
    p_NK = group.scores_NK() if p_NK is None else p_NK
    found = pairs(p_NK, DIMENSIONS, RULE, (*DIMENSIONS, SUM, FULL))
    return {ONE if pool == SUM else pool: value for pool, value in found.items()}


def train_experts(
    generator: PortraitGenerator,
    groups: Sequence[PromptGroup],
    seed: int,
    updates: int,
    start: Policy | None = None,
    **loss: Any,
) -> Policy:
    """One expert per dimension with its mask and anchor, each for `updates` steps, from `start` on."""
    detach_experts(generator.transformer)
    run = TlpoRun(generator, DIMENSIONS, _settings(updates, **loss), seed=seed, masks=MASKS)
    return _trained(run, groups, start)


def train_one(
    generator: PortraitGenerator,
    groups: Sequence[PromptGroup],
    seed: int,
    updates: int,
    start: Policy | None = None,
    relabel: Relabel | None = None,
    **loss: Any,
) -> Policy:
    """One adapter on the pairs of the summed score, with as many updates as all experts together."""
    detach_experts(generator.transformer)
    run = TlpoRun(generator, (ONE,), _settings(len(DIMENSIONS) * updates, **loss), seed=seed)
    rng = np.random.default_rng(seed)
    return _trained(run, groups, start, relabel and partial(relabel, rng=rng))


def train_wide(
    generator: PortraitGenerator,
    groups: Sequence[PromptGroup],
    seed: int,
    updates: int,
    start: Policy | None = None,
) -> Policy:
    """One adapter of triple rank on the three masked losses in turn: is it the masks or the fusion?

    Without the anchor: every region is some dimension's own, and held to the base by the two others it would
    hardly move (measured on validation prompts: a displacement of 0.05 after two rounds).
    """
    detach_experts(generator.transformer)
    run = TlpoRun(generator, DIMENSIONS, _settings(1, anchor=0.0), seed=seed, masks=MASKS)
    for group in groups:
        run.add(group, pairs_of(group))
    batches = [run._batch(name) for _ in range(updates) for name in DIMENSIONS]
    loss, rate = run.settings.loss, run.settings.optimizer.learning_rate
    detach_experts(generator.transformer)
    rank = len(DIMENSIONS) * EXPERTS.rank
    triple = EXPERTS.replaced(rank=rank, alpha=float(rank))
    experts = Experts(generator.transformer, (ONE,), triple, seed)
    if start is not None:
        experts.load_state(ONE, start.adapters[ONE][1])
    optimizer = torch.optim.AdamW(experts.parameters(ONE), rate, weight_decay=0.0)
    for batch in batches:
        expert_step(generator.velocity, experts, ONE, batch, loss)
        update(optimizer)
    return policy_of(experts, (ONE,), generator.fingerprint)


def train_gate(
    generator: PortraitGenerator,
    groups: Sequence[PromptGroup],
    seed: int,
    experts: Policy,
    mode: str,
    updates: int,
) -> Policy:
    """Stage 2 over finished experts, on groups that they did not learn from."""
    detach_experts(generator.transformer)
    settings = _settings(1).replaced(gate=GateSettings(mode=mode), gate_steps=updates)  # type: ignore[arg-type]
    run = TlpoRun(generator, DIMENSIONS, settings, seed=seed, masks=MASKS)
    run.step = settings.steps  # stage 1 is over
    return _trained(run, groups, experts)


def soup(policy: Policy) -> Policy:
    """One adapter whose factors A and B are the means of the experts' (model soup on adapters)."""
    (config, _), *_ = policy.adapters.values()
    tensors = [found for _, found in policy.adapters.values()]
    mean = {key: torch.stack([found[key] for found in tensors]).mean(dim=0) for key in tensors[0]}
    return replace(policy, adapters={ONE: (config, mean)}, dimensions=(ONE,), gate=None)


def segments() -> TimestepLayerGate:
    """One expert at a time (AlignHuman): motion where noise is greatest, then lips, then the face's shape."""
    return TimestepLayerGate(1, len(DIMENSIONS), 1, GateSettings(mode="segments", order=(2, 1, 0)))


def train_map_reduce(
    generator: PortraitGenerator, groups: Sequence[PromptGroup], seed: int, updates: int, iterations: int = 2
) -> Policy:
    """MapReduce LoRA: experts learn apart, their mean is merged into the base, and so on from there.

    The policy holds the experts of every iteration, each to be added with weight 1 / K.
    """
    detach_experts(generator.transformer)
    merged, adapters = copy.deepcopy(generator), {}
    for iteration in range(iterations):
        experts = train_experts(merged, groups, seed + 1000 * iteration, updates // iterations)
        detach_experts(merged.transformer)
        for name, (config, tensors) in experts.adapters.items():
            _merge(merged.transformer, config, tensors, 1 / len(DIMENSIONS))
            adapters[f"{name}_{iteration}"] = (config, tensors)
    return replace(experts, adapters=adapters, dimensions=tuple(adapters), gate=None)


def _merge(
    transformer: torch.nn.Module, config: LoraConfig, tensors: Mapping[str, torch.Tensor], weight: float
) -> None:
    """Add `weight` times an adapter's change to the transformer's own weights."""
    for key, a in tensors.items():
        if ".lora_A." in key:
            layer = transformer.get_submodule(key.split(".lora_A.")[0])
            change = tensors[key.replace(".lora_A.", ".lora_B.")] @ a * config.lora_alpha / config.r
            with torch.no_grad():
                layer.weight += weight * change  # type: ignore[operator]


def _settings(updates: int, **loss: Any) -> TlpoSettings:
    return TlpoSettings().replaced(
        steps=updates,
        gate_steps=0,
        gate_groups=0.0,
        baseline=False,
        gate=GateSettings(mode="sum"),
        experts=EXPERTS,
        loss=LossSettings(**loss),
    )


def _trained(
    run: TlpoRun,
    groups: Sequence[PromptGroup],
    start: Policy | None,
    relabel: Callable[[PromptGroup], np.ndarray] | None = None,
) -> Policy:
    adapters: Mapping[str, Any] = start.adapters if start else {}
    for name, (_, tensors) in adapters.items():
        run.experts.load_state(name, tensors)
    for group in groups:
        run.add(group, pairs_of(group, relabel and relabel(group)))
    run.train(run.last_step, lambda run: None)
    return run.policy()
