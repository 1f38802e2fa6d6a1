"""Graded faults of motion and picture: how the critic's negative examples are made.

Each fault takes a strength from 0 (just to be called bad) to 1 (gross). Faults of motion act on
whitened motion channels, faults of shape on the mesh, faults of the picture on rendered frames.

Shapes: C motion channels, F frames, P mesh points, H W 3 pixels or xyz.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import face_height

MotionFault = Callable[[np.ndarray, MotionBasis, np.random.Generator, float], np.ndarray]
PictureFault = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def lifeless(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A talking mask: the head stands (almost) still and the eyes never blink."""
    x_CF = x_CF.copy()
    rest = slice(basis.upper.start, None)
    mean = x_CF[rest].mean(axis=1, keepdims=True)
    scale = x_CF[basis.pose].std(axis=1).mean()
    kept = min(1.0, 0.35 / max(scale, 1e-6)) * (1 - strength)
    x_CF[rest] = mean + kept * (x_CF[rest] - mean)
    x_CF[basis.lid] = np.clip(basis.rest_C[basis.lid], None, x_CF[basis.lid].min())
    return x_CF


def jitter(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A trembling head: white noise on the pose, sometimes on everything, sometimes in bursts."""
    x_CF = x_CF.copy()
    frames = x_CF.shape[1]
    noise = rng.standard_normal(x_CF.shape)
    noise[: basis.upper.stop] *= 0.5 * (rng.random() < 0.5)
    envelope = np.ones(frames)
    if rng.random() < 0.3:
        envelope = (gaussian_filter1d(rng.standard_normal(frames), 5.0) > 0).astype(float)
    noise *= envelope
    noise[basis.upper] *= 0.4
    return x_CF + (1.2 + 4.0 * strength) * noise


def stepped(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Robotic: the head holds a pose for some frames, then jumps to the next."""
    x_CF, hold = x_CF.copy(), int(round(5 + 9 * strength))
    index = np.arange(x_CF.shape[1]) // hold * hold
    head = slice(basis.upper.start, None)
    x_CF[head] = x_CF[head][:, index]
    return _at_least(x_CF, basis, 1.5)


def mechanical(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Robotic: the head swings along straight lines or like a pendulum, without blinks."""
    x_CF, frames = x_CF.copy(), x_CF.shape[1]
    amplitude = rng.uniform(1.5, 5.0, (6, 1)) * rng.choice([-1.0, 1.0], (6, 1)) * (rng.random((6, 1)) < 0.6)
    amplitude[rng.integers(5)] = 4.0 + 4.0 * strength
    phase = np.arange(frames) / rng.uniform(10, 26) + rng.random()
    swing = np.sin(2 * np.pi * phase) if rng.random() < 0.4 else 4 * np.abs(phase % 1 - 0.5) - 1
    x_CF[basis.pose] = amplitude * swing
    x_CF[basis.lid] = basis.rest_C[basis.lid]
    return x_CF


def frantic(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float) -> np.ndarray:
    """The head moves several times too fast."""
    x_CF, frames = x_CF.copy(), x_CF.shape[1]
    position = np.arange(frames) * (3.0 + 3.0 * strength)
    last = frames - 1
    position = last - np.abs(position % (2 * last) - last)
    head = slice(basis.upper.start, None)
    x_CF[head] = x_CF[head][:, np.round(position).astype(int)]
    return _at_least(x_CF, basis, 2.5)


def exaggerated(
    x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float
) -> np.ndarray:
    """The head is thrown about: far and fast at the same time."""
    x_CF = x_CF.copy()
    pose = x_CF[basis.pose]
    moved = np.abs(np.diff(pose, axis=1)).mean(axis=1, keepdims=True)
    x_CF[basis.pose] = pose * np.clip((3.0 + 4.0 * strength) / np.maximum(moved, 0.05), 1.0, 12.0)
    return x_CF


def jump(x_CF: np.ndarray, basis: MotionBasis, rng: np.random.Generator, strength: float) -> np.ndarray:
    """The head is suddenly somewhere else, once or twice, as after a bad cut."""
    x_CF = x_CF.copy()
    for _ in range(rng.integers(1, 3)):
        at = int(rng.integers(8, x_CF.shape[1] - 8))
        offset = rng.standard_normal((6, 1))
        x_CF[basis.pose, at:] += offset / np.linalg.norm(offset) * (14.0 + 16.0 * strength)
    return x_CF


def _at_least(x_CF: np.ndarray, basis: MotionBasis, spread: float) -> np.ndarray:
    """Enlarge head motion to a least spread, below which a fault of timing could not be seen."""
    pose = x_CF[basis.pose]
    mean = pose.mean(axis=1, keepdims=True)
    x_CF[basis.pose] = mean + (pose - mean) * max(1.0, spread / max(float(pose.std(axis=1).mean()), 1e-6))
    return x_CF


MOTION_FAULTS: dict[str, MotionFault] = {
    "lifeless": lifeless,
    "jitter": jitter,
    "stepped": stepped,
    "mechanical": mechanical,
    "frantic": frantic,
    "exaggerated": exaggerated,
    "jump": jump,
}


def crumple(mesh_FP3: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Points of the mesh out of place: the picture folds and tears where it is warped.

    One displacement for the whole clip, of all points or of a region, growing and shrinking with time.
    """
    points = mesh_FP3.shape[1]
    height = float(np.median(face_height(mesh_FP3)))
    shift = rng.standard_normal((points, 2))
    if rng.random() < 0.6:
        centre = mesh_FP3[0, rng.integers(points), :2]
        distance = np.linalg.norm(mesh_FP3[0, :, :2] - centre, axis=1) / height
        shift *= np.exp(-((distance / rng.uniform(0.2, 0.5)) ** 2))[:, None] * 1.6
    envelope = 0.75 + 0.25 * np.sin(
        2 * np.pi * (np.arange(len(mesh_FP3)) / rng.uniform(15, 80) + rng.random())
    )
    out = mesh_FP3.copy()
    out[..., :2] += (0.013 + 0.022 * strength) * height * envelope[:, None, None] * shift
    return out


def melt(mesh_FP3: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A part of the face pulled out of shape in one piece: a stretched jaw, a dented cheek."""
    height = float(np.median(face_height(mesh_FP3)))
    still = mesh_FP3[0, :, :2]
    out = mesh_FP3.copy()
    for _ in range(rng.integers(1, 4)):
        centre = still[rng.integers(len(still))]
        weight = np.exp(-((np.linalg.norm(still - centre, axis=1) / (rng.uniform(0.08, 0.2) * height)) ** 2))
        angle = rng.uniform(0, 2 * np.pi)
        pull = np.array([np.cos(angle), np.sin(angle)]) * (0.16 + 0.14 * strength) * height
        swing = 0.7 + 0.3 * np.sin(2 * np.pi * (np.arange(len(out)) / rng.uniform(10, 60) + rng.random()))
        out[..., :2] += swing[:, None, None] * weight[None, :, None] * pull
    return out


SHAPE_FAULTS: dict[str, PictureFault] = {"crumple": crumple, "melt": melt}


def blur(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Out of focus: a Gaussian, in 256-pixel clips 1.5 to 4 pixels wide."""
    sigma = (1.5 + 2.5 * strength) * frames.shape[1] / 256
    return np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in frames])


def noise(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Grain: new white noise in each frame, grey or coloured."""
    spread = 12.0 + 28.0 * strength
    channels = 3 if rng.random() < 0.5 else 1
    out = np.empty_like(frames)
    for index, frame in enumerate(frames):
        grain = rng.standard_normal((*frame.shape[:2], channels), dtype=np.float32) * spread
        out[index] = np.clip(frame + grain, 0, 255)
    return out


def blocks(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Too few bytes for the picture: every frame really goes through JPEG."""
    quality = int(round(14 - 11 * strength))
    coded = (cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for frame in frames)
    return np.stack([np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)) for data in coded])


def starved(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Too few bytes for the film: the clip really goes through H.264."""
    return h264(frames, crf=int(round(38 + 10 * strength)))


def small(frames: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Upsampled from a much smaller picture."""
    side = int(round(frames.shape[1] / (3.0 + 3.0 * strength)))
    back = cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST
    full = (frames.shape[2], frames.shape[1])
    return np.stack(
        [
            cv2.resize(cv2.resize(f, (side, side), interpolation=cv2.INTER_AREA), full, interpolation=back)
            for f in frames
        ]
    )


PICTURE_FAULTS: dict[str, PictureFault] = {
    "blur": blur,
    "noise": noise,
    "blocks": blocks,
    "starved": starved,
    "small": small,
}


def h264(frames: np.ndarray, crf: int) -> np.ndarray:
    """Encode and decode a clip in memory; frames keep their number and size."""
    store = io.BytesIO()
    with av.open(store, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    store.seek(0)
    with av.open(store, "r") as coded:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in coded.decode(video=0)])
