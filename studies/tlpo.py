"""The study: what does alignment gain from the uncurated base, and what is it that gains?

    python studies/tlpo.py MEDIA OUT [--seeds 3] [--part core controls gates online] [--explore]

Resumable: what lies in OUT is not made again. One thread. Every system learns from the same candidates and
the same answers of the simulated panel (studies/annotators.py), with equal numbers of updates; the systems
that go on for several rounds do so on candidates of their own. Each system's strength (a factor on its
weight change) is chosen on validation prompts by its least gain over the dimensions, then it is measured
once on test prompts of other people. OUT/rows.jsonl holds one row per system, training seed, split,
strength, prompt and noise; studies/tlpo_table.py makes studies/results/tlpo.json from it. docs/protocol.md
says what counts as success.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch

from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.sampler import Conditions
from ft2ray.records import PromptGroup
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.gate import UserWeights
from ft2ray.tlpo.policy import Policy
from studies.annotators import DIMENSIONS
from studies.testbed import Testbed, sample_all
from studies.tlpo_table import chosen_strength, read_rows
from studies.trainings import (
    least_motion,
    segments,
    shuffled,
    soup,
    train_experts,
    train_gate,
    train_map_reduce,
    train_one,
    train_wide,
)

log = logging.getLogger(__name__)
STRENGTHS = (0.5, 1.0, 2.0, 3.0)
LEAST_STRENGTH, GREATEST_STRENGTH = 1 / 32, 30.0
"""Where the best lies at an end of STRENGTHS, half of it or half as much again is tried, as far as these."""
PROMPTS = 24
NOISES = {"validation": 1, "test": 2}
GATE_UPDATES = 40


@dataclass(frozen=True)
class System:
    """A policy, which of its adapters are used with which weights, and how they are put together.

    gated: by the policy's gate. blended: the changes of velocity that each adapter makes on its own are
    added, instead of the changes of weights.
    """

    policy: Policy | None
    weights: tuple[float, ...] = ()
    gated: bool = False
    blended: bool = False


BASELINES: dict[str, dict[str, Any]] = {
    "dpo_sum": {},
    "shuffled": {"relabel": shuffled},
    "least_motion": {"relabel": least_motion},
    "simpo": {"kind": "simpo", "gamma": 0.5},
    "ipo": {"kind": "ipo"},
    "sdpo": {"safeguard_mu": 0.9},
    "sft": {"beta": 1e-3, "winner_weight": 1e3, "winner_fades": False},
}
"""One adapter on the summed score. sft: DPO's own term is a thousandth of the winners'."""
GATES = ("full", "timestep", "layer")
PARTS = ("core", "controls", "gates", "online")


class Blend:
    """A generator's velocity plus `strength` times what each expert alone changes of it."""

    def __init__(self, generator: PortraitGenerator, experts: Experts, strength: float) -> None:
        self.codec, self.generator = generator.codec, generator
        self.experts, self.strength = experts, strength

    def velocity(self, x: torch.Tensor, t: torch.Tensor, conds: Sequence[Conditions]) -> torch.Tensor:
        with self.experts.reference():
            v0 = self.generator.velocity(x, t, conds)
        v = v0.clone()
        for name in self.experts.names:
            with self.experts.fused((name,), None):
                v += self.strength * (self.generator.velocity(x, t, conds) - v0)
        return v


def attach(generator: PortraitGenerator, system: System, strength: float = 1.0) -> PortraitGenerator | Blend:
    """Put a system on the generator in place of the one that is there; returns what to sample from."""
    detach_experts(generator.transformer)
    if system.policy is None:
        return generator
    experts = Experts.from_states(generator.transformer, system.policy.adapters)
    names = system.policy.dimensions
    weights = strength * torch.tensor(system.weights or (1.0,) * len(names))
    if system.blended:
        return Blend(generator, experts, strength)
    if system.gated:
        assert system.policy.gate is not None
        experts.use(
            names,
            UserWeights(
                system.policy.gate, dict(zip(names, weights.tolist(), strict=True)), names, "multiply"
            ),
        )
    else:
        experts.use(names, weights)
    return generator


