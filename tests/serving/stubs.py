"""The embedded critic, as slow as a folder tells it to be; writes there what it was asked."""

import json
import os
import time
from pathlib import Path

from ft2ray.critic.base import Critic
from ft2ray.critic.talking.critic import TalkingCritic
from ft2ray.critic.talking.view import SHORTEST_FRAMES

FOLDER = "FT2RAY_TEST_CRITIC"  # environment variable with that folder


class ToldCritic(Critic):
    def __init__(self) -> None:
        self.folder = Path(os.environ[FOLDER])
        self.critic = TalkingCritic.load()
        self.dimensions, self.fingerprint = self.critic.dimensions, self.critic.fingerprint

    def score(self, views):
        frames = sum(view.video_WFHW3.shape[0] * view.video_WFHW3.shape[1] for view in views)
        if frames > SHORTEST_FRAMES:  # else it is the health check
            asked = {"pid": os.getpid(), "clips": len(views), "frames": frames}
            with open(self.folder / "asked", "a") as file:
                file.write(json.dumps(asked) + "\n")
            time.sleep(float((self.folder / "seconds").read_text()))
        return self.critic.score(views)


def asked(folder: Path) -> list[dict]:
    """What the critic has been asked since `tell`."""
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


def tell(folder: Path, seconds: float) -> None:
    """Take this much longer for every batch from now on."""
    (folder / "seconds").write_text(str(seconds))
    (folder / "asked").write_text("")
