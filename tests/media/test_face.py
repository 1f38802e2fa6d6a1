import itertools
from collections import Counter

import numpy as np
import pytest

from ft2ray.media import face
from ft2ray.media.face import FaceMesher, eye_opening, face_height, face_triangles, mouth_gap


def test_triangles_cover_the_face_once_with_holes_at_eyes_and_mouth():
    triangles_N3 = face_triangles()
    assert triangles_N3.shape == (852, 3)
    uses = Counter(e for t in triangles_N3.tolist() for e in itertools.combinations(sorted(t), 2))
    assert max(uses.values()) == 2
    rim = {edge for edge, count in uses.items() if count == 1}
    assert len(rim) == 36 + 20 + 16 + 16
    for loop in (face.FACE_OVAL, face.LIPS_INNER):
        assert all(tuple(sorted(pair)) in rim for pair in zip(loop, loop[1:] + loop[:1], strict=True))


def test_one_face_is_found_where_it_is(hopper, mesher):
    (mesh_P3,) = mesher.meshes(hopper.image_HW3)
    assert mesh_P3.shape == (478, 3) and mesh_P3.dtype == np.float32
    assert 100 < face_height(mesh_P3) < 160
    eyes_y = mesh_P3[list(face.RIGHT_EYE_CORNERS + face.LEFT_EYE_CORNERS), 1].mean()
    lips_y = mesh_P3[list(face.LIPS_OUTER), 1].mean()
    assert mesh_P3[face.FOREHEAD_TOP, 1] < eyes_y < lips_y < mesh_P3[face.CHIN, 1]
    assert mesh_P3[face.RIGHT_EYE_CORNERS[0], 0] < mesh_P3[face.LEFT_EYE_CORNERS[0], 0]


def test_openings_do_not_depend_on_place_and_scale(hopper):
    moved = hopper.mesh_P3 * 3.0 + np.float32([10, -20, 5])
    assert mouth_gap(moved) == pytest.approx(mouth_gap(hopper.mesh_P3), rel=1e-3)
    assert eye_opening(moved) == pytest.approx(eye_opening(hopper.mesh_P3), rel=1e-3)


def test_gap_grows_with_the_lower_lip(hopper):
    opened = hopper.mesh_P3.copy()
    opened[list(face.LIPS_INNER_LOWER[1:-1]), 1] += 0.1 * face_height(opened)
    assert mouth_gap(opened) == pytest.approx(mouth_gap(hopper.mesh_P3) + 0.1, abs=0.01)


def test_same_frames_give_the_same_meshes_whatever_was_tracked_before(hopper, astronaut, mesher):
    shifts = (0, 2, 4, 5)
    frames = np.stack([np.roll(hopper.image_HW3, shift, axis=1) for shift in shifts])
    first = mesher.track(frames)
    mesher.track(np.stack([astronaut.image_HW3] * 2))
    np.testing.assert_array_equal(mesher.track(frames), first)
    assert np.isfinite(first).all()
    np.testing.assert_allclose(first[:, 1, 0] - first[0, 1, 0], shifts, atol=1.5)


def test_a_frame_without_a_face_is_nan(hopper, mesher):
    mesh_FP3 = mesher.track(np.stack([hopper.image_HW3, np.zeros_like(hopper.image_HW3)]))
    assert np.isfinite(mesh_FP3[0]).all()
    assert np.isnan(mesh_FP3[1]).all()
    assert mesher.meshes(np.zeros((64, 64, 3), np.uint8)) == []


def test_native_chatter_is_held_back_but_nothing_else(capfd, hopper):
    FaceMesher().track(hopper.image_HW3[None])
    assert capfd.readouterr().err == ""
    with face._without_known_noise():
        import os

        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nE0000 something broke\n")
    assert capfd.readouterr().err == "E0000 something broke\n"
