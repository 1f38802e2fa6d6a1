"""How a critic does on people's answers, and its scaling fitted on them."""

import numpy as np
import pytest

from ft2ray.critic.assessment import assess
from ft2ray.critic.base import LogitCritic
from ft2ray.critic.labels import Label
from ft2ray.critic.talking import recalibration
from ft2ray.critic.talking.critic import TalkingCritic
from ft2ray.critic.talking.recalibration import recalibrate
from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.errors import DataError


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


@pytest.fixture
def margins(monkeypatch):
    """Margins that lie: the answer is Yes above 4, not above 0."""

    def use(count):
        rng = np.random.default_rng(0)
        margin_NK = rng.normal(4, 3, (count, 3))
        label_NK = (margin_NK + rng.normal(0, 1, margin_NK.shape) > 4).astype(float)
        monkeypatch.setattr(recalibration, "read_margins", lambda *_: (margin_NK, label_NK))
        return margin_NK, label_NK

    return use


def test_a_critic_whose_threshold_is_wrong_is_mended_and_loads_again(tmp_path, margins):
    margin_NK, label_NK = margins(200)
    critic = TalkingCritic.load()
    labels = [
        Label(f"{n}.mp4", dict(zip(critic.dimensions, row, strict=True))) for n, row in enumerate(label_NK)
    ]
    before = assess(critic, labels, margin_NK, label_NK)
    fingerprint, reached = recalibrate(critic, labels, str(tmp_path / "critic"))
    mended = TalkingCritic.load(tmp_path / "critic")
    assert mended.fingerprint == fingerprint != critic.fingerprint
    view = TalkingViewer().probe()
    assert np.array_equal(mended.margins([view]), critic.margins([view]))  # thinker and head are as before
    after = assess(mended, labels, margin_NK, label_NK)
    for name in critic.dimensions:
        assert after.figures[name]["accuracy"] > 0.85 > before.figures[name]["accuracy"]
        assert reached["accuracy"][name] > 0.85 and reached["n"][name] == 200
    with pytest.raises(DataError, match="holds a critic already"):
        recalibrate(critic, labels, str(tmp_path / "critic"))


def test_too_few_answers_are_refused_and_leave_nothing(tmp_path, margins):
    margins(12)
    with pytest.raises(DataError, match="label more"):
        recalibrate(TalkingCritic.load(), LABELS, str(tmp_path / "critic"))
    assert list(tmp_path.iterdir()) == []
