import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from ft2ray.generator.portrait.motion import POSE_CHANNELS, MotionBasis, close_lips, fit_pose
from ft2ray.media.face import (
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    LIPS_OUTER,
    POINTS,
    RIGID,
    eye_opening,
    face_height,
    mouth_gap,
)
from recipes.embedded.motion_training import fit_basis

BASIS = MotionBasis.load()
FRAMES = 3
values = st.floats(-1.5, 1.5, width=32)


def turned(
    mesh_P3: np.ndarray, degrees: tuple[float, float, float], scale: float, shift: tuple
) -> np.ndarray:
    rotation = Rotation.from_euler("xyz", degrees, degrees=True)
    return scale * rotation.apply(mesh_P3) + np.array(shift)


def frontal(scale: float = 130.0) -> np.ndarray:
    """The canonical face with open eyes and closed lips, in pixels."""
    return close_lips(BASIS.canonical_P3) * scale + 128


def opening_motion(x_CF: np.ndarray) -> np.ndarray:
    """The same motion with enough jaw drop that no lips meet and no lid is past its range."""
    x_CF = x_CF.copy()
    grow = BASIS.encode(open_mouth(frontal())[None], frontal())[: BASIS.mouth.stop, 0]
    x_CF[BASIS.mouth] = grow[:, None] + 0.2 * x_CF[BASIS.mouth]
    closure = np.clip(x_CF[BASIS.lid] * BASIS.std_C[BASIS.lid] + BASIS.mean_C[BASIS.lid], -0.3, 0.9)
    x_CF[BASIS.lid] = (closure - BASIS.mean_C[BASIS.lid]) / BASIS.std_C[BASIS.lid]
    return x_CF


def open_mouth(mesh_P3: np.ndarray, share: float = 0.12) -> np.ndarray:
    """Drop everything below the mouth."""
    opened = mesh_P3.copy()
    line = mesh_P3[list(LIPS_INNER_UPPER), 1].mean()
    below = np.unique([*np.flatnonzero(mesh_P3[:, 1] > line + 1), *LIPS_INNER_LOWER[1:-1]])
    opened[below, 1] += share * face_height(mesh_P3)
    return opened


def test_layout_of_the_channels():
    assert (BASIS.mouth.start, BASIS.upper.start, BASIS.pose.start) == (0, BASIS.mouth.stop, BASIS.upper.stop)
    assert BASIS.pose.stop == BASIS.channels
    assert BASIS.pose.stop - BASIS.pose.start == POSE_CHANNELS
    assert BASIS.lid == BASIS.upper.start
    assert BASIS.rest_C.shape == BASIS.mirror_C.shape == (BASIS.channels,)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, (BASIS.channels, FRAMES), elements=values), st.floats(-15, 15), st.floats(60, 300))
def test_encode_inverts_decode_for_any_portrait(x_CF, yaw, scale):
    neutral_P3 = turned(frontal(scale), (3.0, yaw, -4.0), 1.0, (20, -7, 3))
    x_CF = opening_motion(x_CF)
    mesh_FP3 = BASIS.decode(x_CF, neutral_P3)
    np.testing.assert_allclose(BASIS.encode(mesh_FP3, neutral_P3), x_CF, atol=0.02)


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, (BASIS.channels, FRAMES), elements=st.floats(-6, 6, width=32)))
def test_lips_never_pass_through_each_other(x_CF):
    neutral_P3 = frontal()
    x_CF[BASIS.pose] = 0  # upright, so that down is y
    mesh_FP3 = BASIS.decode(x_CF, neutral_P3)
    mean_pose = BASIS.decode(
        np.where(np.arange(BASIS.channels) < BASIS.pose.start, BASIS.rest_C, 0)[:, None], neutral_P3
    )
    middle = slice(2, -2)
    upper, lower = list(LIPS_INNER_UPPER[middle]), list(LIPS_INNER_LOWER[middle])
    rest_gap = mean_pose[0, lower, 1] - mean_pose[0, upper, 1]
    gap = mesh_FP3[:, lower, 1] - mesh_FP3[:, upper, 1]
    assert (gap > np.minimum(rest_gap, 0) - 0.5).all()  # half a pixel of slack


