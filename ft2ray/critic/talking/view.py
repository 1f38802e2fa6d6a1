"""What the critic sees and hears of a clip: small arrays, made once, cheap to send.

A clip is cut into windows of three seconds. In each window the video is a composite picture
at 25 frames a second: the whole face in a box that stands still (so that head motion stays
visible) above the mouth in a box that glides with the head (so that lips stay readable). Blur,
noise and torn pixels vanish in thumbnails, so two still crops at a fixed resolution go along: the
moments when the mouth is widest open and when the head is farthest from its usual place.

Colours would cost a small network most of its training: the three channels of its pictures carry
what it needs instead. Of the video: grey, difference from the clip's median picture, size of the
change since the frame before. Of the stills: grey, amount of finest and of fine detail around each
pixel, in octaves. Grey contrast is made equal.

The motion of the tracked face and Whisper's features of the speech go along as they are, at 25 numbers a
second, for the motion head: thumbnails hold too little of both.

Shapes: W windows, F frames, H W 3 pixels, K stills, M mel bins, J mel frames, P mesh points,
C motion channels, D speech features, T audio samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from ft2ray.critic.processor import SAMPLE_RATE, ProcessorConfig, log_mel
from ft2ray.critic.viewer import Viewer, probe_clip
from ft2ray.errors import MediaError
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.media.face import CHIN, FOREHEAD_TOP, FaceMesher, face_height, mouth_gap
from ft2ray.media.speech import TOKENS_PER_FRAME, encode_speech, speech_tokens
from ft2ray.media.video import FPS

WINDOW_FRAMES = 75
SHORTEST_FRAMES = 25
FACE_PIXELS, MOUTH_SIZE = 56, (56, 28)
STILL_PIXELS = 112
LOUDNESS, MOST_GAIN = 0.05, 20.0  # root mean square of the sound that the critic hears
TRACK_EVERY = 2  # frames between two face detections; the detector is the most expensive part of a view

# Box sizes in face heights (forehead to chin).
FACE_BOX, MOUTH_BOX = 1.3, 0.6
STILL_BOX = 0.875  # 112 of the 128 pixels that a face is high in a 256-pixel clip: no resampling there
_LIP_CORNERS, _NOSE_BASE = (61, 291), 2
_GLIDE_FRAMES = 9
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_CONTRAST, _OFF_MEDIAN, _OFF_LAST = 45.0, 60.0, 120.0  # grey levels for one spread of the picture
_FINEST, _FINE = 250.0, 100.0


@dataclass(frozen=True, eq=False)
class ClipView:
    """One clip as the critic takes it.

    video_WFHW3: uint8 [W, F, 84, 56, 3], face above mouth; grey, off the median, change.
    stills_WKHW3: uint8 [W, 2, 112, 112, 3]; grey, amount of finest and of fine detail.
    mel_WMJ: float32 log-mel of each window's sound.
    motion_WCF: float32, the tracked face in the motion basis. speech_WDF: float32, Whisper's features.
    """

    video_WFHW3: np.ndarray
    stills_WKHW3: np.ndarray
    mel_WMJ: np.ndarray
    motion_WCF: np.ndarray
    speech_WDF: np.ndarray

    @property
    def frames(self) -> int:
        """What the clip costs to score, in pictures."""
        return self.video_WFHW3.shape[0] * self.video_WFHW3.shape[1]

    def part(self, windows: slice) -> ClipView:
        """Only these windows of the clip."""
        return ClipView(
            self.video_WFHW3[windows],
            self.stills_WKHW3[windows],
            self.mel_WMJ[windows],
            self.motion_WCF[windows],
            self.speech_WDF[windows],
        )


class TalkingViewer(Viewer):
    """Makes a `ClipView` of a talking clip."""

    def view(
        self, frames_FHW3: np.ndarray, wav_T: np.ndarray | None, fps: float, mesher: FaceMesher
    ) -> ClipView:
        """Make the view; other rates than 25 are moved to 25, and a sound that is shorter ends in silence.

        Raises:
            MediaError: for a clip without sound, shorter than a second, or where a face is found in
                less than half of the frames looked at.
        """
        if wav_T is None or len(wav_T) == 0:
            raise MediaError(
                "no_sound", "the clip has no sound, so lip-sync cannot be judged; mux its speech in first."
            )
        frames_FHW3 = at_view_rate(frames_FHW3, fps)
        if len(frames_FHW3) < SHORTEST_FRAMES:
            raise MediaError(
                "too_short",
                f"the clip lasts {len(frames_FHW3) / FPS:.2f} s; the critic needs at least "
                f"{SHORTEST_FRAMES / FPS:.0f} s to judge motion and lip-sync.",
            )
        tracked_FP3 = mesher.track(frames_FHW3[::TRACK_EVERY])
        return view_from_meshes(frames_FHW3, fill_gaps(tracked_FP3, len(frames_FHW3)), wav_T)

    def probe(self) -> ClipView:
        return view_from_meshes(*probe_clip())  # its meshes are known: a critic needs no face detector


def at_view_rate(frames_FHW3: np.ndarray, fps: float) -> np.ndarray:
    """Frames at 25 a second: the nearest source frame of each moment."""
    if fps == FPS:
        return frames_FHW3
    count = round(len(frames_FHW3) / fps * FPS)
    nearest = np.round(np.arange(count) * fps / FPS).astype(int)
    return frames_FHW3[np.minimum(nearest, len(frames_FHW3) - 1)]


def fill_gaps(tracked_NP3: np.ndarray, frames: int) -> np.ndarray:
    """Every TRACK_EVERY-th mesh, some NaN -> one mesh for every frame, interpolated in time.

    Raises:
        MediaError: if more than half of the meshes are missing.
    """
    found = np.isfinite(tracked_NP3).all(axis=(1, 2))
    if found.mean() < 0.5:
        raise MediaError(
            "no_face",
            f"a face was found in {found.sum()} of {len(found)} frames looked at; "
            "the critic needs one face that stays visible.",
        )
    known = np.flatnonzero(found)
    position = np.clip(np.arange(frames) / TRACK_EVERY, known[0], known[-1])
    upper = np.clip(np.searchsorted(known, position, side="right"), 1, max(len(known) - 1, 1))
    left, right = known[upper - 1], known[np.minimum(upper, len(known) - 1)]
    share = ((position - left) / np.maximum(right - left, 1))[:, None, None].astype(np.float32)
    return tracked_NP3[left] * (1 - share) + tracked_NP3[right] * share


def view_from_meshes(frames_FHW3: np.ndarray, mesh_FP3: np.ndarray, wav_T: np.ndarray) -> ClipView:
    """The view of a 25-fps clip whose meshes are known for every frame."""
    samples = round(len(frames_FHW3) / FPS * SAMPLE_RATE)
    wav_T = np.pad(wav_T[:samples].astype(np.float32), (0, max(0, samples - len(wav_T))))
    speech_FD = speech_features(wav_T)[: len(frames_FHW3)]
    wav_T = at_loudness(wav_T)
    videos, stills, mels, motions, speech = [], [], [], [], []
    for start, stop in window_bounds(len(frames_FHW3)):
        frames, meshes = frames_FHW3[start:stop], mesh_FP3[start:stop]
        videos.append(coded_video(composite(frames, meshes)))
        stills.append(coded_stills(still_crops(frames, meshes)))
        sound = wav_T[start * SAMPLE_RATE // FPS : stop * SAMPLE_RATE // FPS]
        mels.append(log_mel(sound, ProcessorConfig()))
        motions.append(_basis().encode(meshes))
        speech.append(speech_FD[start:stop].T)
    return ClipView(np.stack(videos), np.stack(stills), np.stack(mels), np.stack(motions), np.stack(speech))


def speech_features(wav_T: np.ndarray) -> np.ndarray:
    """Whisper's features of a sound at the rate of the pictures, [F, D]."""
    token_LD = speech_tokens(wav_T, encode_speech)
    return token_LD.reshape(-1, TOKENS_PER_FRAME, token_LD.shape[1]).mean(axis=1)


