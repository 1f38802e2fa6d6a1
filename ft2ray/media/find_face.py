"""Finding the one face of a picture, upright.

Shape suffixes: H height, W width, 3 rgb or xyz, P mesh points.
"""

from __future__ import annotations

import logging
from functools import cache

import dlib
import numpy as np
from PIL import Image

from ft2ray.errors import MediaError
from ft2ray.media.face import CHIN, FOREHEAD_TOP, FaceMesher, face_height

log = logging.getLogger(__name__)

MIN_FACE_PIXELS = 64
CROP_FACES = 2.0
"""Side of the square crop in face heights: room for hair and neck."""

_SECOND_FACE = 0.4  # a face smaller than this share of the largest is somebody in the background
_SEARCH_SIDE = 1024
_TILE_FACES = 2.5  # side of a tile, in heights of the found face, in which one of 0.4 of it is not overlooked
_MOST_PARTS = 4
_CLEARLY_UPRIGHT = 1.0  # score of dlib's detector
_CLEARLY_BETTER = 0.5  # upright faces score 0.7 to 3 more than the same upside down, on 90 portraits
_CHECK_SIDE = 256


def only_face(image_HW3: np.ndarray, mesher: FaceMesher, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The picture, turned by a multiple of 90 degrees if its face is not upright, and the face's mesh.

    Messengers strip the note that says how a phone was held, so portraits lie on their side.

    Returns:
        image_HW3, mesh_P3 in pixels of it.

    Raises:
        MediaError: no_face, two_faces or face_too_small.
    """
    turns = 0  # by 90 degrees, against the clock
    faces = _faces(image_HW3, mesher)
    while not faces and turns < 3:
        turns += 1
        faces = _faces(np.rot90(image_HW3, turns), mesher)
    if not faces:
        raise MediaError(
            "no_face",
            f"no face was found in {name}; use a frontal portrait in which the face fills a good part.",
        )
    needed = (turns + _turns_to_upright(np.rot90(image_HW3, turns), faces[0])) % 4
    if needed != turns:
        turned = _faces(np.rot90(image_HW3, needed), mesher)
        turns, faces = (needed, turned) if turned else (turns, faces)
    if turns:
        log.warning("%s lies on its side or upside down; turned by %d degrees", name, 90 * turns)
    image_HW3 = np.ascontiguousarray(np.rot90(image_HW3, turns))
    height = float(face_height(faces[0]))
    if len(faces) > 1 and float(face_height(faces[1])) > _SECOND_FACE * height:
        raise _two_faces(name)
    if height < MIN_FACE_PIXELS:
        raise MediaError(
            "face_too_small",
            f"the face in {name} is {height:.0f} pixels high, at least {MIN_FACE_PIXELS} are needed; "
            "use a larger picture or crop it tighter before scaling down.",
        )
    if _has_company(image_HW3, faces[0], mesher):
        raise _two_faces(name)
    return image_HW3, faces[0]


def _two_faces(name: str) -> MediaError:
    return MediaError("two_faces", f"{name} shows more than one face; crop it to the person who is to speak.")


def _faces(image_HW3: np.ndarray, mesher: FaceMesher) -> list[np.ndarray]:
    """Meshes of the faces, largest first, from the first search that finds any."""
    faces = _search(image_HW3, mesher, parts=1) or _search_with_margin(image_HW3, mesher)
    for parts in (2, _MOST_PARTS):  # the detector overlooks faces below a tenth of what it is shown
        faces = faces or _search(image_HW3, mesher, parts)
    return faces


def _turns_to_upright(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> int:
    """Turns by 90 degrees against the clock after which the face is upright.

    The mesh tells a face on its side; one upside down gets a mesh that seems upright. dlib's detector knows
    upright frontal faces only, and its score tells these two.
    """
    right, down = mesh_P3[CHIN, :2] - mesh_P3[FOREHEAD_TOP, :2]
    turns = round(float(np.degrees(np.arctan2(right, down))) / 90) % 4  # a chin on the right: 90 degrees
    turns = -turns % 4
    shown_HW3 = np.rot90(resize(crop_head(image_HW3, mesh_P3), _CHECK_SIDE), turns)
    score = upright_score(shown_HW3)
    if score < _CLEARLY_UPRIGHT and upright_score(np.rot90(shown_HW3, 2)) > score + _CLEARLY_BETTER:
        turns += 2
    return turns % 4


@cache
def _detector() -> dlib.fhog_object_detector:
    return dlib.get_frontal_face_detector()


def upright_score(image_HW3: np.ndarray) -> float:
    """How well a crop of a head looks like an upright frontal face: above 0 it does, -1 at least."""
    _, scores, _ = _detector().run(np.ascontiguousarray(image_HW3), 1, -1.0)
    return max(scores, default=-1.0)


def _has_company(image_HW3: np.ndarray, mesh_P3: np.ndarray, mesher: FaceMesher) -> bool:
    """Whether a closer look finds a second face that the first look, content with one, passed over."""
    height = float(face_height(mesh_P3))
    parts = min(max(round(max(image_HW3.shape[:2]) / (_TILE_FACES * height)), 1), _MOST_PARTS)
    for found_P3 in _search(image_HW3, mesher, parts) if parts > 1 else []:
        large = float(face_height(found_P3)) > _SECOND_FACE * height
        if large and not _same_place(found_P3, mesh_P3):
            crop_HW3 = resize(crop_head(image_HW3, found_P3), _CHECK_SIDE)
            if upright_score(crop_HW3) > 0:
                return True
    return False


def _search_with_margin(image_HW3: np.ndarray, mesher: FaceMesher) -> list[np.ndarray]:
    """Meshes of faces that fill the whole picture: the detector wants to see some room around them."""
    shrink = min(1.0, _SEARCH_SIDE / max(image_HW3.shape[:2]))
    small_HW3 = image_HW3 if shrink == 1.0 else _resize_by(image_HW3, shrink)
    margin = max(small_HW3.shape[:2]) // 3
    padded_HW3 = np.pad(small_HW3, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return [
        (mesh_P3 - np.array([margin, margin, 0], np.float32)) / np.float32(shrink)
        for mesh_P3 in _search(padded_HW3, mesher, parts=1)
    ]


def _search(image_HW3: np.ndarray, mesher: FaceMesher, parts: int) -> list[np.ndarray]:
    """Meshes of all faces, largest first, looked for in overlapping tiles of 1 / `parts` of the picture."""
    height, width = image_HW3.shape[:2]
    tile_h, tile_w = -(-height // parts), -(-width // parts)
    found: list[np.ndarray] = []
    for top in np.linspace(0, height - tile_h, 2 * parts - 1).astype(int):
        for left in np.linspace(0, width - tile_w, 2 * parts - 1).astype(int):
            tile_HW3 = image_HW3[top : top + tile_h, left : left + tile_w]
            shrink = min(1.0, _SEARCH_SIDE / max(tile_h, tile_w))
            shown_HW3 = tile_HW3 if shrink == 1.0 else _resize_by(tile_HW3, shrink)
            corner_3 = np.array([left, top, 0], np.float32)
            found += [mesh_P3 / np.float32(shrink) + corner_3 for mesh_P3 in mesher.meshes(shown_HW3)]
    found.sort(key=lambda mesh_P3: -float(face_height(mesh_P3)))
    distinct: list[np.ndarray] = []
    for mesh_P3 in found:  # tiles overlap, and an eye can look like a face: a face inside a face is none
        if not any(_same_place(mesh_P3, other) for other in distinct):
            distinct.append(mesh_P3)
    return distinct


def _same_place(mesh_P3: np.ndarray, other_P3: np.ndarray) -> bool:
    centre_2 = mesh_P3[:, :2].mean(axis=0)
    return bool(
        (other_P3[:, :2].min(axis=0) < centre_2).all() and (centre_2 < other_P3[:, :2].max(axis=0)).all()
    )


def crop_head(image_HW3: np.ndarray, mesh_P3: np.ndarray) -> np.ndarray:
    """A square around the head; inside the picture where it fits, else the picture's edge is repeated."""
    height, width = image_HW3.shape[:2]
    low, high = mesh_P3[:, :2].min(axis=0), mesh_P3[:, :2].max(axis=0)
    face = float((high - low).max())
    side = max(min(CROP_FACES * face, height, width), 1.25 * face)
    centre_x, centre_y = (low + high) / 2
    centre_y -= 0.08 * face  # hair needs more room above the mesh than the neck below it
    left, top = _place(centre_x, side, width), _place(centre_y, side, height)
    side_px = round(side)
    cut_HW3 = image_HW3[max(top, 0) : max(top, 0) + side_px + min(top, 0), max(left, 0) : left + side_px]
    before = max(-top, 0), max(-left, 0)
    after = [side_px - cut - pad for cut, pad in zip(cut_HW3.shape[:2], before, strict=True)]
    return np.pad(cut_HW3, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode="edge")


def _place(centre: float, side: float, length: int) -> int:
    start = round(centre - side / 2)
    return min(max(start, 0), length - round(side)) if round(side) <= length else start


def resize(image_HW3: np.ndarray, size: int) -> np.ndarray:
    """To `size` x `size` pixels."""
    return np.array(Image.fromarray(image_HW3).resize((size, size), Image.Resampling.LANCZOS))


def _resize_by(image_HW3: np.ndarray, factor: float) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    new = (max(round(width * factor), 1), max(round(height * factor), 1))
    return np.array(Image.fromarray(np.ascontiguousarray(image_HW3)).resize(new, Image.Resampling.BOX))
