"""Reading and writing talking clips with their sound.

Shape suffixes: F frames, H height, W width, 3 rgb, T audio samples.
"""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ft2ray.errors import MediaError
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.source import local_media

FPS = 25
MAX_SECONDS = 60.0
MAX_SIDE = 768
"""Larger pictures are scaled down while decoding: 250 frames of 1920 x 1080 would take 1.5 GB."""


def read_video(
    path: str | Path, fps: float = FPS, max_seconds: float = MAX_SECONDS, max_side: int = MAX_SIDE
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read pictures and sound, the pictures moved to a constant frame rate.

    Args:
        path: any file (or its s3:// URL) that FFmpeg reads.
        fps: frame rate of the result; each output frame is the source frame shown at that moment.
        max_seconds: longer files are refused, because all frames are held in memory.
        max_side: the longer side of the result in pixels at most.

    Returns:
        frames_FHW3: uint8 RGB.
        wav_T: 16 kHz mono float32, or None for a silent film.

    Raises:
        MediaError: unreadable, no_video, too_long, or what `read_audio` raises.
    """
    path = local_media(path)
    if not path.is_file() or path.stat().st_size == 0:
        raise MediaError("unreadable", f"{path.name}: no such file, or it is empty; check the path.")
    try:
        with av.open(str(path)) as container:
            has_video, has_audio = bool(container.streams.video), bool(container.streams.audio)
            size = _scaled_size(container.streams.video[0], max_side) if has_video else (0, 0)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            "unreadable", f"{path.name} is not a readable video ({error}); export it again."
        ) from error
    if not has_video:
        raise MediaError("no_video", f"{path.name} has no pictures, only sound; give a video file.")
    try:
        frames_FHW3 = _decode_pictures(path, size, fps, max_seconds)
    except MediaError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            "unreadable",
            f"the pictures of {path.name} cannot be decoded ({error}); it is truncated. Export it again.",
        ) from error
    wav_T = read_audio(path, max_seconds=max_seconds + 1.0) if has_audio else None
    return frames_FHW3, wav_T


def _decode_pictures(path: Path, size: tuple[int, int], fps: float, max_seconds: float) -> np.ndarray:
    """Pictures at a constant rate: each output frame is the source frame that is shown at its middle.

    FFmpeg through PyAV, not decord: decord 0.6 loses the first 12 frames of MPEG-1 program streams (GRID).
    """
    shown: list[np.ndarray] = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        rate = float(stream.average_rate or fps)
        promised = stream.frames
        current, current_start, start, decoded = None, 0.0, 0.0, 0
        for frame in container.decode(stream):
            moment = frame.time if frame.time is not None else start + decoded / rate
            if current is None:
                start = moment
            if moment - start > max_seconds - 0.5 / rate:  # a single picture may be shown for hours
                raise MediaError(
                    "too_long", f"{path.name} is longer than the limit of {max_seconds:g} s; cut it."
                )
            if current is not None:
                _show_until(moment - start, current, shown, size, fps)
            current, current_start, decoded = frame, moment - start, decoded + 1
        if current is not None:
            _show_until(current_start + 1 / rate, current, shown, size, fps)
    if not shown or decoded < 0.9 * promised:
        raise MediaError(
            "unreadable",
            f"{path.name} promises {promised} pictures, holds {decoded}: it is truncated. Export it again.",
        )
    return np.stack(shown)


def _show_until(
    end: float, frame: av.VideoFrame, shown: list[np.ndarray], size: tuple[int, int], fps: float
) -> None:
    """Append the frame for each output interval whose middle lies before `end` seconds."""
    picture = None
    while (len(shown) + 0.5) / fps < end:
        if picture is None:
            picture = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
        shown.append(picture)


def _scaled_size(stream: av.VideoStream, max_side: int) -> tuple[int, int]:
    """Width and height to decode to, even."""
    if stream.codec_context is None:
        raise ValueError("unknown video codec")
    scale = min(1.0, max_side / max(stream.width, stream.height))
    return round(stream.width * scale / 2) * 2, round(stream.height * scale / 2) * 2


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
