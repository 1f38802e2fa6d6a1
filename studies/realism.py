"""Can a classifier tell generated motion from real motion?

A fixed measure is gamed by whatever it does not look at. This one is fitted anew on every system: a linear
discriminant on the logarithms of all traits of motion (`ft2ray.evaluation.motion.traits`), on the very clips
that are judged; every real person and every prompt is judged by a fit that has not seen them.

Shape suffixes: N clips, D traits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

SHRINKAGE = 0.3
"""Share of the pooled covariance that is replaced by its diagonal: there are few people."""
TINY = 1e-3


def told_apart(
    real: Mapping[str, Sequence[Mapping[str, float]]], generated: Mapping[str, Sequence[Mapping[str, float]]]
) -> float:
    """Area under the curve of real against generated clips, people and prompts with equal weight.

    Args:
        real: person -> traits of their pieces.
        generated: prompt -> traits of its clips.
    Returns:
        0.5: cannot be told apart, 1: always.
    """
    names = sorted(
        set.intersection(*(set(row) for rows in (*real.values(), *generated.values()) for row in rows))
    )
    sides = [{owner: _table(rows, names) for owner, rows in side.items()} for side in (real, generated)]
    scores: list[list[np.ndarray]] = [[], []]
    for side, groups in enumerate(sides):
        for owner, own_ND in groups.items():
            others = [
                np.concatenate([rows for name, rows in sides[s].items() if s != side or name != owner])
                for s in (0, 1)
            ]
            scores[side].append(_discriminant(*others)(own_ND))
    wins = [
        np.mean((r_N[:, None] > g_N).astype(float) + (r_N[:, None] == g_N) / 2)
        for r_N in scores[0]
        for g_N in scores[1]
    ]
    return float(np.mean(wins))


def _table(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    return np.log(np.maximum([[row[name] for name in names] for row in rows], TINY))


def _discriminant(real_ND: np.ndarray, generated_ND: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fisher's: a function from rows to scores, higher = more like real people."""
    means = real_ND.mean(axis=0), generated_ND.mean(axis=0)
    pooled_DD = (np.cov(real_ND.T) + np.cov(generated_ND.T)) / 2
    shrunk_DD = (1 - SHRINKAGE) * pooled_DD + SHRINKAGE * np.diag(np.diag(pooled_DD))
    weights_D = np.linalg.solve(shrunk_DD + 1e-6 * np.eye(len(shrunk_DD)), means[0] - means[1])
    bias = weights_D @ (means[0] + means[1]) / 2
    return lambda rows_ND: rows_ND @ weights_D - bias