class Study:
    """One run of the study: the testbed, its sizes, and the rows that it wrote."""

    def __init__(self, testbed: Testbed, prompts: int, updates: int, rounds: int, explore: bool) -> None:
        self.testbed, self.prompts, self.updates, self.rounds = testbed, prompts, updates, rounds
        self.explore = explore
        self.rows_file = testbed.out / "rows.jsonl"
        self.rows = read_rows(self.rows_file)

    def test(self, name: str, seed: int, system: System) -> None:
        """Choose the strength on validation prompts, then measure on test prompts."""
        if system.policy is None:
            for split in ("validation",) if self.explore else NOISES:
                self.measure(name, seed, system, split, 1.0)
            return
        for strength in STRENGTHS:
            self.measure(name, seed, system, "validation", strength)
        while (further := self.beyond(name, seed)) is not None:
            self.measure(name, seed, system, "validation", further)
        if not self.explore:
            self.measure(name, seed, system, "test", chosen_strength(self.rows, name, seed))

    def beyond(self, name: str, seed: int) -> float | None:
        """The next strength to try, where the best lies at an end of those that were tried."""
        of, chosen = (name, seed, "validation"), chosen_strength(self.rows, name, seed)
        tried = [r["strength"] for r in self.rows if (r["system"], r["seed"], r["split"]) == of]
        if chosen == min(tried) and chosen > LEAST_STRENGTH:
            return chosen / 2
        return 1.5 * chosen if chosen == max(tried) and chosen < GREATEST_STRENGTH else None

    def measure(self, name: str, seed: int, system: System, split: str, strength: float) -> None:
        """Append the rows of a system, unless they are there."""
        key = {"system": name, "seed": seed, "split": split, "strength": strength}
        if any(key.items() <= row.items() for row in self.rows):
            return
        testbed, noises = self.testbed, NOISES[split]
        prompts = testbed.prompts(split, PROMPTS)
        attach(self.testbed.generator, System(None))
        base = testbed.kept(f"base-{split}.pkl", lambda: sample_all(testbed.generator, prompts, noises))
        generator = attach(self.testbed.generator, system, strength)
        sampled, new = sample_all(generator, prompts, noises), []
        for prompt, xs, before in zip(prompts, sampled, base, strict=True):
            for noise, (x, x0) in enumerate(zip(xs, before, strict=True)):
                moved = float((x - x0).norm() / x0.norm())
                place = {"prompt": prompt.name, "noise": noise, "displacement": moved}
                new.append(key | place | testbed.measures(x, prompt))
        self.rows += new
        with self.rows_file.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        mean = {k: round(float(np.mean([row[k] for row in new])), 3) for k in (*DIMENSIONS, "displacement")}
        log.info("%s seed %d %s x%g: %s", name, seed, split, strength, mean)

    def trained(self, file: str, train: Callable[..., Policy], *arguments: Any, **named: Any) -> Policy:
        return self.testbed.kept(file, partial(train, self.testbed.generator, *arguments, **named))

    def groups(self, name: str, seed: int, round: int, system: System) -> list[PromptGroup]:
        """Candidates of a system; those of round 0 are the base's, and every system's."""
        attach(self.testbed.generator, system)
        return self.testbed.groups(name, seed, round, self.prompts)

    def core(self, seed: int) -> None:
        """What learns from candidates of the base, in one round."""
        groups = self.groups("base", seed, 0, System(None))
        experts = self.experts(seed, groups)
        self.test("tlpo_offline", seed, System(experts))
        self.test("uniform", seed, System(experts, (1 / 3,) * 3))
        self.one("dpo_sum", seed, groups)
        self.one("simpo", seed, groups)
        wide = self.trained(f"wide-{seed}-0.pkl", train_wide, groups, seed, self.updates)
        self.test("wide", seed, System(wide))

    def controls(self, seed: int) -> None:
        """Parts of the core, other losses on the same groups, and labels that say nothing."""
        groups = self.groups("base", seed, 0, System(None))
        experts = self.experts(seed, groups)
        together = chosen_strength(self.rows, "tlpo_offline", seed)
        for k, dimension in enumerate(DIMENSIONS):  # one dimension's expert is not chosen by the least gain
            alone = System(experts, tuple(float(i == k) for i in range(3)))
            split = "validation" if self.explore else "test"
            self.measure(f"expert_{dimension}", seed, alone, split, together)
        self.test("soup", seed, System(soup(experts)))
        self.test("blend", seed, System(experts, blended=True))
        self.test("segments", seed, System(replace(experts, gate=segments()), gated=True))
        merged = self.trained(f"map-reduce-{seed}-0.pkl", train_map_reduce, groups, seed, self.updates)
        self.test("map_reduce", seed, System(merged, (1 / 3,) * len(merged.dimensions)))
        for name in ("shuffled", "least_motion", "sft", "ipo", "sdpo"):
            self.one(name, seed, groups)
        routed = self.trained(f"group-{seed}-0.pkl", train_experts, groups, seed, self.updates, kind="nft")
        self.test("tlpo_group_loss", seed, System(routed))

    def experts(self, seed: int, groups: Sequence[PromptGroup]) -> Policy:
        return self.trained(f"experts-{seed}-0.pkl", train_experts, groups, seed, self.updates)

    def one(self, name: str, seed: int, groups: Sequence[PromptGroup]) -> None:
        loss = BASELINES[name]
        policy = self.trained(f"{name}-{seed}-0.pkl", train_one, groups, seed, self.updates, **loss)
        self.test(name, seed, System(policy))

    def online(self, seed: int) -> None:
        """Further rounds on a system's own candidates."""
        base = self.groups("base", seed, 0, System(None))
        ways: dict[str, tuple[str, Callable[..., Policy]]] = {
            "tlpo": ("experts", train_experts),
            "dpo_sum": ("dpo_sum", train_one),
            "wide": ("wide", train_wide),
        }
        for name, (file, train) in ways.items():
            policy = self.trained(f"{file}-{seed}-0.pkl", train, base, seed, self.updates)
            for round in range(1, self.rounds):
                groups = self.groups(name, seed, round, System(policy))
                policy = self.trained(
                    f"{file}-{seed}-{round}.pkl",
                    train,
                    groups,
                    seed + 100 * round,
                    self.updates,
                    start=policy,
                )
                self.test(f"{name}_round{round}", seed, System(policy))

    def gates(self, seed: int) -> None:
        """Stage 2 over the offline experts, on their own candidates, which they did not learn from."""
        experts = self.experts(seed, self.groups("base", seed, 0, System(None)))
        groups = self.groups("tlpo", seed, 1, System(experts))
        for mode in GATES:
            policy = self.trained(
                f"gate-{mode}-{seed}.pkl", train_gate, groups, seed, experts, mode, GATE_UPDATES
            )
            self.test(f"gate_{mode}", seed, System(policy, gated=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", default="embedded-uncurated")
    parser.add_argument("--curated", default="embedded", help="what curation of the data reaches")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--prompts", type=int, default=120, help="of the candidates")
    parser.add_argument("--updates", type=int, default=80, help="of each expert and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=PARTS)
    parser.add_argument("--explore", action="store_true", help="leave the test prompts alone")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    testbed = Testbed(arguments.media, arguments.out, arguments.base, arguments.curated)
    study = Study(testbed, arguments.prompts, arguments.updates, arguments.rounds, arguments.explore)
    study.test("base", 0, System(None))
    for part in arguments.part:
        for seed in range(arguments.seeds):
            getattr(study, part)(seed)
    testbed.generator = testbed.curated
    study.test("curated", 0, System(None))


if __name__ == "__main__":
    main()
