"""A run: what its folder holds, where, and by which identities it is found.

Paths that hold an identity are made here alone; marks, labels and notes (deaths.json, ending.json) have one
module each.

config.yaml versions.json prompts.json     what was asked, with what, on what (and what was quarantined)
wrong_pairs.json                           pairs that take no part, for people marked them as wrong
fingerprints.json                          the base and the critic
store/groups store/refused                 Parquet shards: prompt groups, those that were given up
store/measurements timeline                measurements; who did what when
store/videos                               of the candidates, where they are kept
intake/<key>/                              which groups the training saw from which step on
train/<key>/                               checkpoints
policies/<key>-<version>/                  adapters (peft/diffusers layout) and gate; the curves beside it
policies/current                           the policy that the run stands for
judges/                                    the judge of the evaluation, where it was fitted for this run
tensorboard/                               curves, heat maps of the gate, clips
videos/                                    evaluation clips with sound
report.html report.json                    what was found
logs/ deaths.json ending.json              what the processes said, which of them died, how an attempt ended
labels/ marks/                             what people said of clips and of pairs
blind_test.json                            which clips they prefer
.lock                                      whose run it is

The folder is a local path or an s3:// URL. What is read is the folder that was named, wherever it lay when
it was written: a copy, a moved or renamed folder is a run of its own.
"""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ft2ray
from ft2ray.config import AlignConfig, load_config, to_yaml
from ft2ray.errors import ConfigurationError, DataError, StoredDataError
from ft2ray.preference.wrong_pairs import WrongPair, mark_store, marked
from ft2ray.records import GROUP, GROUP_INDEX, MEASUREMENT, REFUSED, SPAN, Prompt, PromptGroup
from ft2ray.rounds.plan import Plan, Quarantined
from ft2ray.rounds.schedule import GroupSpec, group_specs, training_key
from ft2ray.storage import (
    RowStore,
    absolute,
    base_name,
    exists,
    join,
    local_copy,
    read_bytes,
    read_json,
    write_atomically,
    write_json,
)
from ft2ray.tlpo.description import DESCRIPTION

if TYPE_CHECKING:
    from ft2ray.tlpo.policy import Policy

log = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "ray",
    "diffusers",
    "transformers",
    "peft",
    "numpy",
    "pyarrow",
    "mediapipe",
    "ctranslate2",
    "av",
)
PAIRS = "pairs.parquet"
WRONG_PAIRS = "wrong_pairs.json"
AGAIN = "`ft2ray align` with the settings of this run writes it again"


