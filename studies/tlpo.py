"""The study: what does alignment gain from the uncurated base, and what is it that gains?

    python studies/tlpo.py MEDIA OUT [--seeds 1] [--systems NAME ...]

Resumable: whatever lies in OUT is not made again. One thread. Every system learns from the same candidates
and the same answers of the simulated panel (studies/annotators.py), with equal numbers of updates, and is
measured on prompts of other people. OUT/rows.jsonl holds one row per system, training seed, prompt and noise;
studies/results/tlpo.json is made from it by studies/tlpo_table.py.

Measured here on the driving motion: `mn` and `vq` by the annotators' rules without error (the labels' own
measure: upper bounds), `ls` by the packaged judge (other predictors fitted on other people).

Shape suffixes: N candidates, K dimensions, B samples, C motion channels, F frames.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch

from ft2ray.dimensions import DEFAULT_DIMENSIONS, masks
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.lipsync import apply_ridges, speech_features, windowed_correlation
from ft2ray.generator.portrait.generator import PortraitGenerator as Generator
from ft2ray.generator.sampler import Conditions, integrate
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.preference.rules import FULL, Pair, PairRule, pairs
from ft2ray.records import Candidate, PromptGroup
from ft2ray.systems import SUM
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.policy import Policy, policy_of
from ft2ray.tlpo.run import TlpoRun
from ft2ray.tlpo.settings import ExpertSettings, GateSettings, LossSettings, TlpoSettings
from ft2ray.tlpo.step import expert_step
from ft2ray.training import update
from studies.annotators import DIMENSIONS, Annotators, lip_curves
from studies.make_split import files_of

log = logging.getLogger(__name__)
SECONDS = 3
FRAMES = 75
CANDIDATES = 8
RANK = 16
MASKS = masks(DEFAULT_DIMENSIONS)
RULE = PairRule(margin=0.0, full_tolerance=0.0)
"""Best against worst of every group, by the panel's answers in logits."""


@dataclass(frozen=True, eq=False)
class Prompt:
    name: str
    wav_T: np.ndarray
    cond: Conditions
    expected: tuple[np.ndarray, np.ndarray]  # lips by the annotators' predictor
    judged_F: np.ndarray  # lip gap by the judge's


class Study:
    """The generator, who labels and who measures, and the files of one run of the study."""

    def __init__(self, media: Path, out: Path, base: str, prompts: int, updates: int) -> None:
        self.media, self.out, self.base, self.prompts, self.updates = media, out, base, prompts, updates
        out.mkdir(parents=True, exist_ok=True)
        self.generator = Generator.load(base)
        self.annotators, self.judge = Annotators.load(), Judge.load()
        self.basis = self.annotators.basis

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """The pickle OUT/name that this study wrote earlier, or what `make` returns, written there."""
        path = self.out / name
        if path.exists():
            return pickle.loads(path.read_bytes())  # noqa: S301  # written by this program only
        started, made = time.monotonic(), make()
        temporary = path.with_suffix(".new")
        temporary.write_bytes(pickle.dumps(made))
        temporary.rename(path)
        log.info("%s after %.0f s", name, time.monotonic() - started)
        return made

    def prompts_of(self, split: str, count: int) -> list[Prompt]:
        """`count` windows of SECONDS, one after the other from every recording, so that all people speak."""
        return self.kept(f"prompts-{split}-{count}.pkl", lambda: self._read_prompts(split, count))

    def _read_prompts(self, split: str, count: int) -> list[Prompt]:
        recordings = {
            name: read_audio(self.media / name) for name in sorted(files_of("prompts", split, kind="speech"))
        }
        length, found = SECONDS * SAMPLE_RATE, []
        for number in range(10):
            for name, wav_T in recordings.items():
                piece_T = wav_T[number * length : (number + 1) * length]
                if len(piece_T) == length and len(found) < count:
                    found.append(self._prompt(f"{name}@{number * SECONDS}", piece_T))
        return found

    def _prompt(self, name: str, wav_T: np.ndarray) -> Prompt:
        cond = self.generator.encode_prompt(None, wav_T)  # type: ignore[arg-type]  # any face
        features = {kind: speech_features(wav_T, FRAMES, 25.0, kind) for kind in ("whisper", "mel")}
        judged_F = apply_ridges(self.judge.ridges, features)
        return Prompt(name, wav_T, cond, self.annotators.expectation(wav_T, FRAMES), judged_F)

    def sample(self, prompt: Prompt, seeds: Sequence[int]) -> torch.Tensor:
        """Latents x_BCFHW of these seeds at guidance 1, in one batch."""
        shape = self.generator.codec.latent_shape(FRAMES)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        conds = [prompt.cond] * len(seeds)
        with torch.no_grad():
            return integrate(
                lambda x, t: self.generator.velocity(x, torch.full((len(seeds),), t), conds),
                torch.stack(noise),
                SamplerSettings(audio_scale=1.0),
            )

    def motion(self, x_CFHW: torch.Tensor) -> np.ndarray:
        """Whitened motion x_CF."""
        return (x_CFHW * self.generator.scale_C111)[:, :, 0, 0].numpy()

    def rules(self, x_CFHW: torch.Tensor, prompt: Prompt) -> np.ndarray:
        return self.annotators.scores(self.motion(x_CFHW), prompt.expected)

    def measures(self, x_CFHW: torch.Tensor, prompt: Prompt) -> dict[str, float]:
        score_K = self.rules(x_CFHW, prompt)
        gap_F, _ = lip_curves(self.motion(x_CFHW), self.basis)
        return {"mn": score_K[0], "ls": windowed_correlation(prompt.judged_F, gap_F), "vq": score_K[2]}

    # -- candidates and answers

    def groups(self, name: str, seed: int, round: int) -> list[PromptGroup]:
        """Candidates of the adapters that are at work now, labelled by the panel."""

        def make() -> list[PromptGroup]:
            prompts = self.prompts_of("train", self.prompts)
            first = 10**6 * (seed + 1) + 10**4 * round
            sampled = [
                self.sample(p, range(first + 100 * n, first + 100 * n + CANDIDATES))
                for n, p in enumerate(prompts)
            ]
            scores = np.array(
                [[self.rules(x, p) for x in xs] for p, xs in zip(prompts, sampled, strict=True)]
            )
            spread_K = (scores - scores.mean(axis=1, keepdims=True)).std(axis=(0, 1))
            rng = np.random.default_rng(100 * seed + round)
            return [
                group_of(p, xs, self.annotators.answers(score_NK, spread_K, rng), self.generator, round)
                for p, xs, score_NK in zip(prompts, sampled, scores, strict=True)
            ]

        return self.kept(f"groups-{name}-{seed}-{round}.pkl", make)


