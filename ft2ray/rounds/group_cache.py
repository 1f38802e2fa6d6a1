"""Prompt groups of a training whose tensors stay in the store until they are drawn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

from ft2ray.records import PromptGroup

CACHE_BYTES = 4e9  # of latents that a train worker keeps in memory


class GroupCache:
    """The groups that were used last, up to `limit` bytes; any other one is read again when it is drawn."""

    def __init__(self, read: Callable[[str], PromptGroup], limit: float = CACHE_BYTES):
        self._read, self._limit = read, limit
        self._cached: OrderedDict[str, PromptGroup] = OrderedDict()
        self._bytes = 0

    def group(self, group_id: str) -> PromptGroup:
        """A stand-in for the group, which reads it when anything but its id is asked for."""
        return cast(PromptGroup, _Unread(group_id, self._whole))

    def _whole(self, group_id: str) -> PromptGroup:
        if group_id not in self._cached:
            self._cached[group_id] = group = self._read(group_id)
            self._bytes += _size(group)
        self._cached.move_to_end(group_id)
        while self._bytes > self._limit and len(self._cached) > 1:
            self._bytes -= _size(self._cached.popitem(last=False)[1])
        return self._cached[group_id]


class _Unread:
    __slots__ = ("_read", "group_id")

    def __init__(self, group_id: str, read: Callable[[str], PromptGroup]):
        self.group_id, self._read = group_id, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read(self.group_id), name)


def _size(group: PromptGroup) -> int:
    conditions = (group.text_LD, group.audio_LD, group.image_LD, group.stacked_CFHW)
    candidates = (array for c in group.candidates for array in (c.latents_CFHW, c.lip_mask))
    return sum(array.nbytes for array in (*conditions, *candidates) if array is not None)
