"""Does the critic put the candidates of a prompt in the order in which the held-out judge puts them?

    python studies/candidate_order.py RUN_DIR [--groups 24] [--processes 2]

Every candidate of a curated run is decoded again and measured like a clip of the evaluation. Within each
group the pairs that the run's rule takes from the critic are counted as right where the judge prefers the
same candidate (50 % is chance: such pairs carry no signal for that dimension), and the two orders are
correlated (Spearman, mean and standard error over groups). The hand-made rules stand beside the critic.
Only prompts of the curation are looked at, so that settings may be chosen by it without touching the
evaluation.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.measure import measure_clip
from ft2ray.loaders import load_generator
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import load_portrait
from ft2ray.preference.rules import PairRule, pairs
from ft2ray.records import Prompt, PromptGroup
from ft2ray.rounds.measurements import run_judge
from ft2ray.rounds.prompts import read_sound
from ft2ray.run import Run, read_groups
from recipes.embedded.rule_critic import RuleCritic


def judged(run_dir: str, group: PromptGroup) -> tuple[np.ndarray, np.ndarray]:
    """Scores of all candidates by the judge and by the hand-made rules: [N, K] each, NaN where missing."""
    torch.set_num_threads(1)
    run = Run.open(run_dir)
    config = run.config
    generator, mesher, rules = load_generator(config.generator.weights), FaceMesher(), RuleCritic.load()
    judge = Judge.load(run_judge(run))
    prompt = Prompt(group.prompt_id, group.portrait, group.speech, group.start_seconds, group.seconds)
    portrait, wav_T = (
        load_portrait(prompt.portrait, size=config.generator.size, mesher=mesher),
        read_sound(prompt, config.prompts.max_recording_seconds),
    )
    judge_NK = np.full((len(group.candidates), len(group.dimensions)), np.nan)
    rule_NK = judge_NK.copy()
    for n, candidate in enumerate(group.candidates):
        frames_FHW3 = generator.decode(portrait, torch.from_numpy(candidate.latents_CFHW))
        metrics = measure_clip(frames_FHW3, wav_T, generator.fps, portrait, judge, mesher).metrics()
        found = [metrics[name] for name in group.dimensions]
        judge_NK[n] = [np.nan if value is None else value for value in found]
        if candidate.scores is not None:
            view = TalkingViewer().view(frames_FHW3, wav_T, generator.fps, mesher)
            by_rule = dict(zip(rules.dimensions, rules.score([view])[0], strict=True))
            rule_NK[n] = [by_rule[name] for name in group.dimensions]
    return judge_NK, rule_NK


def agreement(critic: list[np.ndarray], judge: list[np.ndarray], k: int, rule: PairRule) -> dict[str, float]:
    """How far dimension k of one's scores is right about the other's, over all groups."""
    right, orders, gains = [], [], []
    for p_NK, q_NK in zip(critic, judge, strict=True):
        for pair in pairs(p_NK[:, [k]], ["score"], rule)["score"]:
            difference = q_NK[pair.winner, k] - q_NK[pair.loser, k]
            if np.isfinite(difference):
                right.append(difference > 0)
                gains.append(difference)
        known = np.isfinite(p_NK[:, k]) & np.isfinite(q_NK[:, k])
        if known.sum() > 2:
            orders.append(spearmanr(p_NK[known, k], q_NK[known, k]).statistic)
    return {
        "pairs": len(right),
        "right": float(np.mean(right)),
        "gain": float(np.mean(gains)),
        "order": float(np.nanmean(orders)),
        "error": float(np.nanstd(orders) / np.sqrt(len(orders))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--groups", type=int, default=24)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    groups = read_groups(arguments.run)[: arguments.groups]
    with ProcessPoolExecutor(arguments.processes) as pool:
        found = list(pool.map(judged, [arguments.run] * len(groups), groups))
    judge, rules = [one[0] for one in found], [one[1] for one in found]
    scores = {"critic": [group.scores_NK() for group in groups], "rules": rules}
    rule, lines = Run.open(arguments.run).config.pairs, []
    print(f"{len(groups)} groups; pairs by {rule}")
    for name, scores in {"critic": [group.scores_NK() for group in groups], "rules": rules}.items():
        for k, dimension in enumerate(groups[0].dimensions):
            line = {"scores": name, "dimension": dimension} | agreement(scores, judge, k, rule)
            lines.append(line)
            print(
                f"{name:7} {dimension}: {line['pairs']:4} pairs, the judge agrees with {line['right']:.0%}, "
                f"mean gain {line['gain']:+.4f}; orders correlate {line['order']:+.2f} +- {line['error']:.2f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
