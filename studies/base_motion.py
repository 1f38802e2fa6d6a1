"""What do the packaged bases do? python studies/base_motion.py MEDIA OUT BASE [BASE ...]

Motion of SEEDS samples at guidance 1 for the validation prompts of the study, measured on the mesh that
drives the clip: the evaluation's mn and ls, and figures that people can picture. One line a base, means over
prompts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch

from ft2ray.evaluation.motion import motion_track, plain_figures
from ft2ray.generator.portrait.generator import PortraitGenerator
from studies.annotators import motion_of, sample_motion
from studies.testbed import Testbed
from studies.tlpo import PROMPTS

SEEDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path, help="folder of the study, whose prompts are used")
    parser.add_argument("bases", nargs="+")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    testbed = Testbed(arguments.media, arguments.out, "embedded-uncurated", "embedded")
    basis = testbed.basis
    for base in arguments.bases:
        testbed.generator, rows = PortraitGenerator.load(base), []
        for number, prompt in enumerate(testbed.prompts("validation", PROMPTS)):
            for x_CFHW in sample_motion(
                testbed.generator, prompt.cond, range(100 * number, 100 * number + SEEDS)
            ):
                mesh_FP3 = basis.decode(motion_of(testbed.generator, x_CFHW), 100 * basis.canonical_P3)
                plain = plain_figures(motion_track(mesh_FP3), prompt.loudness_F)
                found = testbed.measures(x_CFHW, prompt)
                rows.append({"mn": found["mn"], "ls": found["ls"]} | plain)
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        print(base, ", ".join(f"{key} {value:.3f}" for key, value in means.items()))


if __name__ == "__main__":
    main()
