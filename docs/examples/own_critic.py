"""A critic of your own, with its own view of a clip and its own dimensions.

    PYTHONPATH=docs/examples ft2ray align critic.weights=own_critic:PlainCritic ...

Shape suffixes: N clips, K dimensions, F frames, H W picture, T samples, 3 rgb.
"""

from dataclasses import dataclass

import numpy as np

from ft2ray import Critic, Viewer


@dataclass
class GreyClip:
    grey_FHW: np.ndarray

    @property
    def frames(self):  # what the clip costs to score
        return len(self.grey_FHW)


class GreyViewer(Viewer):
    """Runs where the clip is made; the critic gets the small result."""

    def view(self, frames_FHW3, wav_T, fps, mesher):
        return GreyClip(frames_FHW3[:, ::4, ::4].mean(axis=3, dtype=np.float32))


class PlainCritic(Critic):
    dimensions = ("calm", "even")
    fingerprint = "plain-1"  # another one whenever a clip gets another score
    viewer = GreyViewer()

    def score(self, views):
        moved_NF = [np.abs(np.diff(view.grey_FHW, axis=0)).mean(axis=(1, 2)) for view in views]
        margin_NK = np.array([[8 - moved_F.mean(), 4 - moved_F.std()] for moved_F in moved_NF])
        return 1 / (1 + np.exp(-margin_NK.reshape(-1, 2)))