class Run:
    """One run folder. It may be sent to other processes; what is read once is not sent along.

    Args:
        config: its settings, `run_dir` among them.
    """

    def __init__(self, config: AlignConfig) -> None:
        self.config = config.replaced(run_dir=absolute(config.run_dir))  # workers sit in other folders

    @classmethod
    def open(cls, url: str | Path, overrides: Sequence[str] = ()) -> Run:
        """The run in this folder, with some settings changed for this process.

        Raises:
            DataError: where the folder is not one of a run, or of an earlier version.
        """
        file = join(url, "config.yaml")
        if not exists(file):
            raise DataError(f"{url} is not a run folder: it has no config.yaml")
        copy = local_copy(file)
        try:
            load_config(copy)
        except ConfigurationError as error:
            raise DataError(
                f"{url} is damaged or written by another version ({error}); read it with that version, or "
                "start a new run_dir"
            ) from error
        return cls(load_config(copy, overrides).replaced(run_dir=absolute(url)))

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    def __repr__(self) -> str:
        return f"Run({self.url!r})"

    @property
    def url(self) -> str:
        return self.config.run_dir

    # -- what was asked ----------------------------------------------------------------------------------

    def begin(self, plan: Plan) -> None:
        """Write down the settings, the versions and the prompts."""
        versions = {package: metadata.version(package) for package in PACKAGES}
        versions |= {
            "ft2ray": ft2ray.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        write_atomically(join(self.url, "config.yaml"), to_yaml(self.config).encode())
        self._write_json("versions.json", versions)
        self._write_json("prompts.json", dataclasses.asdict(plan))
        self.plan = plan
        wrong = marked(mark_store(self.url))
        if wrong or exists(self.file(WRONG_PAIRS)):
            self._write_json(WRONG_PAIRS, wrong)

    @cached_property
    def plan(self) -> Plan:
        """The prompts of both splits, and what was quarantined."""
        tree = self._read_json("prompts.json")
        return Plan(
            curation=[Prompt(**p) for p in tree["curation"]],
            evaluation=[Prompt(**p) for p in tree["evaluation"]],
            quarantined=[Quarantined(**q) for q in tree["quarantined"]],
        )

    @cached_property
    def wrong_pairs(self) -> tuple[WrongPair, ...]:
        """The pairs that people had marked as wrong when the run was begun: they take no part."""
        if not exists(self.file(WRONG_PAIRS)):
            return ()
        return tuple(WrongPair(*pair) for pair in self._read_json(WRONG_PAIRS))

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that the run was begun with."""
        return self._read_json("versions.json")

    # -- identities --------------------------------------------------------------------------------------

    def identify(self, generator: str, critic: str) -> None:
        """Write down the fingerprints, so that groups are found without loading the models."""
        self._write_json("fingerprints.json", {"generator": generator, "critic": critic})
        for known in ("_fingerprints", "key", "specs"):
            self.__dict__.pop(known, None)

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return self._read_json("fingerprints.json")

    @property
    def generator(self) -> str:
        """Fingerprint of the base."""
        return self._fingerprints["generator"]

    @property
    def critic(self) -> str:
        """Fingerprint of the critic; a replica's may be another by now."""
        return self._fingerprints["critic"]

    @cached_property
    def key(self) -> str:
        """Identity of the training."""
        prompts, wrong = self.plan.curation, self.wrong_pairs
        return training_key(self.config, self.generator, self.critic, prompts, wrong)

    @cached_property
    def specs(self) -> list[GroupSpec]:
        """Everything that is to be curated, round by round."""
        return group_specs(self.config, self.generator, self.critic, self.plan.curation, self.wrong_pairs)

    def specs_of(self, round: int) -> list[GroupSpec]:
        return [spec for spec in self.specs if spec.round == round]

    # -- groups and measurements -------------------------------------------------------------------------

    @property
    def groups(self) -> RowStore:
        return group_store(self.url)

    @property
    def refused(self) -> RowStore:
        """Groups that cannot be made, and why."""
        return refused_store(self.url)

    @property
    def measurements(self) -> RowStore:
        return measurement_store(self.url)

    @property
    def spans(self) -> RowStore:
        """Who did what when."""
        return span_store(self.url)

    def missing(self, specs: Sequence[GroupSpec]) -> list[GroupSpec]:
        """Those whose groups are neither committed nor refused yet."""
        wanted = {spec.group_id for spec in specs}
        missing = wanted - self.groups.committed(wanted) - self.refused.committed(wanted)
        return [spec for spec in specs if spec.group_id in missing]

    def curated(self) -> Iterator[PromptGroup]:
        """The committed groups of the run, one by one in the order of their ids."""
        store = self.groups
        for group_id in sorted(store.committed({spec.group_id for spec in self.specs})):
            yield PromptGroup.from_row(store.get(group_id))

    # -- training and policies ---------------------------------------------------------------------------

    @property
    def checkpoints(self) -> str:
        return join(self.url, "train", self.key)

    @property
    def group_lists(self) -> str:
        """Folder of the lists of groups that join the training."""
        return join(self.url, "intake", self.key)

    @property
    def curating(self) -> str:
        """A file that is there while groups may still come, where both go on at the same time."""
        return join(self.group_lists, "curating")

    @property
    def training(self) -> str:
        """A file that is there while policies may still come, where generators wait for them."""
        return join(self.url, "train", f"{self.key}.training")

    @property
    def step(self) -> int:
        """The training step that was reached."""
        url = self._progress
        return self._side_figure(url, "step", 0) if exists(url) else 0

    def reached(self, step: int) -> None:
        write_json(self._progress, {"step": step})

    @property
    def _progress(self) -> str:
        return join(self.url, "train", f"{self.key}.progress.json")

    def policy(self, version: int) -> str:
        """Folder of a policy of this training; version r + 1 is published at the end of round r."""
        return policy_url(self.url, self.key, version)

    def newest_policy(self, at_most: int) -> int:
        """The highest version published, but not above `at_most`; 0, the base, is always there."""
        return newest_policy(self.url, self.key, at_most)

    def publish_version(self, version: int, policy: Policy, curves: list[dict[str, Any]]) -> None:
        """Publish what was trained so far and make it current; the same version again changes nothing."""
        # Imports diffusers and peft, which those who only look for policies do not need.
        from ft2ray.tlpo.policy import save_policy

        url = self.policy(version)
        write_json(_curves(url), {"curves": curves})
        save_policy(url, policy)
        self.publish(url)

    def imported_policy(self, fingerprint: str) -> str:
        return join(self.url, "policies", f"imported-{fingerprint}")

    def publish(self, policy: str) -> None:
        """Make `policy`, one of this folder, the one that the run stands for."""
        publish(self.url, policy)

    @property
    def current_policy(self) -> str:
        """Folder of the policy that the run stands for.

        Raises:
            DataError: where the run has none (yet), or its name is not text.
        """
        current = join(self.url, "policies", "current")
        if not exists(current):
            raise DataError(
                f"{self.url} holds no trained policy; run `ft2ray align run_dir={self.url}` to its end first"
            )
        try:
            return join(self.url, "policies", read_bytes(current).decode("ascii"))
        except UnicodeDecodeError as error:
            raise StoredDataError(
                current, "the name of the current policy is damaged", "start the same `ft2ray align` again"
            ) from error

    def curves(self, policy: str) -> list[dict[str, Any]]:
        """Training curves up to a policy, {"step", "name", metric: value, ...}; none of an imported one."""
        url = _curves(policy)
        return self._side_figure(url, "curves", []) if exists(url) else []

    # -- the rest ----------------------------------------------------------------------------------------

    def file(self, *parts: str) -> str:
        """Path or URL of a file of reports, clips, boards, judges and logs."""
        return join(self.url, *parts)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time per stage, summed over all attempts; those of a damaged file are lost."""
        file = self.file("seconds.json")
        try:
            return (
                read_json(file, "the note of wall times", "they are counted from 0") if exists(file) else {}
            )
        except StoredDataError as error:
            log.warning("%s", error)
            return {}

    def add_seconds(self, stage: str, seconds: float) -> None:
        times = self.seconds
        times[stage] = times.get(stage, 0.0) + seconds
        self._write_json("seconds.json", times)

    def _read_json(self, name: str) -> Any:
        file = self.file(name)
        if not exists(file):
            raise DataError(
                f"{self.url} holds no run that has begun: it has no {name}; start it with "
                f"`ft2ray align run_dir={self.url}`"
            )
        return read_json(file, "a note of the run", AGAIN)

    def _side_figure(self, url: str, name: str, lost: Any) -> Any:
        """What the training noted beside its results; `lost` where it is damaged, which stops nothing."""
        try:
            return read_json(url, f"a note of the training, its {name},", "what it held is lost")[name]
        except StoredDataError as error:
            log.warning("%s", error)
            return lost

    def _write_json(self, name: str, value: Any) -> None:
        write_json(self.file(name), value)


def policy_url(url: str | Path, key: str, version: int) -> str:
    return join(url, "policies", f"{key}-{version}")


def newest_policy(url: str | Path, key: str, at_most: int) -> int:
    """The highest version of the training `key` that is published, but not above `at_most`; 0 is the base."""
    return next((v for v in range(at_most, 0, -1) if is_published(policy_url(url, key, v))), 0)


def publish(url: str | Path, policy: str | Path) -> None:
    """Make `policy`, one of this run folder, the one that it stands for."""
    current, name = join(url, "policies", "current"), base_name(policy).encode()
    if not exists(current) or read_bytes(current) != name:
        write_atomically(current, name)


def is_published(policy: str) -> bool:
    return exists(join(policy, DESCRIPTION))  # written last


def group_store(url: str | Path) -> RowStore:
    return RowStore(join(url, "store", "groups"), GROUP, "group_id", GROUP_INDEX, "a prompt group")


def refused_store(url: str | Path) -> RowStore:
    return RowStore(join(url, "store", "refused"), REFUSED, "group_id", what="a refused group")


def measurement_store(url: str | Path) -> RowStore:
    return RowStore(join(url, "store", "measurements"), MEASUREMENT, "row_id", what="a measurement")


def span_store(url: str | Path) -> RowStore:
    return RowStore(join(url, "timeline"), SPAN, "span_id", what="a span of the timeline", lossy=True)


def read_groups(url: str | Path, first: int | None = None) -> list[PromptGroup]:
    """The committed groups (all, or the first few) by id, whatever order they arrived in."""
    store = group_store(url)
    return [PromptGroup.from_row(store.get(group_id)) for group_id in sorted(store.keys())[:first]]


def _curves(policy: str) -> str:
    return policy + ".curves.json"
