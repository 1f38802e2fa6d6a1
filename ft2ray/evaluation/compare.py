"""Systems compared on the same prompts: means, paired bootstrap intervals, joint shares, verdicts.

Everything here is a pure function of a list of `Row`s (one row = one measured clip). Seeds are averaged
inside a prompt first, because two seeds of one prompt are not independent evidence; the bootstrap then
resamples prompts, and every system is resampled with the same draws, so that differences stay paired.

Shape suffixes: N prompts, R bootstrap resamples, K dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ft2ray.systems import BASE

REFERENCES = ("real_video", "wrong_audio", "shifted_audio")


@dataclass(frozen=True)
class Row:
    """One measured clip.

    Attributes:
        system: name of the system that made it ("base", "tlpo", ...) or of a reference ("real_video", ...).
        prompt: id of the prompt (portrait + speech); the unit of pairing.
        seed: seed of the sampler; averaged over within the prompt.
        values: dimension -> figure, higher is better; None or an absent key = not measured (never 0).
    """

    system: str
    prompt: str
    seed: int
    values: Mapping[str, float | None]


def prompt_means(rows: Sequence[Row], system: str, dimension: str) -> dict[str, float]:
    """Mean over seeds of one system's figure for each prompt; prompts without a measured clip are absent."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = row.values.get(dimension)
        if row.system == system and value is not None and math.isfinite(value):
            found.setdefault(row.prompt, []).append(float(value))
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def interval(samples_R: np.ndarray, n: int, level: float = 0.95) -> list[float] | None:
    """Percentile interval of bootstrap means, widened for few prompts.

    The plain percentile interval is too narrow by about sqrt((n-1)/n) and uses normal instead of t quantiles;
    the percentiles are moved outwards to make up for both (Hesterberg 2015, "expanded percentile").

    Args:
        samples_R: statistic of each resample.
        n: number of prompts behind it.
        level: coverage.
    Returns:
        [low, high], or None for fewer than two prompts: one prompt has no interval.
    """
    if n < 2:
        return None
    tail = (1 - level) / 2
    moved = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1)))
    low, high = np.quantile(samples_R, [moved, 1 - moved])
    return [float(low), float(high)]


