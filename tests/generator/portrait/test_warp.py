import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.portrait.mouth import paint_mouth
from ft2ray.generator.portrait.mouth_overlay import coverage
from ft2ray.generator.portrait.warp import fold_share, render
from ft2ray.generator.portrait.warp_geometry import (
    SKIN,
    hole_triangles,
    place_anchors,
    signed_areas,
    triangle_maps,
)
from ft2ray.media.face import (
    CHIN,
    LEFT_EYE_CORNERS,
    LEFT_LID_LOWER,
    LEFT_LID_UPPER,
    LIPS_INNER,
    eye_opening,
    face_triangles,
    mouth_gap,
)

BASIS = MotionBasis.load()


def motion(frames: int, **channels) -> np.ndarray:
    """Rest, with values set for `gap` (the jaw: channel 0, whitened), `lid` (closure) or `yaw` (rad)."""
    x_CF = np.repeat(BASIS.rest_C[:, None], frames, axis=1)
    if "gap" in channels:
        x_CF[0] = channels["gap"]
    for name, channel in (("lid", BASIS.lid), ("yaw", BASIS.pose.start + 1)):
        if name in channels:
            x_CF[channel] = (np.asarray(channels[name]) - BASIS.mean_C[channel]) / BASIS.std_C[channel]
    return x_CF


def jaw_values() -> np.ndarray:
    """Values of the first channel from shut to wide open, whatever the sign of the component."""
    probe = mouth_gap(BASIS.decode(motion(2, gap=np.array([-3.0, 3.0])), BASIS.canonical_P3 * 130 + 128))
    wide = -3.0 if probe[0] > probe[1] else 3.0
    return np.linspace(BASIS.rest_C[0], wide, 4)


def test_the_photo_at_rest_is_the_photo(hopper):
    frame_HW3 = render(hopper, hopper.mesh_P3[None])[0]
    assert np.abs(frame_HW3.astype(int) - hopper.image_HW3).mean() < 0.05


def test_rendering_is_deterministic_and_frame_by_frame(hopper):
    mesh_FP3 = BASIS.decode(motion(3, gap=jaw_values()[:3], yaw=[0.0, 0.1, -0.1]), hopper.mesh_P3)
    frames = render(hopper, mesh_FP3)
    np.testing.assert_array_equal(render(hopper, mesh_FP3), frames)
    np.testing.assert_array_equal(render(hopper, mesh_FP3[1:2])[0], frames[1])


def test_the_border_stays_and_the_face_moves(hopper):
    mesh_FP3 = BASIS.decode(motion(1, yaw=[0.15]), hopper.mesh_P3)
    change = np.abs(render(hopper, mesh_FP3)[0].astype(int) - hopper.image_HW3).max(axis=2)
    edge = np.concatenate([change[0], change[-1], change[:, 0], change[:, -1]])
    assert edge.max() <= 2
    nose_x, nose_y = hopper.mesh_P3[1, :2].astype(int)
    assert change[nose_y - 10 : nose_y + 10, nose_x - 10 : nose_x + 10].mean() > 5


def test_the_mesher_sees_the_motion_that_was_rendered(hopper, mesher):
    """The main measurement: driving gap against the gap found again in the pixels."""
    wave = np.interp(np.sin(np.arange(30) * 0.6), [-1, 1], [0, 3])
    gap_values = np.interp(wave, np.arange(4), jaw_values())
    lid_values = np.where(np.arange(30) % 10 < 3, 0.9, 0.0)
    mesh_FP3 = BASIS.decode(
        motion(30, gap=gap_values, lid=lid_values, yaw=0.1 * np.sin(np.arange(30) / 4)), hopper.mesh_P3
    )
    seen_FP3 = mesher.track(render(hopper, mesh_FP3))
    assert np.isfinite(seen_FP3).all()
    assert np.corrcoef(mouth_gap(seen_FP3), mouth_gap(mesh_FP3))[0, 1] > 0.9
    opening_F = eye_opening(seen_FP3)
    assert opening_F[lid_values > 0.5].mean() < 0.8 * opening_F[lid_values == 0].mean()


def test_an_open_mouth_shows_a_dark_inside_and_a_shut_one_nothing(hopper):
    shut, wide = jaw_values()[[0, -1]]
    mesh_FP3 = BASIS.decode(motion(2, gap=np.array([shut, wide])), hopper.mesh_P3)
    frames = render(hopper, mesh_FP3).astype(float).mean(axis=-1)
    x, y = np.round(mesh_FP3[1, [13, 14], :2].mean(axis=0)).astype(int)
    skin = hopper.image_HW3[y + 18 : y + 24, x - 8 : x + 8].mean()
    assert frames[1][y - 1 : y + 2, x - 3 : x + 4].mean() < 0.6 * skin
    line = np.round(hopper.mesh_P3[[13, 14], :2].mean(axis=0)).astype(int)
    window = np.s_[line[1] - 3 : line[1] + 4, line[0] - 12 : line[0] + 12]
    assert frames[0][window].min() > hopper.image_HW3.mean(axis=-1)[window].min() - 12  # no new dark line


