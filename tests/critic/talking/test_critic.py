"""Loading, saving and scoring of critics, the learnt one and the rules."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch

from ft2ray.critic.base import Critic
from ft2ray.critic.calibration import fit_scaling
from ft2ray.critic.questions import QUESTIONS
from ft2ray.critic.talking.critic import CONFIG, WEIGHTS, TalkingCritic, save_critic
from ft2ray.critic.talking.model import build_model
from ft2ray.critic.talking.view import ClipView
from ft2ray.errors import NonFiniteError
from recipes.embedded.rule_critic import Rule, RuleCritic, correlation
from recipes.embedded.toy_thinker import TOY_PROCESSOR, build_tokenizer, toy_config


def view(windows: int = 1, frames: int = 75, seed: int = 0) -> ClipView:
    rng = np.random.default_rng(seed)
    return ClipView(
        rng.integers(0, 256, (windows, frames, 84, 56, 3), dtype=np.uint8),
        rng.integers(0, 256, (windows, 2, 112, 112, 3), dtype=np.uint8),
        rng.standard_normal((windows, 80, frames * 4)).astype(np.float32),
        rng.standard_normal((windows, 24, frames)).astype(np.float32),
        rng.standard_normal((windows, 384, frames)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(toy_config(tokenizer, TOY_PROCESSOR))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    path = tmp_path_factory.mktemp("critic")
    calibration = {"accuracy": {name: 0.5 for name in QUESTIONS}, "n": {name: 2 for name in QUESTIONS}}
    save_critic(path, model, tokenizer, TOY_PROCESSOR, QUESTIONS, calibration)
    return path


@pytest.fixture(scope="module")
def critic(folder) -> Critic:
    return TalkingCritic.load(folder)


def test_scores_are_probabilities_in_the_order_of_the_questions(critic):
    p_NK = critic.score([view(seed=1), view(seed=2)])
    assert critic.dimensions == ("mn", "ls", "vq")
    assert p_NK.shape == (2, 3) and p_NK.dtype == np.float64
    assert ((p_NK > 0) & (p_NK < 1)).all() and np.ptp(p_NK) > 1e-4


def test_each_clip_is_judged_alone(critic):
    views = [view(seed=1), view(windows=2, seed=2), view(frames=50, seed=3)]
    together = critic.score(views)
    alone = np.concatenate([critic.score([one]) for one in views])
    assert np.allclose(together, alone, atol=1e-6)
    assert np.allclose(critic.score(views[::-1])[::-1], together, atol=1e-6)


def test_each_clip_has_passes_of_its_own_of_a_bounded_size_and_the_same_bits_beside_others(
    critic, monkeypatch
):
    views = [view(seed=1), view(frames=50, seed=2), view(windows=3, seed=3), view(seed=4)]
    alone = np.concatenate([critic.score([one]) for one in views])
    sizes, pass_of = [], TalkingCritic._window_margins

    def counted(self, joint):
        sizes.append(len(joint.video_WFHW3))
        return pass_of(self, joint)

    monkeypatch.setattr(TalkingCritic, "_window_margins", counted)
    for most, expected in ((8, [1, 1, 3, 1]), (2, [1, 1, 2, 1, 1])):
        sizes.clear()
        together = dataclasses.replace(critic, windows_per_pass=most).score(views)
        assert sizes == expected
        if most == 8:
            assert np.array_equal(together, alone)
        assert np.allclose(together, alone, rtol=0, atol=1e-6)


def test_long_clips_average_the_logits_of_their_windows(critic):
    both = view(windows=2, seed=5)
    halves = [both.part(slice(w, w + 1)) for w in (0, 1)]
    assert np.allclose(critic.margins([both])[0], critic.margins(halves).mean(axis=0), atol=1e-5)


def test_no_views_give_an_empty_table(critic):
    assert critic.score([]).shape == (0, 3)


def test_broken_input_raises_instead_of_scoring(critic):
    broken = view()
    broken.mel_WMJ[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match="not finite"):
        critic.score([view(), broken])


def test_round_trip_and_foreign_weights(folder, critic, tmp_path):
    again = TalkingCritic.load(folder)
    assert again.fingerprint == critic.fingerprint and len(critic.fingerprint) == 16
    assert np.array_equal(again.score([view()]), critic.score([view()]))
    assert critic.calibration["n"]["mn"] == 2
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / CONFIG).read_text())
    config["talking_critic"]["questions"]["ls"] = "Do the lips fit?"
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="not those that config.json describes"):
        TalkingCritic.load(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        TalkingCritic.load(tmp_path)


def test_views_travel_between_processes():
    sent = view()
    received = pickle.loads(pickle.dumps(sent))
    assert np.array_equal(sent.video_WFHW3, received.video_WFHW3)


def test_the_rule_critic_has_the_same_interface(tmp_path):
    sizes = {"mn": 4, "ls": 3, "vq": 3}
    rules = {n: Rule((0.0,) * r, (1.0,) * r, (0.1,) * (2 * r), -0.2) for n, r in sizes.items()}
    critic = RuleCritic(rules)
    critic.save(tmp_path / "rules.json")
    again = RuleCritic.load(tmp_path / "rules.json")
    assert again.fingerprint == critic.fingerprint and again.dimensions == ("mn", "ls", "vq")
    scores = again.score([view(), view(windows=2)])
    assert scores.shape == (2, 3) and ((scores > 0) & (scores < 1)).all()


def test_correlation_of_a_flat_signal_is_zero():
    assert correlation(np.ones(10), np.arange(10.0)) == 0.0
    assert correlation(np.arange(10.0), np.arange(10.0)) == pytest.approx(1.0)


def test_scaling_moves_the_threshold_between_the_answers():
    rng = np.random.default_rng(0)
    label = np.r_[np.ones(60), np.zeros(140), np.nan]
    margin = np.r_[rng.normal(-5, 1, 60), rng.normal(-9, 1, 140), 100.0]
    a, b = fit_scaling(margin, label)
    p = 1 / (1 + np.exp(-(a * margin + b)))
    assert a > 0 and -8 < -b / a < -6
    assert ((p[:200] > 0.5) == (label[:200] == 1)).mean() > 0.95
