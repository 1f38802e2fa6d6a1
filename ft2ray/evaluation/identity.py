"""Is it still the same person? dlib's face descriptor (CC0), 128 numbers per face.

The network's own documentation calls two faces the same person when their descriptors lie less than 0.6 apart
(99.4 % right on LFW). That distance is the scale here: 1 = the portrait itself, 0 = as far as a stranger. The
cosine of the same descriptors is near 0.85 between strangers, so a raw cosine would flatter.

Shape suffixes: H height, W width, 3 rgb or xyz, P mesh points, D descriptor (128).
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import dlib
import numpy as np

from ft2ray.extras import extra

SAME_PERSON = 0.6
_CHIP_SIZE, _CHIP_PADDING = 150, 0.25


@cache
def _models() -> tuple[dlib.shape_predictor, dlib.face_recognition_model_v1]:
    # read by path: importing face_recognition_models needs pkg_resources, which new setuptools lack
    spec = importlib.util.find_spec("face_recognition_models")
    with extra("eval"):
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(name="face_recognition_models")
        folder = Path(spec.submodule_search_locations[0]) / "models"
    return (
        dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat")),
        dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat")),
    )


def descriptor(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray:
    """Descriptor of the face that the mesh lies on, [D] float64."""
    landmarks, network = _models()
    left, top = mesh_P3[:, :2].min(axis=0)
    right, bottom = mesh_P3[:, :2].max(axis=0)
    box = dlib.rectangle(int(left), int(top), int(right), int(bottom))
    image_HW3 = np.ascontiguousarray(image_HW3)
    chip = dlib.get_face_chip(image_HW3, landmarks(image_HW3, box), size=_CHIP_SIZE, padding=_CHIP_PADDING)
    return np.array(network.compute_face_descriptor(chip))


def identity(a_D: np.ndarray, b_D: np.ndarray) -> tuple[float, float]:
    """How alike two descriptors are: (1 - distance / 0.6, cosine)."""
    distance = float(np.linalg.norm(a_D - b_D))
    cosine = float(a_D @ b_D / (np.linalg.norm(a_D) * np.linalg.norm(b_D)))
    return 1.0 - distance / SAME_PERSON, cosine
