"""A ridge regression from speech to lips: the teacher that labels speech for which no pictures exist.

It is linear, so it cannot know more than its few minutes of film, but it is right about when lips open, and
half an hour of speech labelled by it teaches the transformer far more than the film alone.

Shape suffixes: F frames, L speech tokens (two per frame), D feature width, C mouth channels, N training rows,
X inputs of the regression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONTEXT_FRAMES = 5
"""Frames of speech before and after that the lips of one frame depend on (0.2 s at 25 fps)."""


def context_rows(feat_LD: np.ndarray, context: int = CONTEXT_FRAMES) -> np.ndarray:
    """Inputs of the regression: each frame's speech with its neighbours, [F, (2 * context + 1) * D].

    The two tokens of a frame are averaged; the first and last frames are repeated beyond the ends.
    """
    frames = len(feat_LD) // 2
    per_frame_FD = feat_LD[: 2 * frames].reshape(frames, 2, -1).mean(axis=1)
    around = np.clip(np.arange(frames)[:, None] + np.arange(-context, context + 1), 0, frames - 1)
    return per_frame_FD[around].reshape(frames, -1)


@dataclass(frozen=True)
class LipTeacher:
    """lips = (speech - mean) @ weight + bias, in whitened mouth channels."""

    mean_X: np.ndarray
    weight_XC: np.ndarray
    bias_C: np.ndarray

    @classmethod
    def fit(cls, inputs_NX: np.ndarray, lips_NC: np.ndarray, strength: float) -> LipTeacher:
        """Ridge regression; `strength` is relative to the mean variance of the inputs.

        Solved over rows or over inputs, whichever are fewer.
        """
        mean_X, bias_C = inputs_NX.mean(axis=0), lips_NC.mean(axis=0)
        centred_NX = (inputs_NX - mean_X).astype(np.float64)
        wanted_NC = (lips_NC - bias_C).astype(np.float64)
        rows, inputs = centred_NX.shape
        if rows < inputs:
            gram = centred_NX @ centred_NX.T
            gram[np.diag_indices(rows)] += strength * np.trace(gram) / rows
            weight_XC = centred_NX.T @ np.linalg.solve(gram, wanted_NC)
        else:
            gram = centred_NX.T @ centred_NX
            gram[np.diag_indices(inputs)] += strength * np.trace(gram) / inputs
            weight_XC = np.linalg.solve(gram, centred_NX.T @ wanted_NC)
        return cls(mean_X, weight_XC.astype(np.float32), bias_C)

    def __call__(self, feat_LD: np.ndarray) -> np.ndarray:
        """Lips of a recording: [L, D] -> [C, L / 2]."""
        return ((context_rows(feat_LD) - self.mean_X) @ self.weight_XC + self.bias_C).T.astype(np.float32)
