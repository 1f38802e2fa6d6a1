"""Reading and writing talking clips with their sound.

Shape suffixes: F frames, H height, W width, 3 rgb, T audio samples.
"""

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.containers import decoding, opened, require_content
from ft2ray.media.film import decode_pictures
from ft2ray.media.packets import main_track
from ft2ray.media.source import local_media

FPS = 25
MAX_SECONDS = 60.0
MAX_SIDE = 768
"""Larger pictures are scaled down while decoding: 250 frames of 1920 x 1080 would take 1.5 GB."""


def read_video(
    path: str | Path, fps: float = FPS, max_seconds: float = MAX_SECONDS, max_side: int = MAX_SIDE
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read pictures and sound as they are played, the pictures moved to a constant frame rate.

    Args:
        path: a file (or its s3:// URL) in one of the formats of `ft2ray.media.containers`.
        fps: frame rate of the result; each output frame is the source frame shown at that moment.
        max_seconds: longer files are refused, because all frames are held in memory.
        max_side: the longer side of the result in pixels at most.

    Returns:
        frames_FHW3: uint8 RGB, upright, of square pixels.
        wav_T: 16 kHz mono float32 from the first picture on, or None for a silent film.

    Raises:
        MediaError: what `decode_pictures` and `read_audio` raise.
    """
    path = local_media(path)
    require_content(path)
    with decoding(path.name, "a video"):
        frames_FHW3, start = decode_pictures(path, fps, max_seconds, max_side)
        with opened(path, "a video") as container:
            silent = main_track(container, "audio") is None
    if silent:
        return frames_FHW3, None
    return frames_FHW3, read_audio(path, max_seconds + 1.0, origin=start)


def write_video(path: str | Path, frames_FHW3: np.ndarray, fps: float, wav_T: np.ndarray | None) -> Path:
    """Write an mp4 (H.264 + AAC) that browsers play; complete or absent, never half-written.

    Args:
        path: where the finished file goes (".mp4").
        frames_FHW3: uint8 RGB, even height and width.
        fps: frame rate.
        wav_T: 16 kHz mono sound track, cut or padded with silence to the pictures' length; None for none.

    Returns:
        The path written.
    """
    if (
        frames_FHW3.dtype != np.uint8
        or frames_FHW3.ndim != 4
        or frames_FHW3.shape[-1] != 3
        or not len(frames_FHW3)
    ):
        raise ValueError(f"frames must be uint8 [F, H, W, 3], got {frames_FHW3.dtype} {frames_FHW3.shape}.")
    if frames_FHW3.shape[1] % 2 or frames_FHW3.shape[2] % 2:
        raise ValueError(
            f"H.264 needs an even height and width, got {frames_FHW3.shape[1:3]}; crop one pixel."
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            video.height, video.width = frames_FHW3.shape[1:3]
            video.pix_fmt = "yuv420p"
            video.options = {"crf": "17", "preset": "veryfast", "threads": "1"}
            audio = None
            if wav_T is not None:
                audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
                audio.bit_rate = 96_000
            for frame_HW3 in frames_FHW3:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HW3), format="rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
            if audio is not None and wav_T is not None:
                _mux_sound(container, audio, _fit(wav_T, round(len(frames_FHW3) / fps * SAMPLE_RATE)))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def poster(path: str | Path) -> bytes:
    """The first picture of a clip of ours as JPEG, to stand there until the clip plays."""
    with av.open(str(path)) as container:
        image = next(container.decode(video=0)).to_image()
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return data.getvalue()


def _fit(wav_T: np.ndarray, samples: int) -> np.ndarray:
    fitted_T = np.zeros(samples, np.float32)
    fitted_T[: min(samples, wav_T.size)] = wav_T[:samples]
    return fitted_T


def _mux_sound(container: av.container.OutputContainer, stream: av.AudioStream, wav_T: np.ndarray) -> None:
    frame = av.AudioFrame.from_ndarray(wav_T.reshape(1, -1), format="fltp", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    frame.pts = 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
