"""A folder of tiny clips, and answers about it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ft2ray.labels.answers import QUESTION, Answer, Task
from ft2ray.media.video import write_video


def _write(path: Path, grey: int, tone: float = 220.0) -> None:
    time_T = np.arange(8000) / 16000
    frames_FHW3 = np.full((12, 32, 32, 3), grey, np.uint8)
    frames_FHW3[:, : 4 + grey % 8] = 250
    write_video(path, frames_FHW3, 25, (0.1 * np.sin(2 * np.pi * tone * time_T)).astype(np.float32))


@pytest.fixture(scope="session")
def clip_bytes(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("clips")
    for n in range(6):
        _write(folder / f"{n}.mp4", 20 + 30 * n, 200 + 50 * n)
    return [(folder / f"{n}.mp4").read_bytes() for n in range(6)]


@pytest.fixture
def folder(tmp_path, clip_bytes) -> Path:
    """Three people with two clips each."""
    for n, content in enumerate(clip_bytes):
        path = tmp_path / "clips" / f"person{n // 2}" / f"{n % 2}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "clips"


@pytest.fixture
def said() -> Callable[..., Answer]:
    """Make an answer."""

    def make(annotator: str, clip: str, word: str | None, dimension: str = "ls", **more) -> Answer:
        of_task = {key: more.pop(key) for key in ("check", "sound", "group", "other", "kind") if key in more}
        task = Task(of_task.pop("kind", QUESTION), annotator, dimension, clip, **of_task)
        return Answer(task, word, **({"revision": 0, "clip_id": f"id of {clip}"} | more))

    return make
