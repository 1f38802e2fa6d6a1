"""Faces that nobody has, for the package: python -m recipes.embedded.package_portraits MEDIA OUT.

Portraits of known people never enter the package as themselves. Three of one group (studies/make_split.py:
sex and cheek tone as the manifest states them) are brought to the geometry that they have in common. Inside
of the face their pixels are averaged, with the fine structure of two of them; hair and clothes are the
first's; background, light and colours are new. A blend counts only if its face descriptor lies at least
LEAST_DISTANCE from each of its people (`ft2ray.evaluation.identity`). OUT gets the JPEGs and blends.json: who
is in them, and how far away. Which of them look like photographs is for eyes to say: package_portraits.json
names those in the package.

Shape suffixes: H height, W width, 3 rgb or xyz, P mesh points, N portraits or pixels, D descriptor.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation
from PIL import Image

from ft2ray.evaluation.identity import descriptor
from ft2ray.evaluation.motion import pose_normalise
from ft2ray.generator.portrait.warp import render
from ft2ray.media.face import FACE_OVAL, FaceMesher, face_height, mouth_gap
from ft2ray.media.portrait import MAX_MOUTH_GAP, Portrait, load_portrait
from studies.make_split import files_of, group

SIZE = 320
PEOPLE = 3
LEAST_DISTANCE = 0.5
"""Of face descriptors (two photos of one person lie mostly below 0.4)."""
DETAIL = 1.3
"""Fine structure is the mean of two people's, which halves part of it."""
BACKGROUNDS = ((214, 208, 198), (188, 196, 190), (150, 158, 168), (120, 112, 104), (228, 226, 222),
               (98, 106, 112), (196, 178, 158), (170, 184, 200))  # fmt: skip


def common_mesh(portraits: Sequence[Portrait]) -> np.ndarray:
    """The mean of the meshes, all held as the first one is."""
    still_NP3, _ = pose_normalise(np.stack([portraits[0].mesh_P3, *(p.mesh_P3 for p in portraits)]))
    return still_NP3[1:].mean(axis=0).astype(np.float32)


def blend(portraits: Sequence[Portrait]) -> np.ndarray:
    """One picture of several people: hair and clothes of the first, skin of the others, the face of all."""
    mesh_P3 = common_mesh(portraits)
    warped = [render(portrait, mesh_P3[None])[0].astype(np.float32) for portrait in portraits]
    oval = mesh_P3[list(FACE_OVAL), :2]
    mask_HW = np.zeros(warped[0].shape[:2], np.float32)
    centre_2 = oval.mean(axis=0)
    cv2.fillConvexPoly(mask_HW, (centre_2 + 0.93 * (oval - centre_2)).astype(np.int32), 1.0)
    inside_HW = mask_HW > 0
    evened = [_in_colours_of(warped[0], other, inside_HW) for other in warped]
    smooth = [cv2.GaussianBlur(face, (0, 0), 1.5) for face in evened]
    detail = [face - low for face, low in zip(evened[1:], smooth[1:], strict=True)]
    face_HW3 = np.mean(smooth, axis=0) + DETAIL * np.mean(detail, axis=0)
    soft_HW1 = cv2.GaussianBlur(mask_HW, (0, 0), 0.045 * float(face_height(mesh_P3)))[..., None]
    return np.clip(warped[0] + soft_HW1 * (face_HW3 - warped[0]), 0, 255).astype(np.uint8)


def _in_colours_of(target_HW3: np.ndarray, image_HW3: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    """The image with the target's mean and spread of every colour inside of a mask."""
    ours_N3, theirs_N3 = target_HW3[inside_HW], image_HW3[inside_HW]
    scale_3 = np.clip(ours_N3.std(axis=0) / np.maximum(theirs_N3.std(axis=0), 1.0), 0.7, 1.4)
    return (image_HW3 - theirs_N3.mean(axis=0)) * scale_3 + ours_N3.mean(axis=0)


def restage(image_HW3: np.ndarray, cutter: SelfieSegmentation, rng: np.random.Generator) -> np.ndarray:
    """Another background, light and film for the same person."""
    share_HW = cutter.process(image_HW3).segmentation_mask
    share_HW1 = np.clip((cv2.GaussianBlur(share_HW, (0, 0), 1.2) - 0.35) / 0.4, 0, 1)[..., None]
    size = len(image_HW3)
    y_HW, x_HW = np.mgrid[:size, :size] / size - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    slope_HW1 = (np.cos(turn) * x_HW + np.sin(turn) * y_HW)[..., None]
    colour_3 = np.array(BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))], np.float32)
    behind_HW3 = colour_3 * (1 + 0.35 * slope_HW1) + rng.normal(0, 1.5, image_HW3.shape)
    person_HW3 = 255 * (image_HW3 / 255.0) ** np.exp(rng.normal(0, 0.12)) * rng.uniform(0.96, 1.04, 3)
    person_HW3 = person_HW3 * (1 + rng.uniform(0, 0.25) * slope_HW1)
    return np.clip(share_HW1 * person_HW3 + (1 - share_HW1) * behind_HW3, 0, 255).astype(np.uint8)


def read_groups(media: Path, mesher: FaceMesher) -> dict[str, list[tuple[str, Portrait]]]:
    """Group -> (person, portrait) of the package's people."""
    with (media / "manifest.csv").open(newline="") as lines:
        notes = {row["file"]: row["note"] for row in csv.DictReader(lines)}
    found = defaultdict(list)
    for file, person in sorted(files_of("package", "test", kind="portraits").items()):
        found[group(notes[file])].append((person, load_portrait(media / file, SIZE, mesher)))
    return found


def draw(
    people: Sequence[Portrait], mesher: FaceMesher, cutter: SelfieSegmentation, rng: np.random.Generator
) -> tuple[np.ndarray, list[float]] | None:
    """The first order of these people whose blend is far enough from each, with its distances."""
    for order in permutations(people):
        image_HW3 = restage(blend(order), cutter, rng)
        faces = mesher.meshes(image_HW3)
        if len(faces) == 1 and mouth_gap(faces[0]) <= MAX_MOUTH_GAP:
            own_D = descriptor(image_HW3, faces[0])
            far = [float(np.linalg.norm(own_D - descriptor(p.image_HW3, p.mesh_P3))) for p in people]
            if min(far) >= LEAST_DISTANCE:
                return image_HW3, far
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("media", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    mesher, rng, made = FaceMesher(), np.random.default_rng(12), {}
    with SelfieSegmentation(model_selection=0) as cutter:
        for name, members in sorted(read_groups(arguments.media, mesher).items()):
            for n in range(len(members) // PEOPLE):
                chosen = [members[i] for i in rng.permutation(len(members))[:PEOPLE]]
                members = [member for member in members if member not in chosen]
                found = draw([portrait for _, portrait in chosen], mesher, cutter, rng)
                if found is not None:
                    file = f"{name.lower()}-{n}.jpg"
                    made[file] = {
                        person: round(d, 3) for (person, _), d in zip(chosen, found[1], strict=True)
                    }
                    Image.fromarray(found[0]).save(arguments.out / file, quality=92)
    (arguments.out / "blends.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
