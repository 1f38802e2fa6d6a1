"""What TensorBoard shows of a run: curves, the gate at every published policy, the clips of the report.

    tensorboard --logdir RUN_DIR/tensorboard

Event files grow by appending, which S3 does not know. For a run on S3 they grow on this machine, and `keep`
copies them whole. (TensorBoard can write to S3 too, but there an outage of the store ends the training.)

Shapes: S timesteps, N layers, K experts, F frames, H W pixels, 3 rgb.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from ft2ray.media.video import FPS, read_video
from ft2ray.scratch import scratch_folder
from ft2ray.storage import delete, join, list_files, local_path, upload

CELL = 24  # pixels of one layer at one timestep
CLIP_PIXELS = 128
COLOURS = 64  # of an animation; dithered ones take several times the space
SHOWN = 2  # one frame of so many is shown: GIF counts hundredths of a second, browsers slow down below two
MORE, LESS = np.array([178, 70, 20]), np.array([20, 90, 160])  # full colours: above and below the average


class Board:
    """Events of one attempt; `keep` puts what was written so far into the run folder."""

    def __init__(self, writer: SummaryWriter, copy_to: str | None):
        self._writer, self._copy_to = writer, copy_to

    def curves(self, points: Iterable[Mapping[str, Any]]) -> None:
        """Points of training curves, {"step", "name", metric: value, ...}."""
        for point in points:
            for metric, value in point.items():
                if metric not in ("step", "name"):
                    self._writer.add_scalar(f"{point['name']}/{metric}", value, point["step"])

    def gate(self, weights_SNK: np.ndarray, experts: Sequence[str], step: int) -> None:
        """One heat map per expert: noise left, layers from top to bottom, white is the uniform average."""
        for k, picture_HW3 in enumerate(heat_maps(weights_SNK)):
            self._writer.add_image(f"gate/{experts[k]}", picture_HW3, step, dataformats="HWC")
        self._writer.add_histogram("gate/weights", weights_SNK, step)

    def clip(self, name: str, file: Path, step: int) -> None:
        """A silent moving picture of a video file."""
        gif, width, height = animation(read_video(file, max_side=CLIP_PIXELS)[0])
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        assert self._writer.file_writer is not None, "it is there until the writer is closed"
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def keep(self) -> None:
        self._writer.flush()
        if self._copy_to is not None:
            for file in list_files(self._writer.log_dir):
                upload(Path(self._writer.log_dir) / file, join(self._copy_to, file))


@contextmanager
def board(url: str, purge_step: int | None = None) -> Iterator[Board]:
    """The board of a training from `purge_step` on: it replaces what was written of later steps before."""
    with _written_to(url, purge_step) as opened:
        yield opened


def show_clips(url: str, clips: Mapping[str, Path], step: int) -> None:
    """Show these clips, by their names, and none of an earlier report."""
    folder = join(url, "clips")
    for file in list_files(folder):
        delete(join(folder, file))
    with _written_to(folder, None) as opened:
        for name, clip in clips.items():
            opened.clip(name, clip, step)


@contextmanager
def _written_to(url: str, purge_step: int | None) -> Iterator[Board]:
    with ExitStack() as stack:
        local = local_path(url) or stack.enter_context(scratch_folder())
        writer = stack.enter_context(SummaryWriter(local, purge_step=purge_step))
        opened = Board(writer, url if local_path(url) is None else None)
        yield opened
        opened.keep()


def heat_maps(weights_SNK: np.ndarray) -> Iterator[np.ndarray]:
    """A picture per expert, all with the same colours: the largest distance from 1 / K has the full one."""
    from_average_SNK = weights_SNK - 1 / weights_SNK.shape[2]
    reach = max(float(np.abs(from_average_SNK).max()), 1e-9)
    for share_SN in np.moveaxis(from_average_SNK / reach, 2, 0):
        share_NS1 = share_SN.T[..., None]
        colour_NS3 = 255 + np.abs(share_NS1) * (np.where(share_NS1 > 0, MORE, LESS) - 255)
        yield np.kron(np.round(colour_NS3).astype(np.uint8), np.ones((CELL, CELL, 1), np.uint8))


def animation(frames_FHW3: np.ndarray) -> tuple[bytes, int, int]:
    """An animated GIF of the clip, its width and its height."""
    first, *others = [
        Image.fromarray(frame_HW3).quantize(COLOURS, dither=Image.Dither.NONE)
        for frame_HW3 in frames_FHW3[::SHOWN]
    ]
    out = io.BytesIO()
    milliseconds = round(1000 * SHOWN / FPS)
    first.save(out, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return out.getvalue(), first.width, first.height
