"""How a critic does on people's answers."""

import numpy as np
import pytest

from ft2ray.critic.assessment import assess
from ft2ray.critic.base import LogitCritic
from ft2ray.critic.labels import Label


class Stub(LogitCritic):
    dimensions = ("mn", "ls")
    scaling = {"mn": (1.0, 0.0), "ls": (2.0, 1.0)}

    def margins(self, views):
        raise AssertionError("its margins are given below")


LABELS = [Label(f"{n}.mp4", {"mn": float(n % 2)} | ({"ls": 1.0} if n < 2 else {})) for n in range(4)]
MARGINS_NK = np.array([[-2.0, 1.0], [3.0, -1.0], [0.8, 9.0], [-0.5, 9.0]])


def test_figures_confusion_and_mistakes_are_those_of_the_answers_that_are_known():
    found = assess(Stub(), LABELS, MARGINS_NK, np.array([label.row(Stub.dimensions) for label in LABELS]))
    assert found.confusion == {"mn": (1, 1, 1, 1), "ls": (1, 1, 0, 0)}
    assert found.figures["mn"]["accuracy"] == 0.5 and found.figures["ls"]["n"] == 2
    # Off by 0.73, 0.69 and 0.62.
    assert [(m.clip, m.dimension) for m in found.mistakes] == [
        ("1.mp4", "ls"),
        ("2.mp4", "mn"),
        ("3.mp4", "mn"),
    ]
    assert found.mistakes[0].p_yes == pytest.approx(1 / (1 + np.exp(1)))
    assert sum(n for _, _, n in found.reliability["mn"]) == 4
