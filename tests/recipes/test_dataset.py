"""Sounds, labels and losses of training batches."""

import numpy as np
import pytest
import torch

from ft2ray.critic.questions import QUESTIONS
from ft2ray.critic.talking.model import build_model
from recipes.embedded.critic_training import (
    AuxiliaryHeads,
    Setup,
    TrainingConfig,
    figures,
    judge,
    learning_rate_share,
    masked_bce,
    training_step,
)
from recipes.embedded.dataset import FRAME_SAMPLES, ClipData, SoundMix, read_shards, write_shard
from recipes.embedded.synthesis import LIP_CHANNELS, TARGET_SCALE, SyntheticClip
from recipes.embedded.toy_thinker import TOY_PROCESSOR, build_tokenizer, toy_config

FRAMES = 200


def clip(seed: int, lips: float = 1.0) -> SyntheticClip:
    rng = np.random.default_rng(seed)
    return SyntheticClip(
        video_FHW3=rng.integers(0, 256, (75, 84, 56, 3), dtype=np.uint8),
        stills_KHW3=rng.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8),
        target_FG=rng.standard_normal((75, len(TARGET_SCALE))).astype(np.float32),
        mn=float(seed % 2),
        vq=float("nan") if seed == 1 else float(seed // 2 % 2),
        lips=lips,
        recording="b" if seed % 3 == 0 else "a",
        start=20 + seed,
        fault="none",
    )


@pytest.fixture
def data(tmp_path) -> ClipData:
    write_shard(tmp_path / "clips-0000.npz", [clip(n, lips=float(n != 3)) for n in range(4)])
    time = np.arange(FRAMES * FRAME_SAMPLES, dtype=np.float32)
    sounds = {"a": time, "b": -time}
    lips = {"a": np.arange(FRAMES, dtype=np.float32)[None].repeat(LIP_CHANNELS, 0)}
    lips["b"] = -lips["a"]
    return ClipData(read_shards([tmp_path / "clips-0000.npz"]), sounds, lips)


def test_own_sound_is_within_the_slack_and_wrong_sound_is_not(data):
    rng, mix = np.random.default_rng(0), SoundMix()
    for _ in range(200):
        name, start = data.own(1, rng, mix)
        assert name == "a" and abs(start - 21) <= mix.slack_frames
        name, start = data.wrong(1, rng, mix)
        assert name == "b" or mix.least_shift <= abs(start - 21) <= mix.most_shift
        assert -mix.slack_frames <= start <= FRAMES - 75 + mix.slack_frames


def test_the_sound_of_short_recordings_does_not_tell(data):
    short = np.zeros(75 * FRAME_SAMPLES, np.float32)
    data.sounds = data.sounds | {"c": short, "d": short}
    data.arrays["recording"] = np.array(["c"] * 4)
    data.arrays["start"] = np.zeros(4, int)
    rng, mix = np.random.default_rng(0), SoundMix()
    own = {data.own(0, rng, mix) for _ in range(60)}
    wrong = {data.wrong(0, rng, mix) for _ in range(60)}
    assert {start for _, start in own} == {start for _, start in wrong} == {-1, 0, 1}
    assert {name for name, _ in wrong} == {"d"}


def test_sound_and_lips_of_a_window_belong_together(data):
    for start in (0, 30, FRAMES - 10, -7):
        wav, lips = data.window("a", start)
        assert len(wav) == 48000 and lips.shape == (75, LIP_CHANNELS)
        assert np.array_equal(wav[::FRAME_SAMPLES] / FRAME_SAMPLES, lips[:, 0])


def test_labels_follow_sound_and_lips(data):
    data.sounds = {name: np.sin(wav / 50).astype(np.float32) for name, wav in data.sounds.items()}
    batch = data.batch(np.arange(4), np.random.default_rng(0), SoundMix(), augment=True)
    own, wrong = batch.label_SBK
    assert own[:, 1].tolist() == [1, 1, 1, 0] and wrong[:, 1].tolist() == [0, 0, 0, 0]
    assert own[:, 0].tolist() == [0, 1, 0, 1] and torch.isnan(own[1, 2])
    assert torch.equal(own[:, 0], wrong[:, 0])


def test_no_clips_is_an_error():
    with pytest.raises(ValueError, match="no training clips"):
        read_shards([])


def test_unknown_labels_do_not_count():
    margin = torch.tensor([0.3, 5.0], requires_grad=True)
    loss = masked_bce(margin, torch.tensor([1.0, float("nan")]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log1p(np.exp(-0.3)))
    assert margin.grad[1] == 0


def test_learning_rate_rises_then_falls():
    shares = [learning_rate_share(done, 0.1) for done in np.linspace(0, 1, 50)]
    peak = int(np.argmax(shares))
    assert 3 <= peak <= 6 and shares[peak] > 0.98 and shares[-1] == pytest.approx(0.02)
    assert all(b <= a for a, b in zip(shares[peak:], shares[peak + 1 :], strict=False))


def test_a_few_steps_learn_to_see_motion(data):
    torch.manual_seed(0)
    data.sounds = {name: np.sin(wav / 50).astype(np.float32) for name, wav in data.sounds.items()}
    tokenizer = build_tokenizer()
    model = build_model(toy_config(tokenizer, TOY_PROCESSOR, width=96))
    heads = AuxiliaryHeads(96, 6, TOY_PROCESSOR.temporal_patch_size, len(TARGET_SCALE))
    setup = Setup(model, heads, tokenizer, TOY_PROCESSOR, dict(QUESTIONS))
    rng, config = np.random.default_rng(0), TrainingConfig(speech_batch=2)
    batch = data.batch(np.arange(2), rng, SoundMix(), augment=False)
    optimiser = torch.optim.AdamW([*model.parameters(), *heads.parameters()], lr=3e-3)
    history = []
    for step in range(7):
        total, losses = training_step(setup, config, batch, data, rng, towers_only=step == 0)
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(losses)
    assert "answers" not in history[0] and "answers" in history[1]
    assert all(np.isfinite(list(losses.values())).all() for losses in history)
    assert history[-1]["seen"] < 0.95 * history[0]["seen"]
    margin_NK, label_NK = judge(setup, data, 4, seed=0)
    assert margin_NK.shape == label_NK.shape == (8, 3) and np.isfinite(margin_NK).all()


def test_figures_are_counted_over_known_labels():
    margin = np.array([[1.0], [-1.0], [-2.0], [9.0]])
    label = np.array([[1.0], [1.0], [0.0], [np.nan]])
    assert figures(margin, label, ["mn"]) == {"mn_accuracy": 0.75, "mn_auc": 1.0}