def group_of(
    prompt: Prompt, x_BCFHW: torch.Tensor, p_NK: np.ndarray, generator: Generator, round: int
) -> PromptGroup:
    """The record that the platform stores, from candidates and their answers."""
    mask = generator.lip_mask(x_BCFHW[0]).numpy()
    candidates = [
        Candidate(
            f"{prompt.name}-{round}-{n}", "study", n, {}, x.numpy(), mask, scores=[float(p) for p in p_K]
        )
        for n, (x, p_K) in enumerate(zip(x_BCFHW, p_NK, strict=True))
    ]
    return PromptGroup(
        f"{prompt.name}-{round}", round, prompt.name, "", "", prompt.name, 0.0, SECONDS,
        generator.fingerprint, None, DIMENSIONS, None, prompt.cond.audio_LD.numpy(), FRAMES, candidates,
    )  # fmt: skip


def pairs_of(group: PromptGroup, shuffle: np.random.Generator | None = None) -> dict[str, list[Pair]]:
    p_NK = group.scores_NK()
    if shuffle is not None:
        p_NK = shuffle.permutation(p_NK)
    return {
        "all" if pool == SUM else pool: found
        for pool, found in pairs(p_NK, DIMENSIONS, RULE, (*DIMENSIONS, SUM, FULL)).items()
    }


# -- trainings: each returns a policy, all from the same groups


def settings(updates: int, **changes: Any) -> TlpoSettings:
    base: dict[str, Any] = {
        "steps": updates,
        "gate_steps": 0,
        "baseline": False,
        "gate": GateSettings(mode="sum"),
    }
    return TlpoSettings().replaced(**(base | changes))


def train_experts(
    study: Study, groups: Sequence[PromptGroup], seed: int, start: Policy | None = None, **changes: Any
) -> Policy:
    """One expert per dimension, each for `updates` steps, from `start` on."""
    detach(study)
    run = TlpoRun(study.generator, DIMENSIONS, settings(study.updates, **changes), seed=seed, masks=MASKS)
    return _trained(run, groups, start)


def train_one(
    study: Study, groups: Sequence[PromptGroup], seed: int, shuffled: bool = False, **loss: Any
) -> Policy:
    """One adapter on the pairs of the summed score, with as many updates as all experts together."""
    detach(study)
    rng = np.random.default_rng(seed) if shuffled else None
    run = TlpoRun(
        study.generator, ("all",), settings(3 * study.updates, loss=LossSettings(**loss)), seed=seed
    )
    return _trained(run, groups, None, rng)


def train_wide(study: Study, groups: Sequence[PromptGroup], seed: int) -> Policy:
    """One adapter of triple rank on the three masked, anchored losses in turn: is it masks or fusion?"""
    detach(study)
    run = TlpoRun(study.generator, DIMENSIONS, settings(1), seed=seed, masks=MASKS)
    for group in groups:
        run.add(group, pairs_of(group))
    batches = [run._batch(name) for _ in range(study.updates) for name in DIMENSIONS]
    loss, transformer = run.settings.loss, study.generator.transformer
    detach(study)
    experts = Experts(transformer, ("all",), ExpertSettings(rank=3 * RANK, alpha=3.0 * RANK), seed)
    optimizer = torch.optim.AdamW(
        experts.parameters("all"), run.settings.optimizer.learning_rate, weight_decay=0.0
    )
    for batch in batches:
        expert_step(study.generator.velocity, experts, "all", batch, loss)
        update(optimizer)
    return policy_of(experts, ("all",), study.generator.fingerprint)