def test_eyes_shut_over_what_was_there(hopper):
    mesh_FP3 = BASIS.decode(motion(1, lid=[1.0]), hopper.mesh_P3)
    frame = render(hopper, mesh_FP3)[0]
    rim = hopper.mesh_P3[[*LEFT_LID_UPPER, *LEFT_LID_LOWER, *LEFT_EYE_CORNERS], :2]
    (x0, y0), (x1, y1) = rim.min(axis=0).astype(int), rim.max(axis=0).astype(int)
    assert np.abs(frame[y0:y1, x0:x1].astype(int) - hopper.image_HW3[y0:y1, x0:x1]).mean() > 8
    far = np.abs(frame.astype(int) - hopper.image_HW3)[int(hopper.mesh_P3[CHIN, 1]) - 20 :]
    assert far.max() <= 2  # nothing else moved


def test_a_smile_keeps_its_own_teeth_and_can_close(astronaut, hopper):
    assert paint_mouth(astronaut.image_HW3, astronaut.mesh_P3).photo_HW4 is not None
    assert paint_mouth(hopper.image_HW3, hopper.mesh_P3).photo_HW4 is None
    closed_FP3 = BASIS.decode(BASIS.rest_C[:, None], astronaut.mesh_P3)
    assert mouth_gap(closed_FP3)[0] < 0.02 < mouth_gap(astronaut.mesh_P3)


def test_a_mouth_that_leaves_the_picture_is_no_error(hopper):
    far_FP3 = hopper.mesh_P3[None] + np.float32([0, 400, 0])
    assert render(hopper, far_FP3).shape == (1, 256, 256, 3)


def test_grey_photos_get_a_grey_mouth(hopper):
    grey_HW3 = np.repeat(hopper.image_HW3.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    layers = paint_mouth(grey_HW3, hopper.mesh_P3)
    assert np.ptp(layers.cavity_3) < 1e-6
    assert np.ptp(layers.jaw_HW4[..., :3], axis=2).max() < 1e-5


def test_no_folds_at_rest_and_all_in_the_mirror(hopper):
    assert fold_share(hopper.mesh_P3[None], hopper) == 0.0
    mirrored = hopper.mesh_P3 * np.float32([-1, 1, 1])
    assert fold_share(mirrored[None], hopper) == 1.0
    assert fold_share(np.stack([hopper.mesh_P3, mirrored]), hopper) == pytest.approx(0.5)
    turned = Rotation.from_euler("z", 30, degrees=True).apply(hopper.mesh_P3)
    assert fold_share(turned[None], hopper) == 0.0


def test_triangle_maps_send_corners_to_corners():
    rng = np.random.default_rng(0)
    base = np.array([[0, 0], [10, 1], [2, 9]])
    target = base + rng.uniform(-1, 1, (50, 3, 2)) + rng.uniform(0, 200, (50, 1, 2))
    source = base + rng.uniform(-1, 1, (50, 3, 2)) + rng.uniform(0, 200, (50, 1, 2))
    maps = triangle_maps(target, source)
    mapped = np.einsum("nij,nkj->nki", maps[..., :2], target) + maps[:, None, :, 2]
    np.testing.assert_allclose(mapped, source, atol=1e-9)


def test_slivers_do_not_fling_pixels_away():
    target = np.array([[[0, 0], [10, 0], [5, 1e-4]], [[0, 0], [10, 0], [5, 0]]])
    source = np.array([[[0, 0], [10, 0], [5, 8.0]]] * 2)
    maps = triangle_maps(target, source)
    assert np.isfinite(maps).all()
    beside = np.einsum("nij,j->ni", maps[..., :2], [5.0, 2.0]) + maps[..., 2]
    assert np.linalg.norm(beside - source.mean(axis=1), axis=1).max() < 12


def test_anchors_stay_inside_and_the_border_is_fixed(hopper):
    anchors = place_anchors(hopper.mesh_P3.astype(float), (256, 256))
    assert (anchors.position_A2 >= 0).all() and (anchors.position_A2 <= 255).all()
    on_border = (anchors.position_A2 == 0).any(axis=1) | (anchors.position_A2 == 255).any(axis=1)
    assert on_border.sum() == 64 + 4 - 4
    assert (anchors.rigid_A[on_border] == 0).all() and (anchors.own_A[on_border] == 0).all()
    assert anchors.rigid_A.max() > 0.99


def test_hole_triangles_fill_what_the_skin_leaves_open(hopper):
    mesh = hopper.mesh_P3[:, :2]
    polygon = mesh[list(LIPS_INNER)]
    triangles = [t for t in hole_triangles() if t.max() < SKIN]
    filled = np.abs(signed_areas(polygon_mesh := mesh[None] * 1.0, np.array(triangles))).sum()
    x, y = polygon.T
    outline = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert filled == pytest.approx(
        outline, abs=0.2 * np.abs(signed_areas(polygon_mesh, face_triangles())).mean()
    )


def test_coverage_is_the_area():
    square = np.array([[2.0, 2.0], [6.5, 2.0], [6.5, 5.25], [2.0, 5.25]])
    matte = coverage(square, np.array([0, 0]), (10, 10))
    assert matte.sum() == pytest.approx(4.5 * 3.25, rel=0.15)
    assert matte[3:5, 3:6].min() == 1.0
    assert matte[0].max() == 0.0
