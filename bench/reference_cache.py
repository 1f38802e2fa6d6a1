"""Reference errors that are kept against those computed at every step: time, and what is learnt.

    python bench/reference_cache.py

The packaged generator makes the candidates of the default run's prompts; rules on the latents, which are
learnt in a few steps, take the place of the critic: more motion of the face, more of the mouth, less jerk.
One repetition is one seed: the same training twice, with fresh noise at every draw and with `DRAWS` draws per
group, each judged by the share of held-out pairs that it tells apart (implicit reward, the same noise for
both).
"""

from __future__ import annotations

import statistics

import numpy as np
import torch
from figures import Figure, in_turns, main, ratios

from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.portrait import load_portrait
from ft2ray.preference.draws import DrawRule, DrawSettings, PairPool, draws
from ft2ray.preference.rules import FULL, Pair
from ft2ray.records import Candidate, Prompt, PromptGroup
from ft2ray.rounds.prompts import plan_prompts, read_sound
from ft2ray.rounds.settings import PromptSettings
from ft2ray.systems import SUM
from ft2ray.tlpo.run import TlpoRun, conditions_of
from ft2ray.tlpo.settings import ComputeSettings, GateSettings, LossSettings, TlpoSettings
from ft2ray.tlpo.step import pair_batch, pair_metrics

DIMENSIONS = ("mn", "ls", "vq")
PROMPTS, HELD_OUT, CANDIDATES = 12, 8, 4
DRAWS, STEPS, TURN, TESTED = 4, 16, 4, 96
SETTINGS = TlpoSettings(
    loss=LossSettings(winner_weight=0.0),
    gate=GateSettings(mode="uniform"),
    batch=4,
    steps=STEPS,
    gate_steps=0,
)
Scored = tuple[PromptGroup, dict[str, list[Pair]]]


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    prompts = plan_prompts(PromptSettings(curation_prompts=PROMPTS, evaluation_prompts=HELD_OUT), 256)
    generator = PortraitGenerator.load()
    seen, unseen = ([scored(generator, p) for p in found] for found in (prompts.curation, prompts.evaluation))
    ways = {"fresh": None, "kept": DRAWS}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    accuracies: dict[str, list[float]] = {way: [] for way in ways}
    for seed in range(repetitions):
        runs = {way: trainer(seen, seed, per_group) for way, per_group in ways.items()}
        turns = {
            way: lambda run=run: run.train(run.step + TURN, lambda run: None) for way, run in runs.items()
        }
        for way, found in in_turns(turns, STEPS // TURN).items():
            seconds[way].append(sum(found) / STEPS)
            accuracies[way].append(accuracy(runs[way], unseen))
    spread = [
        f"fresh noise: median {statistics.median(accuracies['fresh']):.3f} "
        f"({min(accuracies['fresh']):.3f} to {max(accuracies['fresh']):.3f})"
    ]
    change = [100 * (a - b) for a, b in zip(accuracies["kept"], accuracies["fresh"], strict=True)]
    return [
        Figure(
            "seconds per step, kept", f"fresh: {statistics.median(seconds['fresh']):.2f} s", seconds["kept"]
        ),
        Figure(
            f"training step, {DRAWS} draws per group",
            "reference computed at every step",
            ratios(seconds["fresh"], seconds["kept"]),
            "x faster",
        ),
        Figure(f"held-out accuracy, {DRAWS} draws per group", *spread, accuracies["kept"]),
        Figure("its change, percentage points", "fresh noise, seed by seed", change),
    ]


def scored(generator: PortraitGenerator, prompt: Prompt) -> Scored:
    """Candidates of one prompt, which differ in their noise only, and all pairs by each rule."""
    wav_T = read_sound(prompt, 300.0)
    cond = generator.encode_prompt(load_portrait(prompt.portrait, size=256), wav_T)
    candidates, scores = [], []
    for n in range(CANDIDATES):
        x_CFHW = generator.sample(cond, n, SamplerSettings(audio_scale=2.0))
        mask_CFHW = generator.lip_mask(x_CFHW)
        speed = x_CFHW.diff(dim=1)
        lips = mask_CFHW.expand(x_CFHW.shape)[:, 1:] > 0
        jerk = speed.diff(dim=1).square().mean() / speed.square().mean()
        scores.append([speed[~lips].square().mean().item(), speed[lips].square().mean().item(), -jerk.item()])
        candidates.append(
            Candidate(f"{prompt.prompt_id}-{n}", "base", n, {}, x_CFHW.numpy(), mask_CFHW.numpy())
        )
    group = PromptGroup(
        prompt.prompt_id, 0, prompt.prompt_id, prompt.portrait, "", prompt.speech, 0.0, 3.0,
        generator.fingerprint, None, DIMENSIONS, None, cond.audio_LD.numpy(), cond.frames, candidates,
    )  # fmt: skip
    score_NK = np.array(scores)
    score_NK = (score_NK - score_NK.mean(0)) / score_NK.std(0)
    columns = {name: score_NK[:, k] for k, name in enumerate(DIMENSIONS)} | {SUM: score_NK.sum(1)}
    return group, {name: all_pairs(column_N) for name, column_N in columns.items()} | {FULL: []}


def all_pairs(score_N: np.ndarray) -> list[Pair]:
    ranked = [int(n) for n in np.argsort(-score_N)]
    return [Pair(w, n, float(score_N[w] - score_N[n])) for k, w in enumerate(ranked) for n in ranked[k + 1 :]]


def trainer(groups: list[Scored], seed: int, per_group: int | None) -> TlpoRun:
    settings = SETTINGS.replaced(draws=DrawSettings(per_group=per_group))
    run = TlpoRun(
        PortraitGenerator.load(), DIMENSIONS, settings, ComputeSettings(checkpoint_every=10**6), seed
    )
    for group, pairs in groups:
        run.add(group, pairs)
    return run


def accuracy(run: TlpoRun, groups: list[Scored]) -> float:
    """Share of held-out pairs that the experts tell apart, over `TESTED` draws each."""
    found = []
    for group, _ in groups:
        run.groups[group.group_id] = group
    for name in DIMENSIONS:
        pool = PairPool((group.group_id, pairs[name]) for group, pairs in groups)
        chosen = draws(DrawRule(seed=10**6), name, 0, TESTED, pool)
        batch = pair_batch(
            chosen, run._latents, lambda draw: conditions_of(run.groups[draw.group_id]), run._lip_mask
        )
        run.experts.use((name,))
        metrics = pair_metrics(run.generator.velocity, run.experts, batch, run.settings.loss)
        found.append(metrics["accuracy"])
    return statistics.mean(found)


if __name__ == "__main__":
    main("reference", measure)
