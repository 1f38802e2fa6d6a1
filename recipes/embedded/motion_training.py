"""Fit the motion basis to talking clips.

    python -m recipes.embedded.motion_training CLIP... --out ft2ray/assets/motion_basis.safetensors

Shape suffixes: N frames of all clips, P mesh points, 3 xyz, K components, C channels.
"""

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ft2ray.generator.portrait.motion import POSE_CHANNELS, MotionBasis, fit_pose, lid_displacement
from ft2ray.media.face import (
    IRISES,
    LEFT_EYE_CORNERS,
    LEFT_LID_LOWER,
    LEFT_LID_UPPER,
    POINTS,
    RIGHT_EYE_CORNERS,
    RIGHT_LID_LOWER,
    RIGHT_LID_UPPER,
    RIGID,
    FaceMesher,
    eye_opening,
    face_height,
)
from ft2ray.media.video import read_video

MOUTH_COMPONENTS = 12
BROW_COMPONENTS = 5

_NOSE_MIDDLE, _NOSE_BASE, _BROW_BRIDGE = 195, 2, 168
_POSE_MIRROR = (1.0, -1.0, -1.0, -1.0, 1.0, 1.0)  # rotation vector, translation, log scale seen in a mirror


def fit_basis(
    clips: list[np.ndarray], mouth: int = MOUTH_COMPONENTS, brow: int = BROW_COMPONENTS
) -> dict[str, np.ndarray]:
    """Fit to tracked clips.

    Args:
        clips: mesh_FP3 of each clip, in pixels, no NaN.
        mouth, brow: numbers of components.

    Returns:
        Tensors of `MotionBasis`.
    """
    canonical_P3 = _canonical(clips)
    mirrored = mirror_points(canonical_P3)
    canonical_P3 = (canonical_P3 + _mirror(canonical_P3, mirrored)) / 2
    displaced_NP3 = np.concatenate([_displacements(clip, canonical_P3) for clip in clips])
    lower_P, upper_P = region_weights(canonical_P3)
    mouth_KP3, mouth_sign = _symmetric_pca(displaced_NP3 * lower_P[:, None], mirrored, mouth)
    brow_KP3, brow_sign = _symmetric_pca(displaced_NP3 * upper_P[:, None], mirrored, brow)
    channels = mouth + 1 + brow + POSE_CHANNELS
    tensors = {
        "canonical": canonical_P3,
        "mouth": mouth_KP3,
        "brow": brow_KP3,
        "mean": np.zeros(channels),
        "std": np.ones(channels),
        "mirror": np.concatenate([mouth_sign, [1.0], brow_sign, _POSE_MIRROR]),
    }
    unit = MotionBasis(tensors)
    x_CN = np.concatenate([unit.encode(clip) for clip in clips], axis=1)
    x_CN = np.concatenate([x_CN, unit.mirror(x_CN)], axis=1)
    tensors["mean"], tensors["std"] = x_CN.mean(axis=1), x_CN.std(axis=1)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}


def _canonical(clips: list[np.ndarray]) -> np.ndarray:
    """Mean frontal face: generalised Procrustes over all frames, levelled by its own left-right symmetry."""
    first_P3 = clips[0][0].astype(np.float64)
    mean_P3 = first_P3 - first_P3[list(RIGID)].mean(axis=0)
    for _ in range(3):
        mean_P3 = np.mean([fit_pose(clip, mean_P3).remove(clip).mean(axis=0) for clip in clips], axis=0)
        mean_P3 = _level(mean_P3) / float(face_height(mean_P3))
    return mean_P3


def _level(mesh_P3: np.ndarray) -> np.ndarray:
    """Turn a face so that x runs from eye to eye and y from the forehead down to the chin."""
    across_3 = mesh_P3[list(LEFT_EYE_CORNERS)].mean(axis=0) - mesh_P3[list(RIGHT_EYE_CORNERS)].mean(axis=0)
    x_3 = across_3 / np.linalg.norm(across_3)
    down_3 = mesh_P3[152] - mesh_P3[10]
    y_3 = down_3 - (down_3 @ x_3) * x_3
    y_3 /= np.linalg.norm(y_3)
    turned_P3 = mesh_P3 @ np.stack([x_3, y_3, np.cross(x_3, y_3)], axis=1)
    return turned_P3 - turned_P3[list(RIGID)].mean(axis=0)


