"""Curves of a run: what the training logged, and the critic's scores by round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

SMOOTHING = 10  # training curves are drawn as means over this many updates


def training_curves(curves: list[dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Loss, margin, accuracy and distance from the reference per adapter: means over SMOOTHING updates."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    raw: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for point in curves:
        for key in ("loss", "margin", "accuracy", "displacement"):
            if key in point:  # SimPO has no reference to be away from
                raw[key, point["name"]].append((point["step"], point[key]))
    for (key, name), points in raw.items():
        chunks = [points[i : i + SMOOTHING] for i in range(0, len(points), SMOOTHING)]
        line = [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]
        charts.setdefault(key, {})[name] = line
    return charts


def scores_by_round(
    candidates: pa.Table, dimensions: Sequence[str]
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What the critic says of the candidates of every round, where there is more than one.

    It is what the training is made to raise: only the judges' figures say whether more than that has risen.
    """
    means = candidates.group_by("round").aggregate([(name, "mean") for name in dimensions]).sort_by("round")
    rounds = means["round"].to_pylist()
    if len(rounds) < 2:
        return {}
    lines = {
        name: [
            (round, mean)
            for round, mean in zip(rounds, means[f"{name}_mean"].to_pylist(), strict=True)
            if mean is not None
        ]
        for name in dimensions
    }
    return {"critic's mean P(Yes) by round": lines}
