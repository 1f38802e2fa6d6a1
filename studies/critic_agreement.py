"""Does the critic order the candidates of a prompt as the annotators and the judges do?

    python studies/critic_agreement.py MEDIA OUT [--split test] [--calibrate]

Candidates of the uncurated base at one sampler setting, on portraits and voices that neither the base, nor
the annotators, nor the critic met, rendered and looked at as in a run. Printed per dimension: the correlation
inside groups (each group's mean taken off) of the critic, of the thinker alone and of the motion head alone
with the annotators' rules and with the judge (mn and ls of the evaluation, on the driving motion), and the
balanced accuracy against the annotators' median, with 95 % intervals by bootstrap over prompts. OUT keeps the
views.

Shape suffixes: G groups, N candidates, K dimensions.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch

from ft2ray.critic.calibration import calibrate
from ft2ray.critic.talking.critic import TalkingCritic, rescale
from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.errors import MediaError
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import Portrait, load_portrait
from studies.annotators import DIMENSIONS, sample_motion
from studies.make_split import files_of
from studies.testbed import CANDIDATES, Testbed

PROMPTS = 24
DRAWS = 2000


def portraits(testbed: Testbed, split: str, mesher: FaceMesher) -> list[Portrait]:
    found = []
    for name in sorted(files_of("prompts", split, kind="portraits")):
        try:
            found.append(load_portrait(testbed.media / name, mesher=mesher))
        except MediaError as error:
            print(f"left out: {error}")
    return found


def look(testbed: Testbed, split: str) -> dict[str, Any]:
    """Views of all candidates, with what the annotators' rules and the judge say of them."""
    mesher, viewer, generator = FaceMesher(), TalkingViewer(), testbed.generator
    faces, views, rules, judged = portraits(testbed, split, mesher), [], [], []
    for number, prompt in enumerate(testbed.prompts(split, PROMPTS)):
        wav_T = testbed.sound(prompt)
        first = 4 * 10**6 + 100 * number
        for x_CFHW in sample_motion(generator, prompt.cond, range(first, first + CANDIDATES)):
            frames_FHW3 = generator.decode(faces[number % len(faces)], x_CFHW)
            views.append(viewer.view(frames_FHW3, wav_T, generator.fps, mesher))
            rules.append(testbed.rules(x_CFHW, prompt))
            found = testbed.measures(x_CFHW, prompt)
            judged.append([found["mn"], found["ls"]])
        print(f"{number + 1} of {PROMPTS} prompts", flush=True)
    return {"views": views, "rules": np.array(rules), "judged": np.array(judged)}


def inside(a_GN: np.ndarray, b_GN: np.ndarray) -> float:
    """Correlation of what is left when each group's mean is taken off."""
    a_GN, b_GN = (values - values.mean(axis=1, keepdims=True) for values in (a_GN, b_GN))
    return float((a_GN * b_GN).sum() / np.sqrt((a_GN**2).sum() * (b_GN**2).sum()))


def accuracy(p_GN: np.ndarray, gold_GN: np.ndarray) -> float:
    """Balanced accuracy of P > 0.5 against the better half of all candidates."""
    good_GN = gold_GN > np.median(gold_GN)
    return float(((p_GN > 0.5)[good_GN].mean() + (p_GN <= 0.5)[~good_GN].mean()) / 2)


def with_interval(
    figure: Callable[[np.ndarray, np.ndarray], float], a_GN: np.ndarray, b_GN: np.ndarray
) -> dict[str, float]:
    rng = np.random.default_rng(0)
    drawn = [figure(a_GN[at], b_GN[at]) for at in rng.integers(len(a_GN), size=(DRAWS, len(a_GN)))]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": figure(a_GN, b_GN), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--critic", type=Path, default=Path("ft2ray/assets/critic"))
    parser.add_argument("--calibrate", action="store_true", help="scale the logits by these candidates first")
    parser.add_argument("--write", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    testbed = Testbed(arguments.media, arguments.out, "embedded-uncurated", "embedded")
    seen = testbed.kept(f"views-{arguments.split}.pkl", lambda: look(testbed, arguments.split))
    if arguments.calibrate:
        assert arguments.split == "validation", "thresholds are chosen on validation people"
        margin_NK = TalkingCritic.load(arguments.critic).margins(seen["views"])
        label_NK = (seen["rules"] > np.median(seen["rules"], axis=0)).astype(float)
        rescale(arguments.critic, *calibrate(margin_NK, label_NK, DIMENSIONS))
    critic = TalkingCritic.load(arguments.critic)
    assert critic.head is not None
    silent = replace(critic, head=None)
    thinker_NK, both_NK = silent.margins(seen["views"]), critic.margins(seen["views"])
    head_NK = both_NK - critic.head.thinker_K.double().numpy() * thinker_NK
    p_NK = critic.score(seen["views"])
    figures: dict[str, Any] = {"prompts": PROMPTS, "candidates": CANDIDATES, "split": arguments.split}
    for k, name in enumerate(DIMENSIONS):
        golds = {"annotators": seen["rules"][:, k]}
        if k < seen["judged"].shape[1]:
            golds["judge"] = seen["judged"][:, k]
        own: dict[str, Any] = {}
        for gold, values in golds.items():
            for who, margins in (("critic", both_NK), ("thinker", thinker_NK), ("head", head_NK)):
                pair = margins[:, k].reshape(PROMPTS, -1), values.reshape(PROMPTS, -1)
                own[f"r_{who}_{gold}"] = with_interval(inside, *pair)
        pair = p_NK[:, k].reshape(PROMPTS, -1), golds["annotators"].reshape(PROMPTS, -1)
        own["balanced_accuracy"] = with_interval(accuracy, *pair)
        figures[name] = own
        for what, found in own.items():
            print(f"{name} {what:22} {found['value']:6.3f} ({found['low']:.3f} to {found['high']:.3f})")
    if arguments.write:
        arguments.write.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