def mirror_points(canonical_P3: np.ndarray) -> np.ndarray:
    """For each point the index of its mirror image, found on the frontal face."""
    middle = (canonical_P3[LEFT_EYE_CORNERS[0], 0] + canonical_P3[RIGHT_EYE_CORNERS[0], 0]) / 2
    flipped_P3 = (canonical_P3 - [middle, 0, 0]) * [-1, 1, 1] + [middle, 0, 0]
    distance_PP = np.linalg.norm(flipped_P3[:, None] - canonical_P3[None], axis=-1)
    nearest_P = distance_PP.argmin(axis=1)
    assert (nearest_P[nearest_P] == np.arange(POINTS)).all(), "the mean face is not symmetric enough"
    return nearest_P


def _mirror(values: np.ndarray, mirrored_P: np.ndarray) -> np.ndarray:
    return values[..., mirrored_P, :] * np.array([-1.0, 1.0, 1.0])


def _displacements(mesh_FP3: np.ndarray, canonical_P3: np.ndarray) -> np.ndarray:
    """What the muscles did: pose, own neutral face and lids taken off, canonical frame."""
    empty = np.zeros((0, POINTS, 3))
    channels = 1 + POSE_CHANNELS
    bare = MotionBasis(
        {"canonical": canonical_P3, "mouth": empty, "brow": empty, "mean": np.zeros(channels),
         "std": np.ones(channels), "mirror": np.ones(channels)}
    )  # fmt: skip
    neutral_P3 = bare.clip_neutral(mesh_FP3)
    own = fit_pose(neutral_P3[None], canonical_P3)
    level_P3 = own.remove(neutral_P3[None])[0]
    moved = fit_pose(mesh_FP3.astype(np.float64), neutral_P3)
    displaced_FP3 = own.remove(moved.remove(mesh_FP3) + own.centre_F3) - level_P3
    closure_F = 1.0 - eye_opening(mesh_FP3) / eye_opening(neutral_P3)
    return displaced_FP3 - lid_displacement(level_P3, closure_F)


def region_weights(canonical_P3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smooth weights [P] of the lower and the upper face.

    Bony points, lid rims, eye corners and irises belong to neither, so neither pose nor lids can leak
    into the components: `encode` inverts `decode` exactly.
    """
    height_P = canonical_P3[:, 1]
    lower_P = _smoothstep(height_P, height_P[_NOSE_MIDDLE], height_P[_NOSE_BASE])
    upper_P = 1.0 - _smoothstep(height_P, height_P[_BROW_BRIDGE], height_P[_NOSE_MIDDLE])
    eyes = RIGHT_LID_UPPER + RIGHT_LID_LOWER + LEFT_LID_UPPER + LEFT_LID_LOWER
    fixed = [*RIGID, *eyes, *RIGHT_EYE_CORNERS, *LEFT_EYE_CORNERS, *IRISES]
    lower_P[fixed] = upper_P[fixed] = 0.0
    return lower_P, upper_P


def _smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    share = np.clip((value - low) / (high - low), 0.0, 1.0)
    return share * share * (3.0 - 2.0 * share)


def _symmetric_pca(
    values_NP3: np.ndarray, mirrored_P: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of a set and its mirror image; each is even or odd under mirroring.

    Returns:
        components_KP3 of unit length, by falling variance, and their sign_K under mirroring.
    """
    found = []
    for sign in (1.0, -1.0):
        part_ND = ((values_NP3 + sign * _mirror(values_NP3, mirrored_P)) / 2).reshape(len(values_NP3), -1)
        centred_ND = part_ND - part_ND.mean(axis=0)
        _, singular, components = np.linalg.svd(centred_ND, full_matrices=False)
        found += [(s, sign, c) for s, c in zip(singular[:count], components[:count], strict=True)]
    found.sort(key=lambda item: -item[0])
    total = sum(s**2 for s, _, _ in found)
    kept = found[:count]
    print(f"{count} components hold {sum(s**2 for s, _, _ in kept) / total:.1%} of those looked at")
    components_KP3 = np.stack([c for _, _, c in kept]).reshape(count, POINTS, 3)
    return components_KP3, np.array([sign for _, sign, _ in kept])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path, help="talking clips, one face each")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    mesher = FaceMesher()
    clips = [mesher.track(read_video(path)[0]) for path in arguments.clips]
    tensors = fit_basis(clips)
    names = ", ".join(path.name for path in arguments.clips)
    save_file(tensors, arguments.out, metadata={"clips": names})
    print(f"{arguments.out}: {len(tensors['mean'])} channels from {sum(map(len, clips))} frames of {names}")


if __name__ == "__main__":
    main()
