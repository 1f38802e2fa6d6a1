"""What a run folder holds, by name, and the first things written there.

config.yaml versions.json prompts.json     what was asked, with what, on what (and what was quarantined)
fingerprints.json                          the base and the critic
store/groups store/refused                 Parquet shards: prompt groups, slots given up
store/measurements timeline                measurements; who did what when
intake                                     which groups the training saw from which step on
train/                                     checkpoints of the Ray Train run
policies/                                  adapters (peft/diffusers layout), gate, curves
tensorboard/                               curves, heat maps of the gate, clips
videos/                                    evaluation clips with sound
report.html report.json
.lock                                      whose run it is (a file lock, or a lease where the folder is on S3)

The folder is a local path or an s3:// URL.
"""

from __future__ import annotations

import dataclasses
import logging
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ft2ray
from ft2ray.config import AlignConfig, load_config, read_yaml, to_yaml
from ft2ray.errors import DataError, StoredDataError
from ft2ray.records import Prompt
from ft2ray.rounds.prompts import Plan, Quarantined
from ft2ray.storage import (
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

EARLIER_SECTIONS = {"preference", "cluster", "plan"}  # of settings before they had their owners' names
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

AGAIN = "`ft2ray align` with the settings of this run writes it again"

log = logging.getLogger(__name__)


def publish(run_dir: str | Path, policy: str | Path) -> None:
    """Make `policy` (a folder below policies/) the one that the run stands for."""
    current, name = join(run_dir, "policies", "current"), base_name(policy).encode()
    if not exists(current) or read_bytes(current) != name:
        write_atomically(current, name)


def policy_dir(run_dir: str | Path) -> str:
    """The current policy; raises ValueError where the run has none (yet)."""
    current = join(run_dir, "policies", "current")
    if not exists(current):
        raise DataError(
            f"{run_dir} holds no trained policy; run `ft2ray align run_dir={run_dir}` to its end first"
        )
    return join(run_dir, "policies", read_bytes(current).decode())


def write_inputs(config: AlignConfig, plan: Plan) -> None:
    versions = {package: metadata.version(package) for package in PACKAGES}
    versions |= {
        "ft2ray": ft2ray.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    write_atomically(join(config.run_dir, "config.yaml"), to_yaml(config).encode())
    _write_json(config.run_dir, "versions.json", versions)
    _write_json(config.run_dir, "prompts.json", dataclasses.asdict(plan))


def read_config(run_dir: str | Path, overrides: Sequence[str] = ()) -> AlignConfig:
    """The settings of the run in this folder, wherever it lay when they were written."""
    file = join(run_dir, "config.yaml")
    if not exists(file):
        raise DataError(f"{run_dir} is not a run folder: it has no config.yaml")
    if EARLIER_SECTIONS & read_yaml(local_copy(file)).keys():
        raise DataError(
            f"{run_dir} was written by an earlier version, whose settings had other names; read it with that "
            "version, or start a new run_dir"
        )
    return load_config(local_copy(file), overrides).replaced(run_dir=absolute(run_dir))


def read_plan(run_dir: str | Path) -> Plan:
    tree = read_json(join(run_dir, "prompts.json"), "the list of prompts", AGAIN)
    return Plan(
        curation=[Prompt(**p) for p in tree["curation"]],
        evaluation=[Prompt(**p) for p in tree["evaluation"]],
        quarantined=[Quarantined(**q) for q in tree["quarantined"]],
    )


def read_versions(run_dir: str | Path) -> dict[str, str]:
    return read_json(join(run_dir, "versions.json"), "the list of versions", AGAIN)


def write_fingerprints(run_dir: str | Path, generator: str, critic: str) -> None:
    """Which base and which critic the run works with: nobody has to load them to find its groups."""
    _write_json(run_dir, "fingerprints.json", {"generator": generator, "critic": critic})


def read_fingerprints(run_dir: str | Path) -> tuple[str, str]:
    """Generator and critic of the run; ValueError where none has begun."""
    file = join(run_dir, "fingerprints.json")
    if not exists(file):
        raise DataError(
            f"{run_dir} holds no run that has begun; start it with `ft2ray align run_dir={run_dir}`"
        )
    found = read_json(file, "the note of base and critic", AGAIN)
    return found["generator"], found["critic"]


def progress_url(run_dir: str, key: str) -> str:
    """Where rank 0 of the training `key` says how far it is: {"step"}."""
    return join(run_dir, "train", f"{key}.progress.json")


def training_url(run_dir: str, key: str) -> str:
    """A file that is there while the training `key` may publish policies, where generators wait for them."""
    return join(run_dir, "train", f"{key}.training")


def add_seconds(run_dir: str | Path, stage: str, seconds: float) -> None:
    """Wall time per stage, summed over all attempts."""
    times = read_seconds(run_dir)
    times[stage] = times.get(stage, 0.0) + seconds
    _write_json(run_dir, "seconds.json", times)


def read_seconds(run_dir: str | Path) -> dict[str, float]:
    file = join(run_dir, "seconds.json")
    try:
        return (
            read_json(file, "the note of wall times", "they are counted from 0 again") if exists(file) else {}
        )
    except StoredDataError as error:  # nothing depends on them
        log.warning("%s", error)
        return {}


def _write_json(run_dir: str | Path, file: str, value: dict[str, Any]) -> None:
    write_json(join(run_dir, file), value)
