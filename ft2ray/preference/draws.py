"""What training step n of a dimension looks at: a pure function of (seed, dimension, cursor, pairs so far).

The state of a training run's data is one integer per dimension, its cursor: the number of draws made. Streams
of different dimensions share nothing, so training three experts together draws exactly what three separate
runs draw.

The pairs form a growing set, since curation may still be committing groups. A draw takes the pair with
the highest hash of (seed, dimension, cursor, pair), first among the groups, then within the group ("highest
random weight"). That is uniform over groups whatever their number of pairs, replays old groups as often as
new ones, does not depend on the order of the list, and a new group changes only the draws that it wins.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from ft2ray.generator.settings import GuidancePass
from ft2ray.preference.rules import Pair
from ft2ray.settings import Settings

GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it mod 1 fill [0, 1) as evenly as any sequence can


class DrawSettings(Settings):
    """Which times a training sees, how often it draws new noise, and what it leaves out."""

    timestep: Literal["uniform", "logit_normal"] = "uniform"
    mean: float = 0.0  # of the logit of t, for logit_normal
    std: float = Field(1.0, gt=0)
    # Draws of noise and time per prompt group, taken in turn by all its pairs in all dimensions, so that the
    # reference's errors can be kept; None draws anew for every pair.
    per_group: int | None = Field(None, ge=1)
    # Share of the draws without the sound (and the text), where the sampler's guidance has passes without it:
    # the experts are at work in these passes too. Without guidance (audio_scale=1) nothing is left out.
    drop_conditions: float = Field(0.15, ge=0, lt=1)

    @model_validator(mode="after")
    def _of_logit_normal(self) -> DrawSettings:
        if self.timestep != "logit_normal" and (self.mean, self.std) != (0.0, 1.0):
            raise ValueError(f"mean and std are of logit_normal times; {self.timestep} ones have none")
        return self


@dataclass(frozen=True)
class DrawRule:
    """Everything that decides a draw beside its number and the pairs.

    `shift` is the sampler's, t -> shift t / (1 + (shift - 1) t), so that training sees the noise levels that
    sampling visits.
    """

    seed: int = 0
    shift: float = 1.0
    settings: DrawSettings = DrawSettings()


@dataclass(frozen=True)
class PairDraw:
    """One training example: a pair of a group, the seed of its noise, its flow-matching time t in (0, 1).

    Draws of one group with the same `noise_seed` have the same t.
    """

    group_id: str
    pair: Pair
    noise_seed: int
    t: float


class PairPool:
    """The pairs of one dimension known so far; `add` only ever grows it, and adding twice is harmless."""

    def __init__(self, groups: Iterable[tuple[str, list[Pair]]] = ()):
        self._pairs: dict[str, list[Pair]] = {}
        self._ids: list[str] = []
        self._keys: list[int] = []
        for group_id, pairs in groups:
            self.add(group_id, pairs)

    def add(self, group_id: str, pairs: list[Pair]) -> None:
        if not pairs or group_id in self._pairs:
            return
        self._pairs[group_id] = list(pairs)
        self._ids.append(group_id)
        self._keys.append(_hash(group_id))

    def __len__(self) -> int:
        return sum(len(pairs) for pairs in self._pairs.values())

    @property
    def groups(self) -> int:
        """Groups that have at least one pair."""
        return len(self._ids)

    def pick(self, key: int) -> tuple[str, Pair]:
        """The (group_id, pair) that wins for this 64-bit key."""
        if not self._ids:
            raise ValueError("no pair to draw from: no group has one by the rule; lower pairs.margin")
        group_id = self._ids[_winner(self._keys, key)]
        pairs = self._pairs[group_id]
        return group_id, pairs[_winner([_hash(p.winner, p.loser) for p in pairs], key)]


def draw(config: DrawRule, dimension: str, cursor: int, pool: PairPool) -> PairDraw:
    """Draw number `cursor` (from 0) of `dimension`."""
    if cursor < 0:
        raise ValueError(f"draws: cursor {cursor} is negative; it counts the draws already made")
    group_id, pair = pool.pick(_hash("pair", config.seed, dimension, cursor))
    stream, number = (dimension, cursor)
    if config.settings.per_group is not None:
        stream, number = (group_id, cursor % config.settings.per_group)
    noise_seed = _hash("noise", config.seed, stream, number) >> 1  # 63 bits: a torch seed is an int64
    # One offset per stream, then golden-ratio steps: any run of draws covers the timesteps evenly.
    offset = _hash("timestep", config.seed, stream) / 2**64
    return PairDraw(group_id, pair, noise_seed, _timestep((offset + number * GOLDEN) % 1.0, config))


def draws(config: DrawRule, dimension: str, cursor: int, count: int, pool: PairPool) -> list[PairDraw]:
    """Draws cursor .. cursor + count - 1; the next cursor is cursor + count."""
    return [draw(config, dimension, cursor + i, pool) for i in range(count)]


def pass_of(draw: PairDraw, share: float, others: Sequence[GuidancePass]) -> GuidancePass:
    """The pass of the guidance that a draw trains: for about `share` of them one of `others`, else "all".

    It hangs on the noise alone, so that what is kept of the reference serves all draws of that noise.
    """
    if not others or _hash("dropped", draw.noise_seed) >= share * 2**64:
        return "all"
    return others[number_below(len(others), "pass", draw.noise_seed)]


def held_out(group_id: str, share: float) -> bool:
    """Whether this group belongs to the `share` of all groups that stage 1 leaves to stage 2."""
    return _hash("held out", group_id) < share * 2**64


def number_below(count: int, *parts: object) -> int:
    """A number below `count` that only these parts decide."""
    return _hash(*parts) % count


def _timestep(u: float, config: DrawRule) -> float:
    u = min(max(u, 1e-4), 1 - 1e-4)  # t = 0 and t = 1 carry no signal: all data, or all noise
    if config.settings.timestep == "logit_normal":
        u = 1 / (1 + math.exp(-NormalDist(config.settings.mean, config.settings.std).inv_cdf(u)))
    return config.shift * u / (1 + (config.shift - 1) * u)


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _winner(keys: list[int], key: int) -> int:
    """Index of the largest mix of `keys` with `key` (the 64-bit finaliser of splitmix64)."""
    z = np.array(keys, dtype=np.uint64) ^ np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int(np.argmax(z ^ (z >> np.uint64(31))))
