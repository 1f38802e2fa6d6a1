"""The README's picture, docs/lips.svg: python studies/picture.py MEDIA OUT

OUT is the folder of studies/tlpo.py. Lip gap over time of the base and of TLPO after its second round,
training seed 0, same noise, against the gap that the judges hear in the speech. The prompt is the
test prompt whose gain in lip-sync is the median.
"""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from studies.annotators import lip_gap, motion_of, sample_motion, standard
from studies.testbed import FRAMES, RATE, Testbed
from studies.tlpo import PROMPTS, System, attach
from studies.tlpo_table import chosen_strength, read_rows

NAME, SEED = "tlpo_round1", 0
WIDTH, HEIGHT, LEFT, TOP = 760, 200, 12, 34
STYLES = {
    "what the speech asks for": "stroke='#888' stroke-width='6' stroke-opacity='0.45'",
    "base": "stroke='#c0504d' stroke-width='2'",
    "TLPO": "stroke='#1f5fa8' stroke-width='2'",
}


def drawing(curves: dict[str, np.ndarray]) -> str:
    """Curves [F] of unit deviation as one SVG on white."""
    step, middle, unit = (WIDTH - 2 * LEFT) / (FRAMES - 1), (HEIGHT + TOP) / 2, 24
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif'>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#fff'/>",
    ]
    for number, (name, curve_F) in enumerate(curves.items()):
        points = " ".join(f"{LEFT + n * step:.1f},{middle - unit * v:.1f}" for n, v in enumerate(curve_F))
        parts.append(f"<polyline points='{points}' fill='none' {STYLES[name]}/>")
        x = LEFT + 220 * number
        parts.append(f"<line x1='{x}' x2='{x + 24}' y1='16' y2='16' {STYLES[name]}/>")
        parts.append(f"<text x='{x + 32}' y='21' font-size='14' fill='#333'>{name}</text>")
    end = f"<text x='{WIDTH - LEFT}' y='{HEIGHT - 6}' font-size='12' fill='#555' text-anchor='end'>"
    return "".join(parts) + f"{end}lip gap over {FRAMES / RATE:g} s</text></svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    testbed = Testbed(arguments.media, arguments.out, "embedded-uncurated", "embedded")
    rows = read_rows(arguments.out / "rows.jsonl")
    test = [row for row in rows if row["split"] == "test" and row["noise"] == 0]
    before = {row["prompt"]: row["ls"] for row in test if row["system"] == "base"}
    gain = {
        row["prompt"]: row["ls"] - before[row["prompt"]]
        for row in test
        if (row["system"], row["seed"]) == (NAME, SEED)
    }
    median = sorted(gain, key=lambda name: gain[name])[len(gain) // 2]
    number, prompt = next((n, p) for n, p in enumerate(testbed.prompts("test", PROMPTS)) if p.name == median)
    policy = pickle.loads((arguments.out / f"experts-{SEED}-1.pkl").read_bytes())  # noqa: S301
    curves = {"what the speech asks for": standard(prompt.heard.gap_F)}
    for name, system in (("base", System(None)), ("TLPO", System(policy))):
        attach(testbed.generator, system, chosen_strength(rows, NAME, SEED))
        (x_CFHW,) = sample_motion(testbed.generator, prompt.cond, [7000 + 10 * number])
        gap_F = lip_gap(motion_of(testbed.generator, x_CFHW), testbed.basis)
        curves[name] = standard(gaussian_filter1d(gap_F, 0.7))
    Path("docs/lips.svg").write_text(drawing(curves))
    print(f"{median}: LS {before[median]:.3f} {gain[median]:+.3f}")


if __name__ == "__main__":
    main()