@cache
def _basis() -> MotionBasis:
    return MotionBasis.load()


def at_loudness(wav_T: np.ndarray) -> np.ndarray:
    """The sound at the loudness that the critic hears everything at; near silence stays quiet."""
    return wav_T * np.float32(LOUDNESS / max(float(np.sqrt(np.mean(wav_T**2))), LOUDNESS / MOST_GAIN))


def window_bounds(frames: int) -> list[tuple[int, int]]:
    """Windows of three seconds that cover a clip, evenly overlapping; a shorter clip is one window."""
    if frames <= WINDOW_FRAMES:
        return [(0, frames)]
    count = -(-frames // WINDOW_FRAMES)
    starts = np.round(np.linspace(0, frames - WINDOW_FRAMES, count)).astype(int)
    return [(int(start), int(start) + WINDOW_FRAMES) for start in starts]


def composite(frames_FHW3: np.ndarray, mesh_FP3: np.ndarray) -> np.ndarray:
    """Face box at rest above the gliding mouth box: uint8 [F, 84, 56, 3]."""
    height = float(np.median(face_height(mesh_FP3)))
    middle = np.median(mesh_FP3[:, [FOREHEAD_TOP, CHIN], :2].mean(axis=1), axis=0)
    mouth_F2 = mesh_FP3[:, [*_LIP_CORNERS, _NOSE_BASE], :2].mean(axis=1)
    kernel = np.ones(_GLIDE_FRAMES) / _GLIDE_FRAMES
    edge = _GLIDE_FRAMES // 2
    padded = np.pad(mouth_F2, ((edge, edge), (0, 0)), mode="edge")
    mouth_F2 = np.stack([np.convolve(padded[:, axis], kernel, mode="valid") for axis in (0, 1)], axis=1)
    mouth_F2[:, 1] += 0.06 * height  # from between nose and lips down to the lips

    out = np.empty((len(frames_FHW3), FACE_PIXELS + MOUTH_SIZE[1], FACE_PIXELS, 3), dtype=np.uint8)
    for index, frame in enumerate(frames_FHW3):
        out[index, :FACE_PIXELS] = crop(frame, middle, FACE_BOX * height, (FACE_PIXELS, FACE_PIXELS))
        out[index, FACE_PIXELS:] = crop(frame, mouth_F2[index], MOUTH_BOX * height, MOUTH_SIZE)
    return out


def still_crops(frames_FHW3: np.ndarray, mesh_FP3: np.ndarray) -> np.ndarray:
    """Crops at full resolution where the mouth is widest and where the head is farthest off."""
    height = float(np.median(face_height(mesh_FP3)))
    middle_F2 = mesh_FP3[:, [FOREHEAD_TOP, CHIN], :2].mean(axis=1)
    away = np.linalg.norm(mesh_FP3 - np.median(mesh_FP3, axis=0), axis=-1).mean(axis=-1)
    moments = (int(np.argmax(mouth_gap(mesh_FP3))), int(np.argmax(away)))
    # A low face is enlarged: its lack of detail is then what the critic should see.
    size = (STILL_PIXELS, STILL_PIXELS)
    return np.stack([crop(frames_FHW3[n], middle_F2[n], STILL_BOX * height, size) for n in moments])


def coded_video(composite_FHW3: np.ndarray) -> np.ndarray:
    """Grey, difference from the median picture, size of the change; face and mouth each on its own."""
    grey_FHW = composite_FHW3 @ _GREY
    out = np.empty(composite_FHW3.shape, np.uint8)
    for part in (slice(0, FACE_PIXELS), slice(FACE_PIXELS, None)):
        region = grey_FHW[:, part]
        spread = float(region.std()) + 1.0
        last = np.diff(region, axis=0, prepend=region[:1])
        off_median = region - np.median(region, axis=0)
        channels = (
            (region - region.mean()) * (_CONTRAST / spread),
            off_median * (_OFF_MEDIAN / spread),
            np.abs(last) * (_OFF_LAST / spread) - 128.0,
        )
        out[:, part] = np.clip(np.stack(channels, axis=-1) + 128.0, 0, 255)
    return out


def coded_stills(stills_KHW3: np.ndarray) -> np.ndarray:
    """Grey, and how much a blur of one and of three pixels takes away around each pixel."""
    out = np.empty(stills_KHW3.shape, np.uint8)
    for index, grey in enumerate(stills_KHW3 @ _GREY):
        spread = float(grey.std()) + 1.0
        channels = (
            (grey - grey.mean()) * (_CONTRAST / spread),
            _octaves((grey - cv2.GaussianBlur(grey, (0, 0), 1.0)) * (_FINEST / spread)),
            _octaves((grey - cv2.GaussianBlur(grey, (0, 0), 3.0)) * (_FINE / spread)),
        )
        out[index] = np.clip(np.stack(channels, axis=-1) + 128.0, 0, 255)
    return out


def _octaves(detail_HW: np.ndarray) -> np.ndarray:
    """Mean size of the detail around each pixel on a logarithmic scale, 25 levels for a doubling."""
    size = cv2.GaussianBlur(np.minimum(np.abs(detail_HW), 127.0), (0, 0), 2.0)
    return 25.0 * (np.log2(size + 0.5) - 3.0)


def crop(frame_HW3: np.ndarray, middle_2: np.ndarray, width: float, size: tuple[int, int]) -> np.ndarray:
    """Cut a box `width` pixels wide around `middle_2` and scale it to `size` (width, height).

    The scale is area-averaged when shrinking; beyond the picture the border is repeated.
    """
    columns, rows = size
    half_w, half_h = width / 2, width * rows / columns / 2
    left, top = int(np.floor(middle_2[0] - half_w)), int(np.floor(middle_2[1] - half_h))
    right, bottom = int(np.ceil(middle_2[0] + half_w)), int(np.ceil(middle_2[1] + half_h))
    height, full = frame_HW3.shape[:2]
    inside = frame_HW3[
        np.clip(top, 0, height - 1) : np.clip(bottom, 1, height),
        np.clip(left, 0, full - 1) : np.clip(right, 1, full),
    ]
    over = (max(0, -top), max(0, bottom - height), max(0, -left), max(0, right - full))
    if any(over):
        inside = cv2.copyMakeBorder(inside, *over, borderType=cv2.BORDER_REPLICATE)
    shrinking = inside.shape[1] > columns
    return cv2.resize(inside, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)
