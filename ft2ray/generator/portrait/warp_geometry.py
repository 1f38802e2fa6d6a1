"""The triangles of the warp: what hangs together and what moves with what.

Vertices are numbered [468 skin points | 32 copies of the eye rims | A anchors around the face].

Shape suffixes: F frames, P mesh points, V vertices, N triangles, A anchors, O points of the face's oval,
2 xy, 3 xyz.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import Delaunay

from ft2ray.media.face import (
    FACE_OVAL,
    LEFT_EYE_CORNERS,
    LEFT_LID_LOWER,
    LEFT_LID_UPPER,
    LIPS_INNER_LOWER,
    LIPS_INNER_UPPER,
    RIGHT_EYE_CORNERS,
    RIGHT_LID_LOWER,
    RIGHT_LID_UPPER,
)

SKIN = 468  # mesh points without the irises
EYE_RIMS = np.array(
    [RIGHT_EYE_CORNERS[0], *RIGHT_LID_UPPER, RIGHT_EYE_CORNERS[1], *reversed(RIGHT_LID_LOWER)]
    + [LEFT_EYE_CORNERS[0], *LEFT_LID_UPPER, LEFT_EYE_CORNERS[1], *reversed(LEFT_LID_LOWER)]
)
"""Mesh points around each eye, 16 per eye. Their copies carry the eyes' content, which lids slide over."""

_RINGS = (1.08, 1.2, 1.4, 1.65, 2.0, 2.5)  # copies of the face's oval, blown up by so much
_BORDER_STEP = 16  # pixels between fixed points on the border
_STEEPEST = 4.0  # photo pixels per frame pixel


@dataclass(frozen=True)
class Anchors:
    """Points around the face that carry hair, ears, neck and background.

    position_A2: pixels of the photo. hangs_on_A: the mesh point on the face's oval that each belongs to.
    rigid_A: how far it follows the head's pose; own_A: how far it follows that point's own motion; both 0..1.
    """

    position_A2: np.ndarray
    hangs_on_A: np.ndarray
    rigid_A: np.ndarray
    own_A: np.ndarray


def place_anchors(neutral_P3: np.ndarray, shape: tuple[int, int]) -> Anchors:
    """Blown-up copies of the face's oval inside a picture of (height, width), then its fixed border."""
    height, width = shape
    oval_O = np.array(FACE_OVAL)
    centre_2 = neutral_P3[oval_O, :2].mean(axis=0)
    ray_O2 = neutral_P3[oval_O, :2] - centre_2
    room_O2 = np.where(ray_O2 > 0, [width - 1, height - 1] - centre_2, centre_2)
    border_O = (room_O2 / np.maximum(np.abs(ray_O2), 1e-6)).min(axis=1)  # blow-up factor at the border
    upward_O = -ray_O2[:, 1] / np.linalg.norm(ray_O2, axis=1)
    # hair sits on the skull and moves with it; the neck starts to lag right under the chin
    stiff_O = 1.0 + np.clip(0.3 + 0.5 * upward_O, 0.0, 0.6) * np.clip(border_O - 1.0, 0.0, 0.5)
    positions, hangs_on, rigid, own = [], [], [], []
    for factor in _RINGS:
        inside_O = factor < 0.97 * border_O
        positions.append((centre_2 + factor * ray_O2)[inside_O])
        hangs_on.append(oval_O[inside_O])
        rigid.append(1.0 - smoothstep(factor, stiff_O, border_O)[inside_O])
        own.append(1.0 - smoothstep(factor, 1.0, np.minimum(1.5, border_O))[inside_O])
    border_A2 = _border_points(height, width)
    positions.append(border_A2)
    hangs_on.append(np.full(len(border_A2), oval_O[0]))
    rigid.append(np.zeros(len(border_A2)))
    own.append(np.zeros(len(border_A2)))
    return Anchors(*(np.concatenate(parts) for parts in (positions, hangs_on, rigid, own)))


