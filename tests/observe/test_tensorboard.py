"""What TensorBoard reads back is what the training and the evaluation showed."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ft2ray.media.video import FPS, write_video
from ft2ray.observe.tensorboard import CELL, animation, board, heat_maps, show_clips
from ft2ray.storage import download, join, list_files, local_path

EXPERTS = ("mn", "ls", "vq")


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3")


def read(folder: str, tmp_path) -> EventAccumulator:
    if local_path(folder) is None:
        local = tmp_path / f"read-{len(os.listdir(tmp_path))}"
        for file in list_files(folder):
            download(join(folder, file), local / file)
        folder = str(local)
    return EventAccumulator(folder, size_guidance={"images": 0, "scalars": 0}).Reload()


def pictures(events: EventAccumulator, tag: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(image.encoded_image_string)) for image in events.Images(tag)]


def points(steps, loss):
    return [{"step": step, "name": "mn", "loss": loss, "accuracy": 0.5} for step in steps]


def losses(events):
    return [(event.step, round(event.value, 3)) for event in events.Scalars("mn/loss")]


def test_curves_can_be_read_while_the_training_goes_on(run_dir, tmp_path):
    with board(join(run_dir, "tensorboard"), purge_step=0) as shown:
        shown.curves(points(range(2), 0.7))
        shown.keep()
        assert losses(read(join(run_dir, "tensorboard"), tmp_path)) == [(0, 0.7), (1, 0.7)]


def test_an_attempt_replaces_what_was_shown_of_later_steps(run_dir, tmp_path):
    with board(join(run_dir, "tensorboard"), purge_step=0) as shown:
        shown.curves(points(range(6), 0.7))
    with board(join(run_dir, "tensorboard"), purge_step=4) as shown:
        shown.curves(points(range(4, 8), 0.3))
    events = read(join(run_dir, "tensorboard"), tmp_path)
    assert losses(events) == [(n, 0.7) for n in range(4)] + [(n, 0.3) for n in range(4, 8)]
    assert len(events.Scalars("mn/accuracy")) == 8


def test_the_gate_is_one_heat_map_per_expert_and_step(run_dir, tmp_path):
    weights_SNK = np.full((5, 2, 3), 1 / 3)
    weights_SNK[0, 1] = (0.6, 0.2, 0.2)
    with board(join(run_dir, "tensorboard")) as shown:
        for step in (4, 8):
            shown.gate(weights_SNK, EXPERTS, step)
    events = read(join(run_dir, "tensorboard"), tmp_path)
    assert [event.step for event in events.Images("gate/mn")] == [4, 8]
    picture_HW3 = np.asarray(pictures(events, "gate/mn")[0])
    assert picture_HW3.shape == (2 * CELL, 5 * CELL, 3)
    assert (picture_HW3[0, 0] == 255).all() and (picture_HW3[CELL, CELL] == 255).all(), "the average is white"
    red, _, blue = picture_HW3[CELL, 0]
    assert red > blue, "noise is left, the second layer below, more than the average is warm"
    red, _, blue = np.asarray(pictures(events, "gate/ls")[0])[CELL, 0]
    assert red < blue


def test_all_experts_share_their_colours():
    weights_SNK = np.full((1, 1, 3), 1 / 3) + np.array([0.2, -0.1, -0.1])
    full, half, _ = (255.0 - picture_HW3[0, 0].mean() for picture_HW3 in heat_maps(weights_SNK))
    assert 0.3 < half / full < 0.7
    assert all((picture_HW3 == 255).all() for picture_HW3 in heat_maps(np.full((1, 1, 2), 0.5)))


def test_clips_of_the_report_move_and_replace_those_of_the_last_one(run_dir, tmp_path):
    rng = np.random.default_rng(0)
    frames_FHW3 = np.repeat(rng.integers(0, 256, (25, 8, 8, 3), np.uint8), 16, 1).repeat(16, 2)
    file = write_video(tmp_path / "clip.mp4", frames_FHW3, FPS, None)
    show_clips(
        join(run_dir, "tensorboard"), {"base/hopper with zoe": file, "tlpo/hopper with zoe": file}, step=12
    )
    show_clips(join(run_dir, "tensorboard"), {"tlpo/hopper with zoe": file}, step=12)
    events = read(join(run_dir, "tensorboard", "clips"), tmp_path)
    assert events.Tags()["images"] == ["tlpo/hopper with zoe"]
    (gif,) = pictures(events, "tlpo/hopper with zoe")
    assert gif.format == "GIF" and gif.size == (128, 128) and gif.n_frames == 13
    assert gif.info["duration"] == 80, "at its own speed"


def test_an_animation_shows_the_pictures_in_their_order():
    frames_FHW3 = np.stack([np.full((16, 16, 3), 20 * n, np.uint8) for n in range(6)])
    gif = Image.open(io.BytesIO(animation(frames_FHW3)[0]))
    seen = []
    for n in range(gif.n_frames):
        gif.seek(n)
        seen.append(np.asarray(gif.convert("RGB"))[0, 0, 0])
    assert seen == [0, 40, 80]
