"""Fits the rules of `recipes.embedded.rule_critic`, the baseline that the learnt critic has to beat.

Shapes: N clips, K dimensions, R measurements.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ft2ray.critic.calibration import fit_logistic
from ft2ray.critic.talking.view import ClipView
from recipes.embedded.rule_critic import Rule, RuleCritic, measurements

PENALTY = 0.01


def fit_rules(views: Sequence[ClipView], label_NK: np.ndarray, dimensions: Sequence[str]) -> RuleCritic:
    """Rules for labelled clips (1, 0, or NaN where not known)."""
    measured = [measurements(view) for view in views]
    rules = {}
    for k, name in enumerate(dimensions):
        known = ~np.isnan(label_NK[:, k])
        rules[name] = fit_rule(np.stack([one[name] for one in measured])[known], label_NK[known, k])
    return RuleCritic(rules)


def fit_rule(measured_NR: np.ndarray, label_N: np.ndarray) -> Rule:
    """Logistic regression on standardised measurements and their squares."""
    mean, spread = measured_NR.mean(axis=0), measured_NR.std(axis=0) + 1e-6
    z = (measured_NR - mean) / spread
    weights = fit_logistic(np.concatenate([z, z**2, np.ones((len(z), 1))], axis=1), label_N, PENALTY)
    rounded = [tuple(float(round(v, 4)) for v in values) for values in (mean, spread, weights[:-1])]
    return Rule(rounded[0], rounded[1], rounded[2], bias=float(round(weights[-1], 4)))