def _border_points(height: int, width: int) -> np.ndarray:
    xs = np.linspace(0, width - 1, width // _BORDER_STEP + 1)
    ys = np.linspace(0, height - 1, height // _BORDER_STEP + 1)[1:-1]
    rows = [(x, y) for x in xs for y in (0, height - 1)]
    columns = [(x, y) for y in ys for x in (0, width - 1)]
    return np.array(rows + columns, dtype=np.float64)


def outer_triangles(neutral_P3: np.ndarray, anchors: Anchors) -> np.ndarray:
    """Triangles [N, 3] between the face's oval, the anchors and the border."""
    oval_O = np.array(FACE_OVAL)
    points_V2 = np.concatenate([neutral_P3[oval_O, :2], anchors.position_A2])
    number_V = np.concatenate([oval_O, np.arange(len(anchors.position_A2)) + SKIN + len(EYE_RIMS)])
    triangles_N3 = Delaunay(points_V2).simplices
    contour = neutral_P3[oval_O, :2].astype(np.float32).reshape(-1, 1, 2)
    centres_N2 = points_V2[triangles_N3].mean(axis=1)
    outside_N = [cv2.pointPolygonTest(contour, (float(x), float(y)), False) < 0 for x, y in centres_N2]
    return number_V[triangles_N3[np.array(outside_N)]]


def hole_triangles() -> np.ndarray:
    """Triangles [N, 3] that fill the skin's holes: both eyes, on the copies of their rims, and the mouth."""
    triangles = _strip(LIPS_INNER_UPPER, LIPS_INNER_LOWER)
    for first in (SKIN, SKIN + 16):
        upper = range(first, first + 9)
        lower = [first, *range(first + 15, first + 7, -1)]
        triangles += _strip(upper, lower)
    return np.array(triangles)


def _strip(upper, lower) -> list[tuple[int, int, int]]:
    """Triangles between two rows of points that share their first and last point."""
    triangles = []
    for k in range(len(upper) - 1):
        if upper[k] != lower[k]:
            triangles.append((upper[k], upper[k + 1], lower[k]))
        if upper[k + 1] != lower[k + 1]:
            triangles.append((upper[k + 1], lower[k + 1], lower[k]))
    return triangles


def signed_areas(points_FV2: np.ndarray, triangles_N3: np.ndarray) -> np.ndarray:
    """Area [F, N] of each triangle in square pixels; its sign tells which side is up."""
    corner = points_FV2[:, triangles_N3].astype(np.float64)
    a, b = corner[:, :, 1] - corner[:, :, 0], corner[:, :, 2] - corner[:, :, 0]
    return (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]) / 2


def triangle_maps(target_N32: np.ndarray, source_N32: np.ndarray) -> np.ndarray:
    """Affine map [N, 2, 3] of each triangle from the frame to the photo.

    A triangle squeezed to a sliver would fling the pixels next to it far across the photo: its map is kept
    to the right centre and a bounded slope.
    """
    a, b = target_N32[:, 1] - target_N32[:, 0], target_N32[:, 2] - target_N32[:, 0]
    u, v = source_N32[:, 1] - source_N32[:, 0], source_N32[:, 2] - source_N32[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    safe = np.where(np.abs(area) > 1e-3, area, np.inf)
    inverse = np.stack([b[:, 1], -b[:, 0], -a[:, 1], a[:, 0]], axis=1).reshape(-1, 2, 2) / safe[:, None, None]
    linear = np.stack([u, v], axis=2) @ inverse
    slope_N = np.linalg.norm(linear, axis=(1, 2))
    linear *= np.minimum(1.0, _STEEPEST / np.maximum(slope_N, 1e-9))[:, None, None]
    offset = source_N32.mean(axis=1) - np.einsum("nij,nj->ni", linear, target_N32.mean(axis=1))
    return np.concatenate([linear, offset[..., None]], axis=2)


def smoothstep(value, low, high) -> np.ndarray:
    """0 below `low`, 1 above `high`, and a smooth S between them; arrays broadcast."""
    share = np.clip((value - low) / np.maximum(high - low, 1e-9), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)
