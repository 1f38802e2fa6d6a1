"""Tuning at toy width: it learns a handful of clips, goes on bitwise, and is the same on two workers."""

import numpy as np
import pytest
import torch

from ft2ray.critic.labels import Label, read_labels
from ft2ray.critic.omni.card import new_card
from ft2ray.critic.omni.critic import OmniCritic, Reader
from ft2ray.critic.omni.tuning import Tuning, TuningConfig, learning_rate_share
from ft2ray.critic.questions import QUESTIONS
from ft2ray.errors import NonFiniteError, UserError
from ft2ray.loaders import load_critic
from ft2ray.media.video import write_video
from tests.critic.omni_toys import write_thinker

CONFIG = TuningConfig(rank=8, alpha=16.0, learning_rate=1e-2, epochs=20, batch=4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_thinker(tmp_path_factory.mktemp("base") / "thinker")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Six clips: dark ones are good pictures, loud ones well synchronised; of two the motion is not known."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    lines = ["clip,mn,ls,vq"]
    for n in range(6):
        dark, loud = n % 2, n % 3 == 0
        frames = rng.integers(0, 60, (30, 64, 64, 3), dtype=np.uint8) + np.uint8(0 if dark else 180)
        wav = (0.4 if loud else 0.01) * rng.standard_normal(19200)
        write_video(folder / f"{n}.mp4", frames, 25, wav.astype(np.float32))
        lines.append(f"{n}.mp4,{'' if n < 2 else n % 2},{int(loud)},{dark}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


def tuning(base, table, config=CONFIG, rank=0, workers=1) -> Tuning:
    card = new_card(base, QUESTIONS, 8.0, 56)
    return Tuning(Reader.load(base, card, "cpu"), card, read_labels(table, QUESTIONS), config, rank, workers)


def test_it_learns_a_handful_of_clips(base, table, tmp_path):
    run = tuning(base, table)
    losses = [run.train_step()["loss"] for _ in range(run.last_step)]
    assert run.last_step == 30 and losses[-1] < 0.25 * losses[0]
    run.write(tmp_path / "out", str(base), np.zeros((0, 3)), [])
    critic = load_critic(str(tmp_path / "out"))
    for label in read_labels(table, QUESTIONS):
        p_K = critic.score([critic.viewer.read(label.clip)])[0]
        known = ~np.isnan(label.row(critic.dimensions))
        assert ((p_K > 0.5) == (label.row(critic.dimensions) == 1))[known].all()
    untuned = OmniCritic.load(base, 8.0, 56, device="cpu")
    assert critic.fingerprint != untuned.fingerprint


def test_a_lora_that_has_learnt_nothing_changes_nothing(base, table):
    run = tuning(base, table)
    labels = read_labels(table, QUESTIONS)
    untuned = OmniCritic.load(base, 8.0, 56, device="cpu")
    clips = [untuned.viewer.read(label.clip) for label in labels]
    assert np.allclose(run.margins(labels), untuned.margins(clips), atol=1e-5)


def test_it_goes_on_bitwise_where_it_stopped(base, table, tmp_path):
    whole, first, second = (tuning(base, table) for _ in range(3))
    for _ in range(4):
        whole.train_step()
    for _ in range(2):
        first.train_step()
    first.save(tmp_path / "state")
    second.restore(tmp_path / "state")
    losses = [second.train_step() for _ in range(2)]
    assert second.step == 4 and losses[-1]["step"] == 4
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))


def test_only_the_lora_learns(base, table):
    run = tuning(base, table)
    frozen = {n: p.clone() for n, p in run.reader.model.named_parameters() if "lora_" not in n}
    run.train_step()
    run.train_step()  # B is zero at first, so that A learns from the second step on
    assert all(torch.equal(p, frozen[n]) for n, p in run.reader.model.named_parameters() if n in frozen)
    assert all(p.grad is None for n, p in run.reader.model.named_parameters() if n in frozen)
    assert {p.dtype for p in run.parameters} == {torch.float32}


def test_a_step_that_is_not_finite_ends_the_tuning(base, table):
    run = tuning(base, table)
    run.train_step()
    with torch.no_grad():
        run.parameters[0][0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="at step 1 is NaN or infinite"):
        run.train_step()
    assert run.step == 1


@pytest.mark.parametrize("name", ["rank", "alpha", "learning_rate", "epochs", "batch", "clip_norm"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_settings_that_cannot_work_are_refused(name, value):
    with pytest.raises(UserError, match=f"tuning: {name}"):
        TuningConfig(**{name: value})


def test_checkpointing_changes_no_number(base, table):
    from dataclasses import replace

    with_it, without = tuning(base, table), tuning(base, table, replace(CONFIG, checkpointing=False))
    for _ in range(2):
        assert with_it.train_step()["loss"] == pytest.approx(without.train_step()["loss"], rel=1e-5)


def test_every_clip_is_met_once_in_an_epoch(base, table):
    run = tuning(base, table)
    drawn = [index for step in range(3) for index in run.batch(step)]
    assert sorted(drawn[:6]) == sorted(drawn[6:]) == list(range(6)) and drawn[:6] != drawn[6:]


def test_a_clip_that_can_not_be_read_is_named(base, table, tmp_path):
    silent = write_video(tmp_path / "silent.mp4", np.zeros((30, 64, 64, 3), np.uint8), 25, None)
    card = new_card(base, QUESTIONS, 8.0, 56)
    run = Tuning(Reader.load(base, card, "cpu"), card, [Label(str(silent), {"vq": 1.0})], CONFIG)
    with pytest.raises(ValueError, match="silent.mp4 cannot be used: the clip has no sound"):
        run.train_step()
    with pytest.raises(ValueError, match="no label answers any of mn, ls, vq"):
        Tuning(run.reader, card, [Label(str(silent), {"charm": 1.0})], CONFIG)


def test_the_learning_rate_warms_up_and_falls():
    shares = [learning_rate_share(step, 100, 0.05) for step in range(100)]
    assert shares[0] == pytest.approx(0.2) and shares[4] == 1.0 and shares[-1] < 0.11
    assert all(a >= b for a, b in zip(shares[4:], shares[5:], strict=False))
