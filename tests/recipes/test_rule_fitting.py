import numpy as np

from recipes.embedded.rule_fitting import fit_rule


def test_rules_learn_a_middle_range():
    rng = np.random.default_rng(0)
    measured = rng.uniform(-1, 1, (400, 2))
    label = (np.abs(measured[:, 0]) < 0.5).astype(float)
    rule = fit_rule(measured, label)
    right = np.mean(
        [(rule.margin(row) > 0) == (good == 1) for row, good in zip(measured, label, strict=True)]
    )
    assert right > 0.9
