import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.records import GROUP, Candidate, Draw, PromptGroup, content_id


def make_group(n=3, scores=True, seed=0) -> PromptGroup:
    rng = np.random.default_rng(seed)
    candidates = [
        Candidate(
            candidate_id=f"c{i}",
            policy="base",
            seed=2**40 + i,
            sampler={"steps": 4, "audio_scale": 1.5},
            latents_CFHW=rng.standard_normal((5, 4, 1, 1)).astype(np.float32),
            lip_mask=np.ones((5, 1, 1, 1), np.float32),
            scores=[0.1 * i, 0.5, 0.9] if scores else None,
            error=None if scores else "TimeoutError: critic",
        )
        for i in range(n)
    ]
    return PromptGroup(
        group_id=f"g{seed}",
        round=0,
        prompt_id="p",
        portrait="a.jpg",
        portrait_id="pa",
        speech="b.flac",
        start_seconds=1.5,
        seconds=3.0,
        generator="gen",
        critic="cri",
        dimensions=("mn", "ls", "vq"),
        text_LD=np.zeros((1, 8), np.float32),
        audio_LD=rng.standard_normal((8, 6)).astype(np.float32),
        frames=4,
        candidates=candidates,
        image_LD=rng.standard_normal((3, 4)).astype(np.float32) if seed else None,
        stacked_CFHW=rng.standard_normal((4, 2, 2, 2)).astype(np.float32) if seed else None,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_group_survives_arrow_bit_for_bit(seed):
    group = make_group(seed=seed)
    (row,) = pa.Table.from_pylist([group.to_row()], schema=GROUP).to_pylist()
    back = PromptGroup.from_row(row)
    assert back.to_row().keys() == group.to_row().keys()
    for name in ("text_LD", "audio_LD", "image_LD", "stacked_CFHW"):
        np.testing.assert_array_equal(getattr(back, name), getattr(group, name))
    for ours, theirs in zip(group.candidates, back.candidates, strict=True):
        np.testing.assert_array_equal(ours.latents_CFHW, theirs.latents_CFHW)
        assert (ours.seed, ours.sampler, ours.scores, ours.error) == (
            theirs.seed,
            theirs.sampler,
            theirs.scores,
            theirs.error,
        )


def test_a_missing_score_is_nan_and_never_zero():
    group = make_group()
    group.candidates[1].scores = None
    scores_NK = group.scores_NK()
    assert scores_NK.shape == (3, 3)
    assert all(math.isnan(x) for x in scores_NK[1])
    assert scores_NK[0, 0] == 0.0 and not np.isnan(scores_NK[[0, 2]]).any()


@given(st.lists(st.text()), st.lists(st.text()))
def test_content_ids_do_not_run_parts_together(a, b):
    assert (content_id(*a) == content_id(*b)) == (a == b)


def test_the_candidate_id_depends_on_everything_that_makes_the_candidate():
    draw = Draw(seed=1, sampler={"steps": 4, "audio_scale": 2.0})
    base = draw.candidate_id("p", "g", "base")
    assert base == Draw(seed=1, sampler={"audio_scale": 2.0, "steps": 4}).candidate_id("p", "g", "base")
    others = {
        draw.candidate_id("q", "g", "base"),
        draw.candidate_id("p", "h", "base"),
        draw.candidate_id("p", "g", "tuned"),
        Draw(2, draw.sampler).candidate_id("p", "g", "base"),
        Draw(1, {"steps": 5, "audio_scale": 2.0}).candidate_id("p", "g", "base"),
    }
    assert len(others | {base}) == 6
