"""Faults do what their names say, more so with more strength, and leave the rest alone."""

import numpy as np
import pytest

from ft2ray.generator.portrait.motion import MotionBasis
from recipes.embedded.faults import MOTION_FAULTS, PICTURE_FAULTS, SHAPE_FAULTS, h264
from recipes.embedded.motion_sources import MotionSource, RealClip, Recording

BASIS = MotionBasis.load()


def natural_motion(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    clips = []
    for n in range(2):
        steps = np.cumsum(rng.standard_normal((BASIS.channels, 75)), axis=1) / 4
        clips.append(
            RealClip(Recording(f"r{n}", np.zeros(48000, np.float32), rng.standard_normal((150, 8))), steps)
        )
    return MotionSource([], clips, BASIS).draw(rng, 75, real=True)[0]


def test_natural_motion_blinks_and_moves():
    heads = [natural_motion(seed) for seed in range(12)]
    assert min(x[BASIS.pose].std(axis=1).mean() for x in heads) > 0.2
    assert np.isfinite(heads).all()


@pytest.mark.parametrize("name", MOTION_FAULTS)
def test_motion_faults_change_the_head_only_as_named(name):
    for seed in range(4):
        x = natural_motion(seed)
        before = x.copy()
        bad = MOTION_FAULTS[name](x, BASIS, np.random.default_rng(seed), 0.7)
        assert bad.shape == x.shape and np.isfinite(bad).all()
        assert (x == before).all(), "the fault must not write into its input"
        assert np.abs(bad[BASIS.pose] - x[BASIS.pose]).mean() > 0.05
        if name != "jitter":
            assert (bad[BASIS.mouth] == x[BASIS.mouth]).all()


def speed(x):
    return np.abs(np.diff(x[BASIS.pose], axis=1)).mean()


def test_directions_of_the_motion_faults():
    x, rng = natural_motion(3), np.random.default_rng(0)
    assert speed(MOTION_FAULTS["lifeless"](x, BASIS, rng, 1.0)) < 0.05 * speed(x)
    assert speed(MOTION_FAULTS["jitter"](x, BASIS, rng, 1.0)) > speed(
        MOTION_FAULTS["jitter"](x, BASIS, rng, 0.0)
    )
    assert speed(MOTION_FAULTS["frantic"](x, BASIS, rng, 1.0)) > 1.5 * speed(x)
    held = MOTION_FAULTS["stepped"](x, BASIS, rng, 0.5)[BASIS.pose]
    assert (np.diff(held, axis=1) == 0).mean() > 0.7


def picture(frames: int = 4) -> np.ndarray:
    y, x = np.mgrid[:128, :128]
    base = 128 + 60 * np.sin(x / 3.0) + 40 * np.cos(y / 5.0)
    return np.repeat(np.clip(base, 0, 255).astype(np.uint8)[None, ..., None], 3, axis=3).repeat(
        frames, axis=0
    )


@pytest.mark.parametrize("name", PICTURE_FAULTS)
def test_picture_faults_grow_with_strength(name):
    frames = picture()
    errors = []
    for strength in (0.0, 1.0):
        bad = PICTURE_FAULTS[name](frames, np.random.default_rng(0), strength)
        assert bad.shape == frames.shape and bad.dtype == np.uint8
        errors.append(np.abs(bad.astype(float) - frames).mean())
    assert 0.5 < errors[0] < errors[1]


@pytest.mark.parametrize("name", SHAPE_FAULTS)
def test_shape_faults_bend_the_mesh(name):
    mesh = np.repeat(BASIS.canonical_P3[None] * 128 + 128, 10, axis=0).astype(np.float32)
    moved = [SHAPE_FAULTS[name](mesh, np.random.default_rng(1), s) - mesh for s in (0.0, 1.0)]
    reach = [np.abs(m[..., :2]).max() for m in moved]
    assert 1.0 < reach[0] < reach[1]
    assert (moved[0][..., 2] == 0).all()


def test_good_h264_keeps_the_picture():
    frames = picture(8)
    assert np.abs(h264(frames, 16).astype(float) - frames).mean() < 3.0
