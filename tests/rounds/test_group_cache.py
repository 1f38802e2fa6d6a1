"""Tensors of groups stay in the store until they are drawn, and only so many bytes are kept."""

import numpy as np
import pytest

from ft2ray.records import Candidate, PromptGroup
from ft2ray.rounds.group_cache import GroupCache


def group(group_id: str) -> PromptGroup:
    latents = np.zeros((1, 1, 10, 10), np.float32)
    candidates = [Candidate("c", "base", 0, {}, latents, latents[..., :0])]
    return PromptGroup(
        group_id, 0, "p", "a.jpg", "a", "b.wav", 0.0, 3.0, "gen", "crit", ("mn",), None,
        np.zeros((0, 2), np.float32), 1, candidates,
    )  # fmt: skip


@pytest.mark.parametrize(("limit", "reads"), [(1e9, "ab"), (800, "ab"), (799, "aba"), (0, "aba")])
def test_what_was_used_last_is_kept_up_to_a_limit(limit, reads):
    read = []

    def reading(group_id):
        read.append(group_id)
        return group(group_id)

    cache = GroupCache(reading, limit)
    a, b = cache.group("a"), cache.group("b")
    assert (a.group_id, b.group_id) == ("a", "b") and not read
    for unread in (a, a, b, a):
        assert unread.candidates[0].latents_CFHW.shape == (1, 1, 10, 10)
    assert "".join(read) == reads


def test_an_error_of_the_store_comes_through():
    def missing(group_id):
        raise FileNotFoundError(group_id)

    with pytest.raises(FileNotFoundError, match="a"):
        _ = GroupCache(missing).group("a").candidates
