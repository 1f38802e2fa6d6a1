"""Motion metrics on a synthetic face and on synthetic signals; no video is needed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from ft2ray.evaluation.motion import RATE, MotionTrack, naturalness, plain_figures, pose_normalise
from ft2ray.media.face import POINTS


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


def track(turn=1.0, lids=1.0, mouth=1.0, seed=0, frames=75):
    """Signals of a lively talker: head wanders 5 degrees, one blink, lips at about 3 Hz."""
    generator = np.random.default_rng(seed)
    time = np.arange(frames) / RATE
    wave = np.sin(2 * np.pi * (0.5 * time[:, None] + generator.random(3)))
    wave += 0.4 * np.sin(2 * np.pi * (1.2 * time[:, None] + generator.random(3)))
    blink = np.exp(-(((time - 1.2) / 0.08) ** 2))
    talk = np.sin(2 * np.pi * 1.5 * time) + 0.7 * np.sin(2 * np.pi * 3.1 * time)
    return MotionTrack(
        rotation_F3=turn * 4.0 * wave,
        position_F2=turn * 0.04 * wave[:, :2],
        brows_F=0.2 + 0 * time,
        lids_F=1 - lids * 0.75 * blink,
        mouth_F=0.04 + mouth * 0.015 * talk,
        width_F=0.4 + 0 * time,
    )


def smoothed(found, sigma):
    return replace(
        found,
        rotation_F3=gaussian_filter1d(found.rotation_F3, sigma, axis=0),
        mouth_F=gaussian_filter1d(found.mouth_F, sigma),
    )


def test_a_lively_talker_costs_nothing():
    assert naturalness(track())[0] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "grades",
    [
        [track(turn) for turn in (1.0, 0.3, 0.1, 0.0)],
        [track(turn) for turn in (1.0, 3.0, 6.0)],
        [track(lids=share) for share in (1.0, 0.2, 0.0)],
        [track(mouth=share) for share in (1.0, 0.2, 0.05)],
        [smoothed(track(), sigma) for sigma in (0.01, 5.0, 9.0)],
        [
            replace(track(), rotation_F3=track().rotation_F3 + np.random.default_rng(1).normal(0, s, (75, 3)))
            for s in (0.0, 1.0, 3.0)
        ],
    ],
    ids=["still", "overdone", "no blink", "mumbling", "smoothed", "trembling"],
)
def test_every_fault_costs_and_more_of_it_costs_more(grades):
    scores = [naturalness(grade)[0] for grade in grades]
    assert scores == sorted(scores, reverse=True) and scores[-1] < scores[0] - 0.2


def test_standing_still_costs_most():
    assert naturalness(track(0, 0, 0))[0] < naturalness(track(6.0))[0]


def test_lips_that_move_in_silence_are_seen_and_short_pauses_are_not_judged():
    loud = np.ones(75)
    loud[20:45] = 0.001
    assert naturalness(track(), loud)[1]["silent_lips"] < 0
    assert "silent_lips" not in naturalness(track(), np.ones(75))[1]


def test_plain_figures_count_the_blink():
    figures = plain_figures(track(), np.random.default_rng(0).random(75))
    assert figures["blinks_per_minute"] == pytest.approx(20)
    assert figures["blink_depth"] == pytest.approx(0.75, abs=0.05)
    assert figures["head_range"] > 10 and -1 <= figures["head_speech"] <= 1
