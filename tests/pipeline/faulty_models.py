"""A generator and critics that cost next to nothing, for tests of what happens around them; some hang.

`critic.weights=tests.pipeline.faulty_models:HangsOnce`; what they answer is a pure function of the clip.
"""

import hashlib
import os
import time
from pathlib import Path

import numpy as np

from bench.fakes import SleepingGenerator
from ft2ray.critic.base import Critic
from ft2ray.critic.talking.view import SHORTEST_FRAMES, ClipView

FOLDER = "FT2RAY_TEST_FAULTS"  # names a folder that all processes share


class TrainableGenerator(SleepingGenerator):
    """Half a second of work that keeps no core busy for each clip."""

    fingerprint = "trainable"
    sample_seconds, velocity_seconds = 0.5, 0.0
    heads, layers, ffn, freq = 2, 2, 32, 16


class SlowGenerator(TrainableGenerator):
    """Slow enough for nodes to come meanwhile."""

    sample_seconds = 2.0


class DiscerningCritic(Critic):
    """Another score for every clip."""

    dimensions = ("mn", "ls", "vq")
    fingerprint = "discerning"

    def score(self, views: list[ClipView]) -> np.ndarray:
        digests = [
            hashlib.blake2b(v.video_WFHW3.tobytes() + v.mel_WMJ.tobytes(), digest_size=6).digest()
            for v in views
        ]
        return np.array([np.frombuffer(digest, np.uint16) for digest in digests]) / 65535


class DiesAtStart(DiscerningCritic):
    """A replica scores the service's own probe before it serves: none lives that long."""

    def score(self, views: list[ClipView]) -> np.ndarray:
        os._exit(1)


class HangsOnce(DiscerningCritic):
    """The first clip that any process of this run asks about is never answered."""

    def score(self, views: list[ClipView]) -> np.ndarray:
        if asked(views):
            try:
                (Path(os.environ[FOLDER]) / "hung").touch(exist_ok=False)
            except FileExistsError:
                return super().score(views)
            time.sleep(3600)
        return super().score(views)


class AlwaysHangs(DiscerningCritic):
    """Answers the probe of the health check, and nothing else."""

    def score(self, views: list[ClipView]) -> np.ndarray:
        if asked(views):
            time.sleep(3600)
        return super().score(views)


def asked(views: list[ClipView]) -> bool:
    """Whether this is about clips of the run: they are longer than the service's own probe."""
    return any(view.video_WFHW3.shape[1] > SHORTEST_FRAMES for view in views)
