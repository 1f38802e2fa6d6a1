"""What a run folder holds, by name, and the first things written there.

config.yaml versions.json prompts.json     what was asked, with what, on what (and what was quarantined)
store/groups store/measurements            Parquet shards: prompt groups, measurements
train/                                     checkpoints of the Ray Train run
policies/                                  adapters (peft/diffusers layout), gate, curves
tensorboard/ videos/                       scalars; evaluation clips with sound
report.html report.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from filelock import FileLock, Timeout

import ft2ray
from ft2ray.config import AlignConfig, load_config, to_yaml
from ft2ray.pipeline.prompts import Plan, Quarantined
from ft2ray.records import Prompt
from ft2ray.storage import write_atomically

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


def publish(run_dir: str | Path, policy: Path) -> None:
    """Make `policy` (a folder below policies/) the one that the run stands for."""
    write_atomically(Path(run_dir) / "policies" / "current", policy.name.encode())


def policy_dir(run_dir: str | Path) -> Path:
    """The current policy; raises ValueError where the run has none (yet)."""
    current = Path(run_dir) / "policies" / "current"
    if not current.is_file():
        raise ValueError(
            f"{run_dir} holds no trained policy; run `ft2ray align run_dir={run_dir}` to its end first"
        )
    return current.parent / current.read_text()


@contextlib.contextmanager
def exclusive(run_dir: str | Path) -> Iterator[None]:
    """Only one `align` works in a run folder; the lock goes with the process, however that ends."""
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    lock = FileLock(Path(run_dir) / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"another ft2ray align is working in {run_dir}; wait for it or choose another run_dir"
        ) from error


def write_inputs(config: AlignConfig, plan: Plan) -> None:
    root = Path(config.run_dir)
    versions = {name: metadata.version(name) for name in PACKAGES}
    versions |= {
        "ft2ray": ft2ray.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    write_atomically(root / "config.yaml", to_yaml(config).encode())
    write_atomically(root / "versions.json", json.dumps(versions, indent=1).encode())
    write_atomically(root / "prompts.json", json.dumps(dataclasses.asdict(plan), indent=1).encode())


def read_config(run_dir: str | Path) -> AlignConfig:
    file = Path(run_dir) / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{run_dir} is not a run folder: it has no config.yaml")
    return load_config(file)


def read_plan(run_dir: str | Path) -> Plan:
    tree = json.loads((Path(run_dir) / "prompts.json").read_text())
    return Plan(
        curation=[Prompt(**p) for p in tree["curation"]],
        evaluation=[Prompt(**p) for p in tree["evaluation"]],
        quarantined=[Quarantined(**q) for q in tree["quarantined"]],
    )


def add_quarantined(run_dir: str | Path, quarantined: Quarantined) -> None:
    """Media that was found unusable only after the prompts were planned."""
    plan = read_plan(run_dir)
    if quarantined not in plan.quarantined:
        plan.quarantined.append(quarantined)
        write_atomically(
            Path(run_dir) / "prompts.json", json.dumps(dataclasses.asdict(plan), indent=1).encode()
        )


def add_seconds(run_dir: str | Path, stage: str, seconds: float) -> None:
    """Wall time per stage, summed over all attempts."""
    times = read_seconds(run_dir)
    times[stage] = times.get(stage, 0.0) + seconds
    write_atomically(Path(run_dir) / "seconds.json", json.dumps(times).encode())


def read_seconds(run_dir: str | Path) -> dict[str, float]:
    file = Path(run_dir) / "seconds.json"
    return json.loads(file.read_text()) if file.is_file() else {}
