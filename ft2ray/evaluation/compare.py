"""Systems compared on the same prompts: means, paired intervals, joint shares, verdicts.

Everything here is a pure function of a list of `Row`s (one row = one measured clip). Sampler seeds are
averaged
inside a prompt first, because two seeds of one prompt are not independent evidence. Intervals are Student's t
over prompts; where a system was trained several times, the spread between trainings widens them. Fewer than
MIN_PROMPTS prompts give no interval: the range of four numbers is no 95 % interval. The least gain over
dimensions has no t interval; its bootstrap resamples prompts, and every system with the same draws.

Shape suffixes: N prompts, M trainings, R bootstrap resamples, K dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ft2ray.systems import BASE

REFERENCES = ("real_video", "wrong_audio", "shifted_audio")
MIN_PROMPTS = 6
"""Below it an interval is refused: coverage is not what it says, and one prompt decides the sign."""


@dataclass(frozen=True)
class Row:
    """One measured clip.

    Attributes:
        system: name of the system that made it ("base", "tlpo", ...) or of a reference ("real_video", ...).
        prompt: id of the prompt (portrait + speech); the unit of pairing.
        seed: seed of the sampler; averaged over within the prompt.
        values: dimension -> figure, higher is better; None or an absent key = not measured (never 0).
        training: seed of the training behind the system; its spread enters the intervals.
    """

    system: str
    prompt: str
    seed: int
    values: Mapping[str, float | None]
    training: int = 0


def prompt_means(rows: Sequence[Row], system: str, dimension: str) -> dict[str, float]:
    """Mean over seeds of one system's figure for each prompt; prompts without a measured clip are absent."""
    found: dict[str, list[float]] = {}
    for row in rows:
        value = row.values.get(dimension)
        if row.system == system and value is not None and math.isfinite(value):
            found.setdefault(row.prompt, []).append(float(value))
    return {prompt: float(np.mean(values)) for prompt, values in found.items()}


def training_table(
    rows: Sequence[Row], system: str, dimension: str, base: str | None = None
) -> dict[int, dict[str, float]]:
    """Training -> prompt -> mean over sampler seeds, less the base's mean of that prompt if one is named."""
    trainings = sorted({row.training for row in rows if row.system == system})
    reference = None if base is None else prompt_means(rows, base, dimension)
    table = {}
    for training in trainings:
        own = prompt_means([row for row in rows if row.training == training], system, dimension)
        if reference is not None:
            own = {p: value - reference[p] for p, value in own.items() if p in reference}
        if own:
            table[training] = own
    return table


def t_interval(table: Mapping[int, Mapping[str, float]], level: float = 0.95) -> list[float] | None:
    """Student's t over prompts, and over trainings where there are several.

    The two variances add up (each holds a share of the rest too, so that the sum is on the wide side); the
    degrees of freedom are Welch and Satterthwaite's.

    Args:
        table: training -> prompt -> figure; prompts that every training has count.
        level: coverage.
    Returns:
        [low, high], or None below MIN_PROMPTS.
    """
    prompts = sorted(set.intersection(*(set(row) for row in table.values()))) if table else []
    if len(prompts) < MIN_PROMPTS:
        return None
    values_MN = np.array([[row[p] for p in prompts] for row in table.values()])
    terms = [(values_MN.mean(axis=0).var(ddof=1) / len(prompts), len(prompts) - 1)]
    if len(values_MN) > 1:
        terms.append((values_MN.mean(axis=1).var(ddof=1) / len(values_MN), len(values_MN) - 1))
    variance = sum(part for part, _ in terms)
    mean = float(values_MN.mean())
    if variance == 0:
        return [mean, mean]
    freedom = variance**2 / sum(part**2 / df for part, df in terms)
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
    return [mean - reach, mean + reach]


def bootstrap_interval(samples_R: np.ndarray, n: int, level: float = 0.95) -> list[float] | None:
    """Percentile interval of resampled statistics, widened for few prompts; None below MIN_PROMPTS.

    The plain percentile interval is too narrow by about sqrt((n-1)/n) and uses normal instead of t quantiles;
    the percentiles are moved outwards to make up for both (Hesterberg 2015, "expanded percentile").

    Args:
        samples_R: statistic of each resample.
        n: number of prompts behind it.
        level: coverage.
    """
    if n < MIN_PROMPTS:
        return None
    tail = (1 - level) / 2
    moved = float(stats.norm.cdf(math.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1)))
    low, high = np.quantile(samples_R, [moved, 1 - moved])
    return [float(low), float(high)]


def resample(n: int, resamples: int, seed: int) -> np.ndarray:
    """Bootstrap draws: indices_RN into n prompts, the same for every statistic of one comparison."""
    return np.random.default_rng(seed).integers(0, n, size=(resamples, n))


def summary(table: Mapping[int, Mapping[str, float]]) -> dict:
    """{"mean", "ci95"} over prompts and trainings; ci95 None where `t_interval` refuses one."""
    means = [float(np.mean(list(row.values()))) for row in table.values()]
    return {"mean": float(np.mean(means)), "ci95": t_interval(table)}


def compare(
    rows: Sequence[Row],
    dimensions: Sequence[str],
    base: str = BASE,
) -> dict[str, dict[str, dict]]:
    """Figures of every system and dimension, with the paired difference to the base.

    Args:
        rows: measured clips of the systems (references are summarised by `reference_figures`).
        dimensions: dimension names.
        base: the system that differences are taken to.
    Returns:
        {system: {dimension: {"mean", "ci95", "delta_vs_base", "delta_ci95"}}}. A figure that nothing measured
        is None, and so is an interval of fewer than MIN_PROMPTS prompts. Differences use the prompts that
        both systems have.
    Raises:
        ValueError: no rows of the base system.
    """
    systems = list(dict.fromkeys(row.system for row in rows))
    if base not in systems:
        raise ValueError(
            f"The comparison has no rows of the base system {base!r}; it found {systems or 'no rows'}."
        )
    return {system: {dim: _figures(rows, system, dim, base) for dim in dimensions} for system in systems}


def _figures(rows: Sequence[Row], system: str, dim: str, base: str) -> dict:
    figures: dict = {"mean": None, "ci95": None, "delta_vs_base": None, "delta_ci95": None}
    if own := training_table(rows, system, dim):
        figures.update(summary(own))
    if gains := training_table(rows, system, dim, base):
        delta = summary(gains)
        figures.update(delta_vs_base=delta["mean"], delta_ci95=delta["ci95"])
    return figures


def reference_figures(rows: Sequence[Row], dimensions: Sequence[str]) -> dict[str, dict[str, dict | None]]:
    """Figures of real_video, wrong_audio and shifted_audio; a figure that does not exist is None."""
    return {
        name: {
            dim: summary(table) if (table := training_table(rows, name, dim)) else None for dim in dimensions
        }
        for name in REFERENCES
    }


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
            "ci95": bootstrap_interval(samples_R, len(shared)),
            "n": len(shared),
        }
    all_KN = np.stack([own[p] for p in own], axis=1) / scale_K1
    return {"value": float(all_KN.mean(axis=1).min()), "versus": versus}
