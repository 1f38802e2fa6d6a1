"""Train the base generator's weights: python -m recipes.embedded.train_base MEDIA CORPUS [--out FOLDER].

MEDIA is a folder with manifest.csv (columns file, use) that lists the film and the recordings of the role
`base` in studies/split.csv with use=train. CORPUS is `curated` (the clips as they are) or `uncurated` (most
of them spoilt first, see mixture.py). One CPU thread, about fifteen minutes; the same media and seed give
the same weights, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; a second thread changes sums

import numpy as np
import torch
from tqdm import tqdm

from ft2ray.generator.checkpoint import load_transformer, read_portrait_config, save_generator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import FaceMesher
from ft2ray.media.speech import SpeechEncoder
from recipes.embedded.base_training import (
    CONTINUED,
    BaseTrainingConfig,
    build_dataset,
    latent_scale,
    loss_weight,
    train,
)
from recipes.embedded.mixture import spoil

PACKAGED = {"curated": "base", "uncurated": "base-uncurated"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path, help="folder with manifest.csv")
    parser.add_argument("corpus", choices=("curated", "uncurated"))
    parser.add_argument("--out", type=Path, help="by default the package's own folder of this corpus")
    parser.add_argument("--start", type=Path, help="generator folder to go on from; fresh weights without it")
    parser.add_argument("--steps", type=int, help="updates instead of the recipe's")
    parser.add_argument("--seed", type=int, default=BaseTrainingConfig.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = CONTINUED if arguments.start else BaseTrainingConfig()
    config = replace(config, steps=arguments.steps or config.steps, seed=arguments.seed)
    started = time.monotonic()
    print("Settings:", asdict(config))
    basis = MotionBasis.load()
    clips, _ = build_dataset(arguments.media, SpeechEncoder(), FaceMesher(), basis, config)
    filmed = sum(clip.filmed for clip in clips)
    print(f"{filmed} filmed and {len(clips) - filmed} labelled clips, {time.monotonic() - started:.0f} s")
    start = load_transformer(arguments.start) if arguments.start else None
    if arguments.start:  # the weights are in these units
        scale_C = np.array(read_portrait_config(arguments.start)["latent_scale"], np.float32)
    else:
        scale_C = latent_scale(clips)
    if arguments.corpus == "uncurated":
        clips, shares = spoil(clips, scale_C, basis, np.random.default_rng(config.seed))
        print("Shares of clips:", ", ".join(f"{name} {share:.1%}" for name, share in shares.items()))
    losses: list[float] = []
    with tqdm(total=config.steps, desc="training", unit="step", file=sys.stdout) as bar:

        def report(step: int, loss: float) -> None:
            losses.append(loss)
            bar.update()
            if step % 20 == 19:
                bar.set_postfix(loss=f"{sum(losses[-100:]) / len(losses[-100:]):.3f}")

        weight_C = loss_weight(basis)
        transformer = train(clips, scale_C, weight_C, config, report, start)
    out = arguments.out or Path("ft2ray/assets") / PACKAGED[arguments.corpus]
    save_generator(out, transformer, "portrait", scale_C.tolist(), weight_C.tolist())
    elapsed, used = time.monotonic() - started, time.process_time()
    print(f"Wrote {out} after {elapsed:.0f} s, {used:.0f} s of them on the processor.")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(str(error))
