"""One loaded generator for many clips: the policy of each, its progress, and how it is stopped."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from ft2ray.animator import Animator, Stopped
from ft2ray.errors import MediaError, NonFiniteError
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.video import read_video
from tests.serving.conftest import PORTRAIT, SPEECH, random_policy, speech


@pytest.fixture(scope="module")
def animator() -> Animator:
    return Animator("embedded", 256, max_seconds=5.0)


@pytest.fixture(scope="module")
def one_second(tmp_path_factory) -> Path:
    return speech(tmp_path_factory.mktemp("speech"), 1.0)


def test_another_policy_makes_another_clip_and_the_base_stays_the_base(animator, one_second, tmp_path):
    def make(**choice):
        return animator.animate(PORTRAIT, one_second, SamplerSettings(steps=2), seed=1, **choice)

    base = make()
    assert (base.system, base.policy, base.frames) == ("base", "base", 25)
    (tmp_path / "clip.mp4").write_bytes(base.mp4)
    frames_FHW3, wav_T = read_video(tmp_path / "clip.mp4")
    assert len(frames_FHW3) == 25 and wav_T is not None
    with pytest.raises(ValueError, match="no trained policy"):
        make(weights={"ls": 2.0})
    clips = []
    for policy in [random_policy(animator, seed) for seed in (1, 2)]:
        animator.attach(policy)
        clips.append(make())
        assert (clips[-1].system, clips[-1].policy) == ("uniform", policy.fingerprint)
        assert make(system="base") == base
    assert len({clip.mp4 for clip in [base, *clips]}) == 3
    assert make(weights={"ls": 0.0}).mp4 != clips[-1].mp4
    with pytest.raises(ValueError, match="no system 'tlpo'"):
        make(system="tlpo")
    assert make() == clips[-1]


@pytest.mark.parametrize("before", [None, 1])
def test_a_policy_that_does_not_fit_leaves_the_one_at_work(one_second, before):
    """A folder that was never this transformer's, though its base and fingerprint are right."""
    animator = Animator("embedded", 256, max_seconds=5.0)
    good, bad = (random_policy(animator, seed) for seed in (1, 2))
    config, tensors = bad.adapters["vq"]
    bad.adapters["vq"] = config, dict(list(tensors.items())[1:])
    if before:
        animator.attach(good)

    def make():
        return animator.animate(PORTRAIT, one_second, SamplerSettings(steps=2), seed=1)

    clip = make()
    with pytest.raises(ValueError, match="does not fit this transformer"):
        animator.attach(bad)
    assert make() == clip and clip.policy == (good.fingerprint if before else "base")


def test_progress_goes_up_and_ends_the_work_when_told(animator, one_second):
    told = []

    def progress(state, share):
        told.append((state, share))
        return share < 0.5

    with pytest.raises(Stopped):
        animator.animate(PORTRAIT, one_second, SamplerSettings(steps=4, shift=5.0), progress=progress)
    assert told == [("encoding", 0.0), ("sampling", 0.0), ("sampling", 0.25), ("sampling", 0.5)]
    animator.probe()  # the hook is gone, nobody is told any more
    assert len(told) == 4


def test_a_recording_beyond_the_limit_is_refused(animator):
    with pytest.raises(MediaError) as refused:
        animator.animate(PORTRAIT, SPEECH, SamplerSettings(steps=1))
    assert refused.value.reason == "too_long"


def test_the_probe_sees_broken_weights(animator):
    parameter = next(animator.generator.transformer.parameters())
    kept = parameter.detach().clone()
    try:
        parameter.data.fill_(float("nan"))
        with pytest.raises(NonFiniteError, match="not finite"):
            animator.probe()
    finally:
        parameter.data.copy_(kept)
    animator.probe()


def test_no_clip_is_made_of_a_latent_that_is_not_finite(animator, one_second, monkeypatch):
    """Not by the codec's leave: a VAE makes grey pictures of NaN."""
    frames_FHW3 = np.zeros((25, 64, 64, 3), np.uint8)
    monkeypatch.setattr(animator.generator, "decode", lambda portrait, x_CFHW: frames_FHW3)
    sample = animator.generator.sample

    def spoilt(*arguments, **named):
        x_CFHW = sample(*arguments, **named)
        x_CFHW[0, -1] = torch.inf
        return x_CFHW

    settings = SamplerSettings(steps=1)
    assert animator.animate(PORTRAIT, one_second, settings, system="base").frames == 25
    monkeypatch.setattr(animator.generator, "sample", spoilt)
    with pytest.raises(NonFiniteError, match="the latent of seed 3 is not finite"):
        animator.animate(PORTRAIT, one_second, settings, seed=3, system="base")


def test_a_clip_runs_at_the_rate_of_its_generator(animator, one_second, tmp_path, monkeypatch):
    monkeypatch.setattr(animator.generator, "fps", 20.0)  # pretends: the same 25 frames, shown more slowly
    clip = animator.animate(PORTRAIT, one_second, SamplerSettings(steps=1), system="base")
    (tmp_path / "clip.mp4").write_bytes(clip.mp4)
    with av.open(str(tmp_path / "clip.mp4")) as opened:
        assert opened.streams.video[0].average_rate == 20
    assert (clip.frames, clip.seconds) == (25, 1.25)
