"""The study's systems in decoded pixels: python studies/pixels.py MEDIA OUT [--systems NAME ...] [--seeds 3]

OUT is the folder of studies/tlpo.py. Systems are sampled at the strength that validation prompts chose, for
the test prompts on test portraits (one noise, the same for every system), rendered, and measured as an
evaluation measures clips. OUT/pixels.jsonl gets one row per clip; the table printed at the end pairs clips
with the base's.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch

from ft2ray.evaluation.measure import measure_clip
from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import Portrait
from studies.annotators import sample_motion
from studies.critic_agreement import portraits
from studies.testbed import Testbed
from studies.tlpo import PROMPTS, System, attach
from studies.tlpo_table import chosen_strength, interval, read_rows

DIMENSIONS = ("mn", "ls", "vq")
FILES = {
    "tlpo_offline": "experts-{seed}-0.pkl",
    "dpo_sum": "dpo_sum-{seed}-0.pkl",
    "tlpo_round1": "experts-{seed}-1.pkl",
    "dpo_sum_round1": "dpo_sum-{seed}-1.pkl",
}
"""Systems with trainings, and the files of their policies."""


def measured(testbed: Testbed, faces: Sequence[Portrait], mesher: FaceMesher) -> list[dict[str, Any]]:
    """Clips of what is on the generator now, one a prompt."""
    rows = []
    for number, prompt in enumerate(testbed.prompts("test", PROMPTS)):
        wav_T = testbed.sound(prompt)
        (x_CFHW,) = sample_motion(testbed.generator, prompt.cond, [9000 + number])
        portrait = faces[number % len(faces)]
        frames_FHW3 = testbed.generator.decode(portrait, x_CFHW)
        found = measure_clip(frames_FHW3, wav_T, testbed.generator.fps, portrait, testbed.judge, mesher)
        rows.append({"prompt": prompt.name} | {key: found.metrics()[key] for key in DIMENSIONS})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--systems", nargs="*", default=["base", "curated", *FILES])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    testbed = Testbed(arguments.media, arguments.out, "embedded-uncurated", "embedded")
    mesher, study = FaceMesher(), read_rows(arguments.out / "rows.jsonl")
    faces, broad, file = portraits(testbed, "test", mesher), testbed.generator, arguments.out / "pixels.jsonl"
    rows = read_rows(file)
    for name in arguments.systems:
        for seed in range(arguments.seeds if name in FILES else 1):
            if any((row["system"], row["seed"]) == (name, seed) for row in rows):
                continue
            testbed.generator = testbed.curated if name == "curated" else broad
            if name in FILES:
                policy = pickle.loads((arguments.out / FILES[name].format(seed=seed)).read_bytes())  # noqa: S301
                attach(testbed.generator, System(policy), chosen_strength(study, name, seed))
            else:
                attach(testbed.generator, System(None))
            new = [{"system": name, "seed": seed} | row for row in measured(testbed, faces, mesher)]
            with file.open("a") as lines:
                lines.writelines(json.dumps(row) + "\n" for row in new)
            rows += new
    base = {row["prompt"]: row for row in rows if row["system"] == "base"}
    for name in dict.fromkeys(row["system"] for row in rows):
        seeds = sorted({row["seed"] for row in rows if row["system"] == name})
        for key in DIMENSIONS:
            own = [[r for r in rows if (r["system"], r["seed"]) == (name, seed)] for seed in seeds]
            pairs = np.array([[r[key] - base[r["prompt"]][key] for r in part] for part in own], float)
            known = np.isfinite(pairs).all(axis=0)
            d = interval(pairs[:, known])
            print(f"{name:16} {key} {d['mean']:+.4f} ({d['low']:+.4f} to {d['high']:+.4f}) n {known.sum()}")


if __name__ == "__main__":
    main()
