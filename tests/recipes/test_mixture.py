"""The uncurated mixture: faults in their own channels, drawn apart, at their shares."""

import numpy as np

from ft2ray.generator.portrait.motion import MotionBasis
from recipes.embedded.base_data import Clip
from recipes.embedded.mixture import FAULTS, shape_channels, spoil, spoil_motion

BASIS = MotionBasis.load()
SCALE = np.ones(BASIS.channels)


def clean(frames=75, seed=0):
    return np.random.default_rng(seed).standard_normal((BASIS.channels, frames)).astype(np.float32)


def changed(fault):
    """Channels that a clip with this fault alone differs in from the clean one."""
    for seed in range(2000):
        x_CF, faults = spoil_motion(clean(), SCALE, BASIS, np.random.default_rng(seed))
        if faults == [fault]:
            return set(np.flatnonzero(np.abs(x_CF - clean()).max(axis=1) > 1e-6))
    raise AssertionError(f"never {fault} alone")


def test_every_fault_stays_in_its_channels():
    pose = set(range(BASIS.pose.start, BASIS.pose.stop))
    mouth = set(range(BASIS.mouth.start, BASIS.mouth.stop))
    assert changed("head_lifeless") == pose
    assert changed("lips_amplitude") - pose == changed("sound_off") - pose == mouth
    assert changed("shape") - pose == set(shape_channels(BASIS))
    assert not {BASIS.lid} & (pose | mouth | set(shape_channels(BASIS)))  # blinks stay as they are


def test_the_shares_are_those_of_the_clips_and_a_few_clips_are_free_of_faults():
    clips = [Clip(clean(seed=n), np.zeros((150, 3)), True) for n in range(400)]
    spoilt, shares = spoil(clips, SCALE, BASIS, np.random.default_rng(0))
    assert set(shares) == {*FAULTS, "none"} and 0.03 < shares["none"] < 0.25
    assert 0.3 < shares["sound_off"] < 0.5 and 0.2 < shares["tremor"] < 0.4 and 0.3 < shares["shape"] < 0.5
    again, _ = spoil(clips, SCALE, BASIS, np.random.default_rng(0))
    assert all(np.array_equal(a.x_CF, b.x_CF) for a, b in zip(spoilt, again, strict=True))
    assert all(np.isfinite(clip.x_CF).all() for clip in spoilt)
