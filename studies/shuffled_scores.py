"""The control of an alignment: the same candidates, with the critic's scores dealt to them at random.

    python studies/shuffled_scores.py RUN_DIR OUT_DIR [--seed 0]
    ft2ray align run_dir=OUT_DIR ...      # with the settings of RUN_DIR
    python studies/report_table.py OUT_DIR

Each dimension's scores are permuted within each group of RUN_DIR, so that there are about as many pairs as
before and they say nothing. What this run gains is no work of the critic's.
"""

from __future__ import annotations

import argparse

import numpy as np

from ft2ray.run import group_store, read_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    store, rng = group_store(arguments.out), np.random.default_rng(arguments.seed)
    if store.keys():
        raise SystemExit(f"{arguments.out} holds groups already; give a new folder")
    for group in read_groups(arguments.run):
        scored = [candidate for candidate in group.candidates if candidate.scores is not None]
        p_NK = np.array([candidate.scores for candidate in scored])
        for candidate, p_K in zip(scored, rng.permuted(p_NK, axis=0), strict=True):
            candidate.scores = p_K.tolist()
        store.commit_once([group.to_row()])
    print(f"{len(store.keys())} groups in {arguments.out}")


if __name__ == "__main__":
    main()
