"""Motion metrics on a synthetic face that turns, blinks and talks; no video is needed."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ft2ray.evaluation.motion import (
    fit_reference,
    motion_track,
    naturalness,
    plain_figures,
    pose_normalise,
)
from ft2ray.media.face import LEFT_LID_UPPER, LIPS_INNER_LOWER, POINTS, RIGHT_LID_UPPER


def face(seed):
    """478 points at random places of a head-sized box, forehead and chin far apart."""
    points = np.random.default_rng(seed).normal(0, 30, (POINTS, 3))
    points[10], points[152] = (0, -64, 0), (0, 64, 0)
    return points


def wander(frames, seed, scale, smooth=9):
    noise = np.random.default_rng(seed).normal(size=(frames + smooth - 1, 3))
    return scale * np.stack(
        [np.convolve(noise[:, i], np.ones(smooth) / smooth, "valid") for i in range(3)], 1
    )


def talking(seed, frames=75, head=4.0, noise=0.05):
    """A track: head wanders, lips open and close, the lids blink once."""
    generator = np.random.default_rng(seed)
    track = np.repeat(face(0)[None], frames, axis=0)
    track[:, LIPS_INNER_LOWER, 1] += np.abs(wander(frames, seed + 1, 12, 5))[:, :1]
    track[30:34, RIGHT_LID_UPPER + LEFT_LID_UPPER] *= 0.9
    turns = Rotation.from_euler("xyz", wander(frames, seed + 2, head), degrees=True).as_matrix()
    track = np.einsum("fab,fpb->fpa", turns, track) + 128 + wander(frames, seed + 3, head / 2)[:, None]
    return track + generator.normal(0, noise, track.shape)


@pytest.fixture(scope="module")
def reference():
    return fit_reference([motion_track(talking(seed)) for seed in (0, 10, 20)])


def score(track, reference):
    return naturalness(motion_track(track), reference)[0]


def test_pose_normalisation_undoes_turning_moving_and_scaling():
    still = np.repeat(face(0)[None], 20, axis=0)
    angles = wander(20, 5, 10)
    turns = Rotation.from_euler("xyz", angles, degrees=True)
    moved = 1.3 * np.einsum("fab,fpb->fpa", turns.as_matrix(), still) + wander(20, 6, 20)[:, None]
    normalised, rotation = pose_normalise(moved)
    assert np.ptp(normalised, axis=0).max() < 1e-6
    found = Rotation.from_rotvec(rotation, degrees=True)
    relative = (found * found[0].inv()) * (turns * turns[0].inv()).inv()
    assert np.degrees(relative.magnitude()).max() < 1e-3


def test_other_people_of_the_same_kind_score_best(reference):
    real = [score(talking(seed), reference) for seed in (30, 40, 50)]
    assert min(real) > -0.45


@pytest.mark.parametrize("kind", ["frozen", "only the mouth", "jitter", "robotic", "wild"])
def test_unnatural_motion_scores_far_below_real(reference, kind):
    real = talking(30)
    if kind == "frozen":
        bad = np.repeat(real[:1], 75, axis=0)
    elif kind == "only the mouth":
        bad = pose_normalise(real)[0]
    elif kind == "jitter":
        bad = real + np.random.default_rng(1).normal(0, 2, (75, 1, 3))
    elif kind == "robotic":
        bad = real[np.arange(75) // 8 * 8]
    else:
        bad = talking(30, head=40.0)
    assert score(bad, reference) < score(real, reference) - 0.25


def test_frozen_is_the_worst_of_all(reference):
    frozen = score(np.repeat(talking(30)[:1], 75, axis=0), reference)
    assert frozen < -1.5
    assert frozen < score(talking(30, head=40.0), reference)


def test_plain_figures_count_the_blink():
    figures = plain_figures(motion_track(talking(3)))
    assert figures["blinks_per_minute"] == pytest.approx(20, abs=25)
    assert figures["head_range"] > 2