def test_rest_is_the_neutral_face():
    neutral_P3 = turned(frontal(), (5, -12, 2), 1.0, (1, 2, 3))
    rest_FP3 = BASIS.decode(np.repeat(BASIS.rest_C[:, None], 2, axis=1), neutral_P3)
    np.testing.assert_allclose(rest_FP3[0], neutral_P3, atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-20, 20), st.floats(0.7, 1.4))
def test_pose_channels_are_rotation_translation_and_scale(pitch, yaw, roll, scale):
    neutral_P3 = frontal(120.0)
    moved_P3 = turned(neutral_P3, (pitch, yaw, roll), scale, (6, -12, 0))
    raw_C = BASIS.encode(moved_P3[None], neutral_P3)[:, 0] * BASIS.std_C + BASIS.mean_C
    expected = Rotation.from_euler("xyz", (pitch, yaw, roll), degrees=True)
    found = Rotation.from_rotvec(raw_C[BASIS.pose][:3])
    assert (found * expected.inv()).magnitude() < 1e-3
    assert raw_C[BASIS.pose][5] == pytest.approx(np.log(scale), abs=1e-3)
    np.testing.assert_allclose(raw_C[BASIS.mouth], 0, atol=1e-3)  # pose does not leak into the lips
    origin_3 = neutral_P3[list(RIGID)].mean(axis=0)
    shift_2 = (moved_P3[list(RIGID)].mean(axis=0) - origin_3)[:2] / 120.0
    np.testing.assert_allclose(raw_C[BASIS.pose][3:5], shift_2, atol=1e-3)


def test_fitted_pose_removes_and_applies():
    neutral_P3 = frontal()
    mesh_FP3 = np.stack([turned(neutral_P3, (0, a, 0), 1.1, (a, 0, 0)) for a in (0, 10, 20)])
    pose = fit_pose(mesh_FP3, neutral_P3)
    still_FP3 = pose.remove(mesh_FP3)
    np.testing.assert_allclose(still_FP3 + pose.origin_3, np.stack([neutral_P3] * 3), atol=1e-6)
    np.testing.assert_allclose(pose.apply(still_FP3), mesh_FP3, atol=1e-6)


def test_lids_shut_by_the_share_of_their_own_opening():
    neutral_P3 = frontal()
    x_CF = np.repeat(BASIS.rest_C[:, None], 3, axis=1)
    x_CF[BASIS.lid] = (np.array([0.0, 0.5, 1.0]) - BASIS.mean_C[BASIS.lid]) / BASIS.std_C[BASIS.lid]
    opening_F = eye_opening(BASIS.decode(x_CF, neutral_P3)) / eye_opening(neutral_P3)
    np.testing.assert_allclose(opening_F, [1.0, 0.5, 0.0], atol=0.01)


def test_the_gap_of_the_mouth_is_carried_to_another_face():
    neutral_P3 = turned(frontal(200.0), (0, 10, 0), 1.0, (0, 0, 0))
    source_P3 = frontal(120.0)
    clip = np.stack([open_mouth(source_P3, share) for share in (0.0, 0.04, 0.08, 0.12)])
    carried = mouth_gap(BASIS.decode(BASIS.encode(clip, source_P3), neutral_P3))
    assert np.corrcoef(carried, mouth_gap(clip))[0, 1] > 0.98
    assert (np.diff(carried) > 0).all()


