"""How far a critic's P(Yes) can be trusted, measured on labels that it was not tuned on.

Shapes: N clips, K dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

BINS = 10
LEAST = 10  # held-out answers of each kind below which logits are left as they are


def calibrate(
    margin_NK: np.ndarray, label_NK: np.ndarray, names: Sequence[str]
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Scaling of the logits by dimension, and what the scaled critic reaches.

    A dimension is scaled by all of its labels; its figures are taken in two halves, each scaled by the other
    one, so that no label judges a scaling that it took part in. With fewer than ten answers Yes or No in a
    half nothing is scaled.

    Args:
        margin_NK: logit of Yes minus logit of No, unscaled.
        label_NK: 1, 0, or NaN where not known.
        names: of the K dimensions.

    Returns:
        scaling: (a, b) by dimension, see `fit_scaling`. calibration: "accuracy", "balanced_accuracy", "ece"
        and "n" (labels) by dimension; None where there is nothing to measure on.
    """
    scaling, found = {}, {}
    for k, name in enumerate(names):
        known = ~np.isnan(label_NK[:, k])
        margin, label = margin_NK[known, k], label_NK[known, k]
        halves = [np.arange(len(label)) % 2 == half for half in (0, 1)]
        enough = all((label[half] == kind).sum() >= LEAST for half in halves for kind in (0, 1))
        scaling[name] = fit_scaling(margin, label) if enough else (1.0, 0.0)
        p = np.empty(len(label))
        for half, other in (halves, halves[::-1]):
            a, b = fit_scaling(margin[other], label[other]) if enough else (1.0, 0.0)
            p[half] = expit(a * margin[half] + b)
        found[name] = figures(p, label)
    keys = ("accuracy", "balanced_accuracy", "ece", "n")
    return scaling, {"set": "held-out labels"} | {
        key: {name: values[key] for name, values in found.items()} for key in keys
    }


def placements(margin_N: np.ndarray, label_N: np.ndarray, part_N: np.ndarray) -> np.ndarray:
    """Of the clips with the other answer in the same part, the share on the right side of each clip.

    The mean is the area under the ROC curve; the single values tell how certain it is (DeLong et al., 1988).
    NaN where the answer is not known.
    """
    out_N = np.full(len(margin_N), np.nan)
    for part in np.unique(part_N):
        for kind in (0, 1):
            own_N = (part_N == part) & (label_N == kind)
            others = np.sort(margin_N[(part_N == part) & (label_N == 1 - kind)])
            if len(others):
                sides = [np.searchsorted(others, margin_N[own_N], side) for side in ("left", "right")]
                below = (sides[0] + sides[1]) / (2 * len(others))  # a tie counts one half
                out_N[own_N] = below if kind else 1 - below
    return out_N


def figures(p_N: np.ndarray, label_N: np.ndarray) -> dict[str, Any]:
    """Accuracy at 0.5, its mean over both answers, and the expected calibration error."""
    if len(label_N) == 0:
        return {"accuracy": None, "balanced_accuracy": None, "ece": None, "n": 0}
    right = (p_N > 0.5) == (label_N == 1)
    each = [right[label_N == kind].mean() for kind in (0, 1) if (label_N == kind).any()]
    return {
        "accuracy": round(float(right.mean()), 4),
        "balanced_accuracy": round(float(np.mean(each)), 4),
        "ece": round(expected_calibration_error(p_N, label_N), 4),
        "n": len(label_N),
    }


def expected_calibration_error(p_N: np.ndarray, label_N: np.ndarray, bins: int = BINS) -> float:
    """Mean of |share of Yes - mean P(Yes)| over bins of equal width, weighted by their clips.

    For two answers; after Naeini et al. (2015), "Obtaining well calibrated probabilities using Bayesian
    binning".
    """
    bin_N = np.minimum((p_N * bins).astype(int), bins - 1)
    gaps = [
        (bin_N == b).mean() * abs(label_N[bin_N == b].mean() - p_N[bin_N == b].mean())
        for b in np.unique(bin_N)
    ]
    return float(sum(gaps))


def fit_scaling(margin_N: np.ndarray, label_N: np.ndarray) -> tuple[float, float]:
    """Platt's scaling: (a, b) for which sigmoid(a * margin + b) fits the labels (1, 0; NaN is skipped).

    Both answers weigh the same, so that 0.5 is the fair threshold.
    """
    known = ~np.isnan(label_N)
    a, b = fit_logistic(np.stack([margin_N[known], np.ones(known.sum())], axis=1), label_N[known], 1e-3)
    return float(max(a, 1e-3)), float(b)


def fit_logistic(x_NR: np.ndarray, label_N: np.ndarray, penalty: float) -> np.ndarray:
    """Weights w_R of sigmoid(x w) that fit labels of 1 and 0, both of which weigh the same.

    Minimises the mean cross-entropy plus penalty / 2 |w|^2, which is convex.
    """
    share = np.clip((label_N == 1).mean(), 1e-6, 1 - 1e-6)
    weight_N = np.where(label_N == 1, 0.5 / share, 0.5 / (1 - share))

    def loss(w_R: np.ndarray) -> tuple[float, np.ndarray]:
        margin_N = x_NR @ w_R
        entropy_N = np.logaddexp(0.0, margin_N) - label_N * margin_N
        gradient_R = x_NR.T @ (weight_N * (expit(margin_N) - label_N)) / len(label_N) + penalty * w_R
        return float((weight_N * entropy_N).mean() + penalty / 2 * w_R @ w_R), gradient_R

    return minimize(loss, np.zeros(x_NR.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-8}).x
