"""The face mesh: 478 points per face from mediapipe's attention mesh, and the names of its parts.

Shape suffixes: F frames, H height, W width, P mesh points (478), 3 rgb or xyz.
"left" and "right" are the person's own.
"""

import itertools
import os
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

os.environ.setdefault("GLOG_minloglevel", "2")  # read once, when mediapipe's library is loaded

import numpy as np  # noqa: E402
from mediapipe.python.solutions import face_mesh  # noqa: E402

warnings.filterwarnings(
    "ignore", message="SymbolDatabase.GetPrototype"
)  # protobuf about mediapipe, on every call

POINTS = 478

# Lips from the person's right corner to the left; upper and lower lists pair up point by point.
LIPS_OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LIPS_OUTER_LOWER = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
LIPS_INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIPS_INNER_LOWER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
LIPS_OUTER = LIPS_OUTER_UPPER + LIPS_OUTER_LOWER[-2:0:-1]
LIPS_INNER = LIPS_INNER_UPPER + LIPS_INNER_LOWER[-2:0:-1]

# Lid rims from corner to corner, again in pairs (the shared corners 33/133 and 263/362 are left out).
RIGHT_LID_UPPER = (246, 161, 160, 159, 158, 157, 173)
RIGHT_LID_LOWER = (7, 163, 144, 145, 153, 154, 155)
LEFT_LID_UPPER = (466, 388, 387, 386, 385, 384, 398)
LEFT_LID_LOWER = (249, 390, 373, 374, 380, 381, 382)
RIGHT_EYE_CORNERS = (33, 133)
LEFT_EYE_CORNERS = (263, 362)
# The skin row above and below the rims, pairing with them.
RIGHT_LID_UPPER_SKIN = (247, 30, 29, 27, 28, 56, 190)
RIGHT_LID_LOWER_SKIN = (25, 110, 24, 23, 22, 26, 112)
LEFT_LID_UPPER_SKIN = (467, 260, 259, 257, 258, 286, 414)
LEFT_LID_LOWER_SKIN = (255, 339, 254, 253, 252, 256, 341)
IRISES = tuple(range(468, 478))

FACE_OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
             152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
FOREHEAD_TOP, NOSE_BASE, CHIN = 10, 2, 152
# Bone, not muscle: bridge of the nose, eye corners, temples, upper forehead.
RIGID = (168, 6, 197, 195, 33, 133, 263, 362, 10, 109, 338, 67, 297, 103, 332, 54, 284, 127, 356, 162, 389)

_NOISE = re.compile(
    rb"^(INFO: Created TensorFlow Lite XNNPACK delegate"
    rb"|WARNING: All log messages before absl::InitializeLog"
    rb"|[WI]\d{4} .*inference_feedback_manager)"
)


def face_triangles() -> np.ndarray:
    """The mesh's 852 triangles [852, 3], holes at the mouth and the eyes, from mediapipe's edge list.

    A cycle of three edges is a face of the mesh, except two cycles at the nostrils that enclose others:
    every edge of those already has a triangle on both sides.
    """
    edges = {tuple(sorted(edge)) for edge in face_mesh.FACEMESH_TESSELATION}
    neighbours: dict[int, set[int]] = {}
    for a, b in edges:
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)
    cycles = sorted({tuple(sorted((a, b, c))) for a, b in edges for c in neighbours[a] & neighbours[b]})
    uses = Counter(edge for cycle in cycles for edge in itertools.combinations(cycle, 2))
    return np.array(
        [c for c in cycles if any(uses[e] <= 2 for e in itertools.combinations(c, 2))], dtype=np.int64
    )


def face_height(mesh: np.ndarray) -> np.ndarray:
    """Distance from the top of the forehead to the chin in pixels; mesh [..., P, 3] -> [...]."""
    return np.linalg.norm(mesh[..., FOREHEAD_TOP, :] - mesh[..., CHIN, :], axis=-1)


def mouth_gap(mesh: np.ndarray) -> np.ndarray:
    """Opening between the inner lips as a share of the face height; mesh [..., P, 3] -> [...]."""
    middle = slice(3, 8)  # the five middle pairs: steadier than one
    upper = mesh[..., LIPS_INNER_UPPER[middle], :]
    lower = mesh[..., LIPS_INNER_LOWER[middle], :]
    return np.linalg.norm(upper - lower, axis=-1).mean(axis=-1) / face_height(mesh)


def eye_opening(mesh: np.ndarray) -> np.ndarray:
    """Opening of the lids as a share of the eye's width, mean of both eyes; mesh [..., P, 3] -> [...]."""
    shares = []
    for upper, lower, corners in (
        (RIGHT_LID_UPPER, RIGHT_LID_LOWER, RIGHT_EYE_CORNERS),
        (LEFT_LID_UPPER, LEFT_LID_LOWER, LEFT_EYE_CORNERS),
    ):
        height = np.linalg.norm(mesh[..., upper[2:5], :] - mesh[..., lower[2:5], :], axis=-1).mean(axis=-1)
        width = np.linalg.norm(mesh[..., corners[0], :] - mesh[..., corners[1], :], axis=-1)
        shares.append(height / width)
    return (shares[0] + shares[1]) / 2


class FaceMesher:
    """mediapipe's face mesh. Build one per process; equal frames give the same meshes, bitwise."""

    def __init__(self) -> None:
        with _without_known_noise():
            self._static = face_mesh.FaceMesh(static_image_mode=True, max_num_faces=3, refine_landmarks=True)
            self._video = face_mesh.FaceMesh(static_image_mode=False, max_num_faces=1, refine_landmarks=True)
            for mesher in (
                self._static,
                self._video,
            ):  # the first picture loads the networks, which announce it
                self._process(mesher, np.zeros((64, 64, 3), np.uint8))

    def meshes(self, image_HW3: np.ndarray) -> list[np.ndarray]:
        """All faces of one picture (three at most), each mesh_P3 float32 in pixels, the largest first."""
        return sorted(
            self._process(self._static, image_HW3), key=lambda mesh_P3: -float(face_height(mesh_P3))
        )

    def track(self, frames_FHW3: np.ndarray) -> np.ndarray:
        """One face through a clip: mesh_FP3 float32 in pixels, NaN in frames where it was not found."""
        mesh_FP3 = np.full((len(frames_FHW3), POINTS, 3), np.nan, np.float32)
        for index, frame_HW3 in enumerate(frames_FHW3):
            if index == 0:  # forget the clip before: the result depends on these frames only
                with _without_known_noise():
                    self._video.reset()
                    found = self._process(self._video, frame_HW3)
            else:
                found = self._process(self._video, frame_HW3)
            if found:
                mesh_FP3[index] = found[0]
        return mesh_FP3

    @staticmethod
    def _process(mesher: face_mesh.FaceMesh, image_HW3: np.ndarray) -> list[np.ndarray]:
        height, width = image_HW3.shape[:2]
        scale_3 = np.array([width, height, width], np.float32)
        faces = mesher.process(np.ascontiguousarray(image_HW3)).multi_face_landmarks or []
        return [np.array([(p.x, p.y, p.z) for p in face.landmark], np.float32) * scale_3 for face in faces]


@contextmanager
def _without_known_noise() -> Iterator[None]:
    """Hold back what native code writes to stderr, then pass all of it on but lines known to mean nothing.

    mediapipe's C++ side writes to the file descriptor, so Python's own redirection does not reach it.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not _NOISE.match(line):
                    os.write(2, line)