def _trained(
    run: TlpoRun, groups: Sequence[PromptGroup], start: Policy | None, rng: np.random.Generator | None = None
) -> Policy:
    for name, (_, tensors) in (start.adapters if start else {}).items():
        run.experts.load_state(name, tensors)
    for group in groups:
        run.add(group, pairs_of(group, rng))
    run.train(run.last_step, lambda run: None)
    return run.policy()


def detach(study: Study) -> None:
    detach_experts(study.generator.transformer)


# -- measuring


@dataclass(frozen=True)
class System:
    """A policy and the weight of each of its adapters."""

    policy: Policy | None
    weights: tuple[float, ...] = ()


def attach(study: Study, system: System) -> None:
    detach(study)
    if system.policy is not None:
        experts = Experts.from_states(study.generator.transformer, system.policy.adapters)
        names = tuple(system.policy.adapters)
        experts.use(names, torch.tensor(system.weights or (1.0,) * len(names)))


def measure(study: Study, name: str, seed: int, system: System, split: str, count: int, noises: int) -> None:
    """Append rows of a system, unless they are there."""
    rows = study.out / "rows.jsonl"
    done = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    if any((row["system"], row["seed"], row["split"]) == (name, seed, split) for row in done):
        return
    attach(study, system)
    prompts, new = study.prompts_of(split, count), []
    base = study.kept(f"base-{split}-{count}-{noises}.pkl", lambda: base_samples(study, prompts, noises))
    for number, prompt in enumerate(prompts):
        x_BCFHW = study.sample(prompt, [7000 + 10 * number + n for n in range(noises)])
        for noise, x in enumerate(x_BCFHW):
            moved = (x - base[number][noise]).norm() / base[number][noise].norm()
            values = {key: float(value) for key, value in study.measures(x, prompt).items()}
            new.append({"system": name, "seed": seed, "split": split, "prompt": prompt.name, "noise": noise,
                        "displacement": float(moved), **values})  # fmt: skip
    with rows.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in new)
    mean = {key: round(float(np.mean([row[key] for row in new])), 4) for key in (*DIMENSIONS, "displacement")}
    log.info("%s seed %d %s: %s", name, seed, split, mean)


def base_samples(study: Study, prompts: Sequence[Prompt], noises: int) -> list[torch.Tensor]:
    detach(study)
    return [
        study.sample(p, [7000 + 10 * number + n for n in range(noises)]) for number, p in enumerate(prompts)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", default="embedded-uncurated")
    parser.add_argument(
        "--curated", default="embedded", help="weights of the reference that curation reaches"
    )
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--prompts", type=int, default=60, help="of the candidates")
    parser.add_argument("--updates", type=int, default=80, help="of each expert and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--only", nargs="*", help="these systems only")
    a = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    study = Study(a.media, a.out, a.base, a.prompts, a.updates)

    tested = partial(measure, study, split=a.split, count=24, noises=2)
    tested("base", 0, System(None))
    for seed in range(a.seeds):
        run_seed(study, seed, a.rounds, tested, a.only or (*BASELINES, "tlpo_online"))
    study.generator = Generator.load(a.curated)
    tested("curated", 0, System(None))


def run_seed(
    study: Study, seed: int, rounds: int, tested: Callable[[str, int, System], None], wanted: Sequence[str]
) -> None:
    """Train and measure everything of one training seed."""
    detach(study)
    groups = study.groups("base", seed, 0)
    experts = study.kept(f"experts-{seed}-0.pkl", partial(train_experts, study, groups, seed))
    tested("tlpo_offline", seed, System(experts))
    tested("uniform", seed, System(experts, (1 / 3,) * 3))
    for k, dimension in enumerate(DIMENSIONS):
        tested(f"expert_{dimension}", seed, System(experts, tuple(float(i == k) for i in range(3))))
    for name, (train, arguments) in BASELINES.items():
        if name in wanted:
            policy = study.kept(f"{name}-{seed}.pkl", partial(train, study, groups, seed, **arguments))
            tested(name, seed, System(policy))
    policy = experts
    for round in range(1, rounds if "tlpo_online" in wanted else 0):
        attach(study, System(policy))
        fresh = study.groups("tlpo", seed, round)
        again = partial(train_experts, study, fresh, seed, start=policy)
        policy = study.kept(f"experts-{seed}-{round}.pkl", again)
        tested(f"tlpo_online_{round}", seed, System(policy))


BASELINES: dict[str, tuple[Callable[..., Policy], dict[str, Any]]] = {
    "dpo_sum": (train_one, {}),
    "wide": (train_wide, {}),
    "shuffled": (train_one, {"shuffled": True}),
    "simpo": (train_one, {"kind": "simpo", "gamma": 0.5}),
    "ipo": (train_one, {"kind": "ipo"}),
    "sdpo": (train_one, {"safeguard_mu": 0.9}),
    "sft": (train_one, {"beta": 1e-3, "winner_weight": 1e3, "winner_fades": False}),
}
"""Learn from the candidates of the base, with as many updates as all experts together. sft: DPO's own term is
a thousandth of the winners'."""


if __name__ == "__main__":
    main()
