"""The packaged critic fitted on people's answers: scaling always, motion head where that helps."""

import numpy as np
import pytest
import torch

from ft2ray.critic.assessment import assess
from ft2ray.critic.labels import Label
from ft2ray.critic.talking import fitting
from ft2ray.critic.talking.critic import TalkingCritic
from ft2ray.critic.talking.fitting import fit_critic
from ft2ray.critic.talking.head_update import HeadInputs, updated
from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.errors import DataError

CLIPS = 80


@pytest.fixture(scope="module")
def critic() -> TalkingCritic:
    return TalkingCritic.load()


@pytest.fixture
def read(monkeypatch, critic):
    """Clips of one or two windows; their margins are those of the head and noise for the thinker."""

    def use(label_of, count=CLIPS):
        rng = np.random.default_rng(0)
        channels, speech = len(critic.head.motion_scale_C), len(critic.head.speech_scale_D)
        clips = []
        for n in range(count):
            motion_WCF = rng.standard_normal((1 + n % 2, channels, 75)).astype(np.float32)
            motion_WCF[:, -1] *= 1 + 2 * (n % 4 < 2)  # what these people look at
            clips.append((motion_WCF, rng.standard_normal((1 + n % 2, speech, 75)).astype(np.float32)))
        margin_NK = HeadInputs.of(critic.head, clips).margins(critic.head).numpy().astype(np.float64)
        margin_NK += rng.normal(0, 0.5, margin_NK.shape)
        monkeypatch.setattr(fitting, "_read", lambda *_: (margin_NK, clips))
        around_NK = margin_NK - np.median(margin_NK, axis=0)
        rows = [label_of(n, around_NK[n], rng) for n in range(count)]
        return margin_NK, [
            Label(f"{n}.mp4", dict(zip(critic.dimensions, row, strict=True))) for n, row in enumerate(rows)
        ]

    return use


def test_people_who_look_at_something_else_change_the_order_of_clips(critic, read, tmp_path):
    margin_NK, labels = read(lambda n, *_: [float(n % 4 < 2)] * 3)
    fitted = fit_critic(critic, labels, str(tmp_path / "critic"))
    assert fitted.updated
    assert fitted.calibration["n"] == dict.fromkeys(critic.dimensions, CLIPS)
    assert np.mean([after - before for before, after in fitted.order.values()]) > 0.03
    loaded = TalkingCritic.load(tmp_path / "critic")
    assert loaded.fingerprint == fitted.fingerprint != critic.fingerprint
    view = TalkingViewer().probe()
    motion, speech = torch.from_numpy(view.motion_WCF), torch.from_numpy(view.speech_WDF)
    change = (loaded.head(motion, speech) - critic.head(motion, speech)).mean(0).numpy()
    assert np.allclose(loaded.margins([view]) - critic.margins([view]), change, atol=1e-5), (
        "the thinker stays"
    )
    assert {type(layer).__module__.split(".")[0] for layer in loaded.head.modules()} <= {"torch", "ft2ray"}


def test_answers_that_say_nothing_change_the_scaling_at_most(critic, read, tmp_path):
    _, labels = read(lambda n, margin_K, rng: list(rng.integers(0, 2, 3).astype(float)))
    fitted = fit_critic(critic, labels, str(tmp_path / "critic"))
    assert not fitted.updated
    view = TalkingViewer().probe()
    assert np.array_equal(TalkingCritic.load(tmp_path / "critic").margins([view]), critic.margins([view]))


def test_a_threshold_that_is_wrong_is_mended(critic, read, tmp_path):
    margin_NK, labels = read(lambda n, margin_K, rng: (margin_K > 0).astype(float), 200)
    label_NK = np.array([label.row(critic.dimensions) for label in labels])
    before = assess(critic, labels, margin_NK, label_NK)
    fitted = fit_critic(critic, labels, str(tmp_path / "critic"))
    for name in critic.dimensions:
        assert fitted.calibration["accuracy"][name] >= before.figures[name]["accuracy"]
    with pytest.raises(DataError, match="holds a critic already"):
        fit_critic(critic, labels, str(tmp_path / "critic"))


def test_a_dimension_that_nobody_answered_stays_as_it_was(critic, read, tmp_path):
    _, labels = read(lambda n, *_: [float(n % 4 < 2)] * 3)
    first, *rest = critic.dimensions
    labels = [Label(label.clip, {first: label.answers[first]}) for label in labels]
    fitted = fit_critic(critic, labels, str(tmp_path / "critic"))
    loaded = TalkingCritic.load(tmp_path / "critic")
    assert set(fitted.order) == {first} and fitted.calibration["n"][rest[0]] == 0
    assert all(loaded.scaling[name] == critic.scaling[name] for name in rest)


def test_an_update_is_the_same_every_time_and_leaves_the_head_alone(critic, read):
    margin_NK, labels = read(lambda n, *_: [float(n % 4 < 2)] * 3)
    before = {name: tensor.clone() for name, tensor in critic.head.state_dict().items()}
    inputs = HeadInputs.of(critic.head, fitting._read()[1])
    label_NK = np.array([label.row(critic.dimensions) for label in labels])
    one, two = (updated(critic.head, inputs, margin_NK, label_NK).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one) and set(one) == set(before)
    assert all(torch.equal(before[name], tensor) for name, tensor in critic.head.state_dict().items())


def test_too_few_answers_are_refused_and_leave_nothing(critic, read, tmp_path):
    _, labels = read(lambda n, *_: [float(n % 2)] * 3, 12)
    with pytest.raises(DataError, match="label more"):
        fit_critic(critic, labels, str(tmp_path / "critic"))
    assert list(tmp_path.iterdir()) == []