def resample(n: int, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap draws: indices_RN into n prompts, the same for every statistic of one comparison."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def summary(values_N: np.ndarray, resamples: int, seed: int) -> dict:
    """Mean and 95 % interval of prompt means: {"mean", "ci95"} (ci95 None for one prompt)."""
    n = len(values_N)
    samples_R = values_N[resample(n, resamples, seed)].mean(axis=1)
    return {"mean": float(values_N.mean()), "ci95": interval(samples_R, n)}


def compare(
    rows: Sequence[Row],
    dimensions: Sequence[str],
    base: str = BASE,
    resamples: int = 4000,
    seed: int = 0,
) -> dict[str, dict[str, dict]]:
    """Figures of every system and dimension, with the paired difference to the base.

    Args:
        rows: measured clips of the systems (references are summarised by `reference_figures`).
        dimensions: dimension names.
        base: the system that differences are taken to.
        resamples: bootstrap resamples.
        seed: seed of the bootstrap: same rows, same seed, same figures.
    Returns:
        {system: {dimension: {"mean", "ci95", "delta_vs_base", "delta_ci95"}}}. A figure that nothing measured
        is None. Differences use the prompts that both systems have.
    Raises:
        ValueError: no rows of the base system.
    """
    systems = list(dict.fromkeys(row.system for row in rows))
    if base not in systems:
        raise ValueError(
            f"The comparison has no rows of the base system {base!r}; it found {systems or 'no rows'}."
        )
    return {
        system: {dim: _figures(rows, system, dim, base, resamples, seed) for dim in dimensions}
        for system in systems
    }


def _figures(rows: Sequence[Row], system: str, dim: str, base: str, resamples: int, seed: int) -> dict:
    own, reference = prompt_means(rows, system, dim), prompt_means(rows, base, dim)
    figures: dict = {"mean": None, "ci95": None, "delta_vs_base": None, "delta_ci95": None}
    if own:
        figures.update(summary(np.array([own[p] for p in sorted(own)]), resamples, seed))
    shared = sorted(own.keys() & reference.keys())
    if shared:
        delta = summary(np.array([own[p] - reference[p] for p in shared]), resamples, seed)
        figures.update(delta_vs_base=delta["mean"], delta_ci95=delta["ci95"])
    return figures


def reference_figures(
    rows: Sequence[Row], dimensions: Sequence[str], resamples: int = 4000, seed: int = 0
) -> dict[str, dict[str, dict | None]]:
    """Figures of real_video, wrong_audio and shifted_audio; a figure that does not exist is None."""
    result: dict[str, dict[str, dict | None]] = {}
    for name in REFERENCES:
        result[name] = {}
        for dim in dimensions:
            means = prompt_means(rows, name, dim)
            values_N = np.array([means[p] for p in sorted(means)])
            result[name][dim] = summary(values_N, resamples, seed) if means else None
    return result


def verdict(figures: Mapping) -> str:
    """ "improved", "worse" or "not shown", from the paired interval alone."""
    bounds = figures["delta_ci95"]
    if bounds is None:
        return "not shown"
    if bounds[0] > 0:
        return "improved"
    return "worse" if bounds[1] < 0 else "not shown"


def joint_shares(
    rows: Sequence[Row], system: str, dimensions: Sequence[str], base: str = BASE
) -> dict[str, float | int | None]:
    """Shares of prompts that got better in every dimension at once (JDR) or worse in every one (JCR).

    Returns:
        {"jdr", "jcr", "n"}; shares are None when no prompt has every dimension in both systems.
    """
    gains = paired_gains(rows, system, dimensions, base)
    if not gains:
        return {"jdr": None, "jcr": None, "n": 0}
    gains_NK = np.stack(list(gains.values()))
    better, worse = (gains_NK > 0).all(axis=1), (gains_NK < 0).all(axis=1)
    return {"jdr": float(better.mean()), "jcr": float(worse.mean()), "n": len(gains)}


def paired_gains(
    rows: Sequence[Row], system: str, dimensions: Sequence[str], base: str = BASE
) -> dict[str, np.ndarray]:
    """Prompt -> gain_K over the base, for the prompts where both systems have every dimension."""
    own = [prompt_means(rows, system, dim) for dim in dimensions]
    reference = [prompt_means(rows, base, dim) for dim in dimensions]
    shared = set.intersection(*(set(table) for table in own + reference)) if own else set()
    return {p: np.array([a[p] - b[p] for a, b in zip(own, reference, strict=True)]) for p in sorted(shared)}


def base_spread(rows: Sequence[Row], dimension: str, base: str = BASE) -> float | None:
    """Standard deviation of the base's single clips: the yardstick that makes dimensions comparable."""
    values = [row.values.get(dimension) for row in rows if row.system == base]
    known = [v for v in values if v is not None and math.isfinite(v)]
    spread = float(np.std(known)) if len(known) > 1 else 0.0
    return spread if spread > 0 else None


def worst_gain(
    rows: Sequence[Row],
    system: str,
    rivals: Sequence[str],
    dimensions: Sequence[str],
    base: str = BASE,
    resamples: int = 4000,
    seed: int = 0,
) -> dict | None:
    """The gain over the base in the dimension that gained least, against the same figure of rival systems.

    Gains are in standard deviations of the base's clips (`base_spread`), so that "least" has a meaning across
    dimensions. Each resample of prompts recomputes the minimum of both systems.

    Returns:
        {"value": x, "versus": {rival: {"rival_value", "difference", "ci95", "n"}}}, or None when the base's
        spread or the system's gains are unknown. Rivals without complete prompts are absent.
    """
    spreads = [base_spread(rows, dim, base) for dim in dimensions]
    own = paired_gains(rows, system, dimensions, base)
    if any(s is None for s in spreads) or not own:
        return None
    scale_K1 = np.array(spreads, dtype=np.float64)[:, None]
    versus = {}
    for rival in rivals:
        other = paired_gains(rows, rival, dimensions, base)
        shared = sorted(own.keys() & other.keys())
        if not shared:
            continue
        draws_RN = resample(len(shared), resamples, seed)
        a_KN = np.stack([own[p] for p in shared], axis=1) / scale_K1
        b_KN = np.stack([other[p] for p in shared], axis=1) / scale_K1
        samples_R = a_KN[:, draws_RN].mean(axis=2).min(axis=0) - b_KN[:, draws_RN].mean(axis=2).min(axis=0)
        rival_value = float(b_KN.mean(axis=1).min())
        versus[rival] = {
            "rival_value": rival_value,
            "difference": float(a_KN.mean(axis=1).min()) - rival_value,
            "ci95": interval(samples_R, len(shared)),
            "n": len(shared),
        }
    all_KN = np.stack([own[p] for p in own], axis=1) / scale_K1
    return {"value": float(all_KN.mean(axis=1).min()), "versus": versus}
