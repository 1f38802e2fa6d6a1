"""The ridge teacher."""

import numpy as np
import pytest

from recipes.embedded.base_teacher import CONTEXT_FRAMES, LipTeacher, context_rows


def test_context_rows_hold_each_frames_neighbours():
    feat_LD = np.repeat(np.arange(6.0), 2)[:, None] + np.tile([-0.25, 0.25], 6)[:, None]
    rows = context_rows(feat_LD, context=2)
    assert rows.tolist()[0] == [0, 0, 0, 1, 2]
    assert rows.tolist()[3] == [1, 2, 3, 4, 5]
    assert rows.shape == (6, 5)


@pytest.mark.parametrize("rows", [30, 300])
def test_ridge_is_the_textbook_solution_over_rows_or_inputs(rows):
    rng = np.random.default_rng(rows)
    x, y = rng.standard_normal((rows, 60)), rng.standard_normal((rows, 3))
    teacher = LipTeacher.fit(x, y, strength=0.5)
    centred = x - x.mean(0)
    gram = centred.T @ centred
    share = np.trace(gram) / min(rows, 60)
    expected = np.linalg.solve(gram + 0.5 * share * np.eye(60), centred.T @ (y - y.mean(0)))
    np.testing.assert_allclose(teacher.weight_XC, expected, rtol=1e-3, atol=1e-6)


def test_it_learns_lips_that_follow_speech_and_nothing_from_noise():
    rng = np.random.default_rng(0)
    feat = [rng.standard_normal((200, 4)) for _ in range(6)]

    def lips(feat_LD):
        frames = feat_LD.reshape(100, 2, 4).mean(1)
        return np.stack([frames[:, 0] - 0.5 * np.roll(frames[:, 1], 2), frames[:, 2]], axis=1)

    inputs = np.concatenate([context_rows(f) for f in feat[:5]])
    teacher = LipTeacher.fit(inputs, np.concatenate([lips(f) for f in feat[:5]]), strength=0.01)
    inner = slice(CONTEXT_FRAMES, -CONTEXT_FRAMES)
    predicted, true = teacher(feat[5])[:, inner], lips(feat[5]).T[:, inner]
    assert np.corrcoef(predicted[0], true[0])[0, 1] > 0.95
    assert predicted.shape == (2, 90) and predicted.dtype == np.float32