def test_mirror_is_what_a_mirror_shows():
    rng = np.random.default_rng(0)
    x_CF = opening_motion(rng.uniform(-1.5, 1.5, (BASIS.channels, 4)).astype(np.float32))
    np.testing.assert_array_equal(BASIS.mirror(BASIS.mirror(x_CF)), x_CF)
    neutral_P3 = frontal()
    from recipes.embedded.motion_training import mirror_points

    partner_P = mirror_points(BASIS.canonical_P3)
    seen = BASIS.decode(BASIS.mirror(x_CF), neutral_P3)
    reflected = BASIS.decode(x_CF, neutral_P3)[:, partner_P] * [-1, 1, 1] + [256, 0, 0]
    np.testing.assert_allclose(seen, reflected, atol=0.2)


def test_parted_lips_are_closed_at_rest():
    parted_P3 = BASIS.canonical_P3.copy()
    parted_P3[list(LIPS_INNER_LOWER[1:-1]), 1] += 0.05
    assert mouth_gap(parted_P3) > 0.04
    closed_P3 = close_lips(parted_P3)
    assert mouth_gap(closed_P3) < 0.02
    np.testing.assert_array_equal(closed_P3[:, [0, 2]], parted_P3[:, [0, 2]])
    np.testing.assert_allclose(close_lips(closed_P3), closed_P3, atol=1e-4)  # hardly anything left to do


def test_frames_without_a_face_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        BASIS.encode(np.full((2, POINTS, 3), np.nan))


def test_neutral_of_a_clip_is_closed_awake_and_in_mean_pose():
    base_P3 = frontal()
    x_CF = np.repeat(BASIS.rest_C[:, None], 20, axis=1)
    x_CF[: BASIS.mouth.stop, 10:] = BASIS.encode(open_mouth(base_P3)[None], base_P3)[: BASIS.mouth.stop]
    x_CF[BASIS.lid, :2] = (1.0 - BASIS.mean_C[BASIS.lid]) / BASIS.std_C[BASIS.lid]  # two frames of a blink
    neutral_P3 = BASIS.clip_neutral(BASIS.decode(x_CF, base_P3))
    assert mouth_gap(neutral_P3) == pytest.approx(mouth_gap(base_P3), abs=0.003)
    assert eye_opening(neutral_P3) == pytest.approx(eye_opening(base_P3), rel=0.02)


def test_a_basis_fitted_to_known_motion_finds_it_again():
    rng = np.random.default_rng(1)
    clips = []
    for _ in range(3):
        x_CF = np.repeat(BASIS.rest_C[:, None], 40, axis=1)
        x_CF[:2] += rng.standard_normal((2, 40)) * [[1.0], [0.7]]
        x_CF[BASIS.pose] = rng.standard_normal((6, 40)) * 0.5
        clips.append(BASIS.decode(x_CF.astype(np.float32), frontal(rng.uniform(90, 160))))
    fitted = MotionBasis(fit_basis(clips, mouth=4, brow=2))
    for clip in clips:
        neutral_P3 = fitted.clip_neutral(clip)
        back = fitted.decode(fitted.encode(clip, neutral_P3), neutral_P3)
        lips = list(LIPS_OUTER)
        assert np.abs(back[:, lips] - clip[:, lips]).mean() < 0.5  # pixels
    x_CN = np.concatenate([fitted.encode(clip) for clip in clips], axis=1)
    assert 0.5 < x_CN[fitted.mouth][0].std() < 1.5


def test_real_speech_survives_the_round_trip(real_media, mesher):
    from ft2ray.media.video import read_video

    mesh_FP3 = mesher.track(read_video(real_media / "clips" / "grid_sbia1a.mpg")[0])  # not in the basis
    neutral_P3 = BASIS.clip_neutral(mesh_FP3)
    back_FP3 = BASIS.decode(BASIS.encode(mesh_FP3), neutral_P3)
    assert np.corrcoef(mouth_gap(mesh_FP3), mouth_gap(back_FP3))[0, 1] > 0.99
    error = np.linalg.norm((back_FP3 - mesh_FP3)[..., :2], axis=-1).mean() / face_height(mesh_FP3).mean()
    assert error < 0.004
