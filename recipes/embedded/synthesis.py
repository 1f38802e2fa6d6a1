"""Training clips with labels by construction.

A clip begins as a natural motion in sync with its speech, on a drawn face. Then, independently
for each question, it is left good or given a graded fault; what one fault does to another
question is either known (then it is labelled) or left out (NaN, not trained on).

Shapes: C motion channels, F frames, H W 3 pixels, G target channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ft2ray.critic.talking.view import WINDOW_FRAMES, ClipView, view_from_meshes
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.portrait.warp import render
from ft2ray.media.face import face_height
from ft2ray.media.portrait import Portrait
from recipes.embedded.faults import MOTION_FAULTS, PICTURE_FAULTS, SHAPE_FAULTS, h264
from recipes.embedded.motion_sources import MotionSource, Recording

LIP_CHANNELS = 4  # the first mouth components, which speech moves most
NAN = float("nan")
Look = Callable[[np.ndarray], ClipView]


@dataclass(frozen=True)
class Mix:
    """How often a clip gets which fault; every question ends near half yes, half no."""

    real_lips: float = 0.3
    motion_fault: float = 0.5
    picture_fault: float = 0.5
    shape_share: float = 0.35  # of the picture faults
    lip_fault: float = 0.16
    overdriven: float = 0.06
    recompressed: float = 0.25  # of clips without picture fault: good quality, but coded once


@dataclass(frozen=True, eq=False)
class SyntheticClip:
    """One rendered window.

    video_FHW3, stills_KHW3: as in `ClipView`, without the window axis.
    target_FG: motion channels to regress (lips, lids, pose).
    labels: 1 good, 0 bad, NaN not judged; `lips` is whether the lips fit the recording at `start`.
    fault: names of what was done, for tables of accuracy.
    """

    video_FHW3: np.ndarray
    stills_KHW3: np.ndarray
    target_FG: np.ndarray
    mn: float
    vq: float
    lips: float
    recording: str
    start: int
    fault: str


# Heads move several times as far as the seated speakers whose spread is 1; so that lips count as well:
TARGET_SCALE = np.array([1.0] * LIP_CHANNELS + [2.0] + [5.0] * 6, dtype=np.float32)
TARGET_LIMIT = 3.0


def target_channels(basis: MotionBasis) -> np.ndarray:
    """Channels that the auxiliary losses regress: lips first, then lids and pose."""
    return np.r_[np.arange(LIP_CHANNELS), basis.lid, np.arange(basis.pose.start, basis.pose.stop)]


def targets(x_CF: np.ndarray, basis: MotionBasis) -> np.ndarray:
    """What the auxiliary losses regress: scaled, limited channels, target_FG float32."""
    scaled = x_CF[target_channels(basis)].T / TARGET_SCALE
    return np.clip(scaled, -TARGET_LIMIT, TARGET_LIMIT).astype(np.float32)


def synthesise(
    source: MotionSource, face: Portrait, rng: np.random.Generator, mix: Mix = Mix(), look: Look | None = None
) -> SyntheticClip:
    """Draw one clip on `face`; see `corrupt_and_render`."""
    x_CF, recording, start = source.draw(rng, WINDOW_FRAMES, real=rng.random() < mix.real_lips)
    return corrupt_and_render(source, face, x_CF, recording, start, rng, mix, look)


def corrupt_and_render(
    source: MotionSource,
    face: Portrait,
    x_CF: np.ndarray,
    recording: Recording,
    start: int,
    rng: np.random.Generator,
    mix: Mix = Mix(),
    look: Look | None = None,
    labels: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> SyntheticClip:
    """Give a motion its faults and labels, render it and look at it.

    Args:
        look: makes the view from the rendered frames; without it the known meshes place the boxes,
            which spares the face detector.
        labels: mn, lips, vq of the motion as it is given.
    """
    basis, faults = source.basis, []
    mn, lips, vq = labels
    if rng.random() < mix.lip_fault:
        x_CF, name = spoil_lips(x_CF, source, rng)
        faults.append(name)
        lips, mn = 0.0, NAN
    elif rng.random() < mix.overdriven:
        x_CF = x_CF.copy()
        x_CF[basis.mouth] *= rng.uniform(2.6, 4.5)
        faults.append("overdriven")
        lips, mn, vq = NAN, 0.0, 0.0
    if rng.random() < mix.motion_fault:
        name = str(rng.choice(list(MOTION_FAULTS)))
        x_CF = MOTION_FAULTS[name](x_CF, basis, rng, float(rng.random()))
        faults.append(name)
        mn = 0.0
    mesh_FP3 = basis.decode(x_CF.astype(np.float32), face.mesh_P3)

    picture = None
    if rng.random() < mix.picture_fault:
        vq = 0.0
        if rng.random() < mix.shape_share:
            name = str(rng.choice(list(SHAPE_FAULTS)))
            mesh_FP3 = SHAPE_FAULTS[name](mesh_FP3, rng, float(rng.random()))
            mn = NAN if mn == 1.0 else mn
        else:
            name = picture = str(rng.choice(list(PICTURE_FAULTS)))
        faults.append(name)
    frames = render(face, mesh_FP3)
    if picture is not None:
        frames = PICTURE_FAULTS[picture](frames, rng, float(rng.random()))
    elif vq != 0.0 and rng.random() < mix.recompressed:
        frames = h264(frames, crf=int(rng.integers(16, 27)))

    if look is None:
        view = view_from_meshes(frames, _as_if_tracked(mesh_FP3, rng), np.ones(1, np.float32))
    else:
        view = look(frames)
    return SyntheticClip(
        video_FHW3=view.video_WFHW3[0],
        stills_KHW3=view.stills_WKHW3[0],
        target_FG=targets(x_CF, basis),
        mn=mn,
        vq=vq,
        lips=lips,
        recording=recording.name,
        start=start,
        fault="+".join(faults) or "none",
    )


def spoil_lips(x_CF: np.ndarray, source: MotionSource, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Lips that do not fit: frozen, nearly still, or those of other words."""
    x_CF, mouth = x_CF.copy(), source.basis.mouth
    name = str(rng.choice(["frozen", "damped", "other_words"]))
    if name == "frozen":
        x_CF[mouth] = x_CF[mouth][:, rng.integers(x_CF.shape[1])][:, None]
    elif name == "damped":
        mean = x_CF[mouth].mean(axis=1, keepdims=True)
        x_CF[mouth] = mean + rng.uniform(0.02, 0.2) * (x_CF[mouth] - mean)
    else:
        other, _, _ = source.draw(rng, x_CF.shape[1], real=rng.random() < 0.3)
        x_CF[mouth] = rng.uniform(0.0, 0.25) * x_CF[mouth] + 0.9 * other[mouth]
    return x_CF, name


def _as_if_tracked(mesh_FP3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The known mesh, placed as inexactly as a detector places it (the boxes then vary as well)."""
    height = float(np.median(face_height(mesh_FP3)))
    middle = mesh_FP3.mean(axis=(0, 1), keepdims=True)
    moved = middle + (mesh_FP3 - middle) * rng.uniform(0.93, 1.07)
    moved[..., :2] += rng.normal(0, 0.015, 2) * height
    return moved
