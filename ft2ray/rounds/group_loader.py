"""Which committed groups the training sees from which step on.

Rank 0 looks at the store, decides, and writes the decision down before anybody acts on it:
intake/<key>/<step>.json lists the groups that join before that step. A training that starts again reads the
same list, so that its data order is the one of the first attempt whatever has been committed since.
Checkpoints keep the lists too: a damaged one is written again from there, and one that no checkpoint has used
is decided anew, as are those after it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ft2ray.errors import StoredDataError
from ft2ray.preference.rules import Pair
from ft2ray.records import PromptGroup
from ft2ray.rounds.group_cache import GroupCache
from ft2ray.rounds.schedule import groups_needed, last_step, oldest_policy
from ft2ray.run import Run
from ft2ray.storage import delete, exists, join, list_files, read_json, write_json

if TYPE_CHECKING:
    from ft2ray.tlpo.run import TlpoRun

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
# Groups that join now, how many are given up, and whether the step may begin.
Decision = tuple[list[str], int, bool]
PairsOf = Callable[[list[str]], Iterator[tuple[str, dict[str, list[Pair]]]]]


class CurationFailed(RuntimeError):
    """No more groups will come, or none of all has a pair; the curation's own error says why."""


class GroupLoader:
    """Called with the training before every step; adds groups, and waits until there are enough.

    Args:
        run: its groups are loaded; those that were refused count as loaded.
        pairs_of: the ids of committed groups, in order, with the pairs of each by pool.
        rank: of this worker.
        workers: of the training.
        kept: the lists, by step, that the checkpoint keeps from which the training goes on.
    """

    def __init__(
        self,
        run: Run,
        pairs_of: PairsOf,
        rank: int = 0,
        workers: int = 1,
        kept: Mapping[int, list[str]] | None = None,
    ):
        self.run, self.config, self.pairs_of = run, run.config, pairs_of
        self.rank, self.workers = rank, workers
        self.folder, self.specs = run.group_lists, run.specs
        self.wanted = {spec.group_id for spec in run.specs}
        self.groups, self.refused = run.groups, run.refused
        self.cache = GroupCache(lambda group_id: PromptGroup.from_row(self.groups.get(group_id)))
        self.seen: set[str] = set()
        self.given_up = 0
        self.lists = self._known(kept or {}) if rank == 0 else {}

    def __call__(self, tlpo: TlpoRun) -> None:
        while not self.complete:
            joining, enough = self._agree(self._decide(tlpo) if self.rank == 0 else None)
            for group_id, pairs in self.pairs_of(joining):
                tlpo.add(self.cache.group(group_id), pairs)
            self.seen |= set(joining)
            if self.complete and set(tlpo.dimensions) <= set(tlpo.untrained):
                raise CurationFailed
            if enough:
                return
            time.sleep(POLL_SECONDS)

    @property
    def complete(self) -> bool:
        """Whether every group has been loaded or given up."""
        return len(self.seen) + self.given_up >= len(self.wanted)

    def _decide(self, tlpo: TlpoRun) -> Decision | None:
        """None: there is no way to go on."""
        written = {group_id for step, ids in self.lists.items() if step <= tlpo.step for group_id in ids}
        if self.lists and (tlpo.step <= max(self.lists) or not written <= self.seen):
            return sorted(written - self.seen), self.given_up, tlpo.step <= max(self.lists)
        more = self.config.schedule.max_staleness == 0 or exists(self.run.curating)
        there = self.groups.committed(self.wanted)
        refused = len(self.refused.committed(self.wanted))
        done = len(there) + refused
        if done < len(self.wanted) and not more:
            return None
        enough = done >= groups_needed(self.config, tlpo.step, len(self.wanted))
        # A step without pairs in some dimension would be lost to its expert: wait while more may come.
        if enough and self._more_may_come(tlpo.step, done):
            enough = not self._lacks_pairs(tlpo, there)
        joining = sorted(there - self.seen) if enough else []
        if joining:
            joining = self.lists[tlpo.step] = self._write(tlpo.step, joining)
        return joining, refused, enough

    def _more_may_come(self, step: int, done: int) -> bool:
        """Whether groups are made while the training waits at `step`, for some wait for its next policy."""
        if self.config.schedule.max_staleness == 0:
            return False
        rounds = range(self.config.schedule.rounds)
        published = sum(last_step(self.config, round) <= step for round in rounds)
        return done < sum(oldest_policy(self.config, spec.round) <= published for spec in self.specs)

    def _lacks_pairs(self, tlpo: TlpoRun, there: set[str]) -> bool:
        lacking = set(tlpo.dimensions) & set(tlpo.untrained)
        for _, pairs in self.pairs_of(sorted(there - self.seen)):
            lacking -= {name for name, found in pairs.items() if found}
            if not lacking:
                break
        return bool(lacking)

    def _known(self, kept: Mapping[int, list[str]]) -> dict[int, list[str]]:
        """The lists of an earlier attempt."""
        steps = {int(name.removesuffix(".json")) for name in list_files(self.folder, ".json")}
        lists: dict[int, list[str]] = {}
        for step in sorted(steps | kept.keys()):
            try:
                lists[step] = self._read(step)
            except (StoredDataError, FileNotFoundError) as error:
                log.warning("%s", error)
                delete(self._url(step))
                if step in kept:
                    lists[step] = self._write(step, kept[step])
                    continue
                for later in sorted(other for other in steps if other > step):
                    delete(self._url(later))
                break
        return lists

    def _url(self, step: int) -> str:
        return join(self.folder, f"{step:08d}.json")

    def _read(self, step: int) -> list[str]:
        remedy = "it is written again from the checkpoint, or decided anew where none has used it"
        return read_json(self._url(step), "a list of groups that joined", remedy)["groups"]

    def _write(self, step: int, joining: list[str]) -> list[str]:
        """Returns the list that counts: that of another run in this folder, where that one was first."""
        first = write_json(self._url(step), {"groups": joining}, if_absent=True)
        return joining if first else self._read(step)

    def _agree(self, decision: Decision | None) -> tuple[list[str], bool]:
        """Every worker takes rank 0's decision; CurationFailed where that is to give up."""
        if self.workers > 1:
            import torch.distributed as dist

            box = [decision]
            dist.broadcast_object_list(box, src=0)
            decision = box[0]
        if decision is None:
            raise CurationFailed
        joining, self.given_up, enough = decision
        return joining, enough
