"""Adapters of a run out to other programs, and adapters trained elsewhere in.

OUT_DIR/<system>.safetensors            one LoRA per system that is a plain LoRA: experts, dpo_sum, uniform
OUT_DIR/tlpo_<i>of<n>.safetensors       the gate's experts merged for a bucket of timesteps
OUT_DIR/adapters.json                   what each file is: strength, range of t, error of the bucketing
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from ft2ray.errors import DataError
from ft2ray.generator.base import Generator
from ft2ray.generator.sampler import timesteps
from ft2ray.loaders import load_generator
from ft2ray.run import Run, read_groups
from ft2ray.storage import exists, join, list_files, local_copy, local_folder, new_folder
from ft2ray.systems import TLPO
from ft2ray.tlpo.formats.adapters import (
    LAYOUTS,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    Adapter,
    read_adapter,
    write_adapter,
)
from ft2ray.tlpo.formats.buckets import (
    Bucket,
    BucketError,
    bucketing_errors,
    merged_adapter,
    timestep_buckets,
)
from ft2ray.tlpo.policy import AttachedPolicy, Policy, load_policy, save_policy
from ft2ray.tlpo.run import conditions_of

INDEX = "adapters.json"
SAMPLES = 4  # stored candidates, each of another prompt, on which the error of the bucketing is measured


def export_run_adapters(
    run_dir: str, out: str, layout: str = "diffusers", buckets: int = 4, allow_code: bool = False
) -> dict[str, Any]:
    """Write the adapters of a run's policy to the new folder `out`; returns what adapters.json says.

    A gate gives its experts other weights at every timestep, which no LoRA file can. It is written as
    `buckets` merged files, each for a range of t, with the error against the exact gate on candidates of
    the run. Raises ValueError where there is nothing to export or `out` holds files already.
    """
    if layout not in LAYOUTS:
        raise DataError(f"adapter: layout {layout!r} is unknown; take one of {', '.join(LAYOUTS)}")
    run = Run.open(run_dir)
    config, folder = run.config, run.current_policy
    if list_files(out, recursive=True):
        raise DataError(f"{out} holds files already; give a new folder")
    generator = load_generator(config.generator.weights, allow_code)
    policy = load_policy(folder, generator.fingerprint)
    files: dict[str, tuple[dict[str, Any], Adapter]] = {
        f"{system}.safetensors": ({"system": system}, a) for system, a in _static_systems(policy).items()
    }
    if TLPO in policy.systems:
        found = _bucketed(run, generator, policy, buckets)
        for number, (bucket, error) in enumerate(found, 1):
            about: dict[str, Any] = {
                "system": TLPO,
                "t": [bucket.high, bucket.low],
                "sampler_t": bucket.times_S.tolist(),
                "error": dataclasses.asdict(error),
            }
            name = f"tlpo_{number}of{len(found)}.safetensors"
            files[name] = (about, merged_adapter(policy, bucket.weights_NK))
    index = {
        "policy": policy.fingerprint,
        "base": policy.base_fingerprint,
        "layout": layout,
        "files": {
            name: {**about, "rank": adapter[0].r, "alpha": adapter[0].lora_alpha}
            for name, (about, adapter) in files.items()
        },
    }
    with new_folder(out, last=INDEX) as where:
        for name, (_, adapter) in files.items():
            write_adapter(where / name, adapter, layout)
        (where / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return index


def import_run_adapter(file: str, run_dir: str, dimension: str, allow_code: bool = False) -> str:
    """Put the LoRA `file` in the place of a run's expert; returns the new current policy's folder.

    The gate stays the one that was trained with the former expert, and the former policy stays in the run.
    """
    run = Run.open(run_dir)
    config, folder = run.config, run.current_policy
    generator = load_generator(config.generator.weights, allow_code)
    policy = load_policy(folder, generator.fingerprint)
    if dimension not in policy.dimensions:
        raise DataError(f"{run_dir} has no dimension {dimension!r}; it has {', '.join(policy.dimensions)}")
    adapter = read_adapter(_local(file), generator.transformer)
    policy = dataclasses.replace(policy, adapters={**policy.adapters, dimension: adapter})
    imported = run.imported_policy(policy.fingerprint)
    save_policy(imported, policy)
    run.publish(imported)
    return imported


def _local(file: str) -> Path:
    """A LoRA file, or a folder in peft's layout (named by itself or by its weights), on this machine."""
    folder = file.removesuffix("/" + PEFT_WEIGHTS)
    if exists(join(folder, PEFT_CONFIG)):
        return local_folder(folder)
    if not exists(file):
        raise DataError(f"adapter: no file {file}; give a .safetensors file or a folder in peft's layout")
    return local_copy(file)


def _static_systems(policy: Policy) -> dict[str, Adapter]:
    """Systems that are one LoRA, exactly."""
    found = {}
    for name, system in policy.systems.items():
        if system.weights == "equal":
            count = len(system.adapters)
            found[name] = merged_adapter(policy, torch.full((1, count), 1 / count))
        elif system.weights == "full" and system.adapters:
            found[name] = policy.adapters[system.adapters[0]]
    return found


def _bucketed(
    run: Run, generator: Generator, policy: Policy, buckets: int
) -> list[tuple[Bucket, BucketError]]:
    groups = read_groups(run.url, SAMPLES)
    if not groups:
        raise DataError(f"{run.url} holds no curated groups to measure the error of the bucketing on")
    samples = []
    for group in groups:
        x_CFHW = torch.from_numpy(group.candidates[0].latents_CFHW)
        samples.append((x_CFHW[None], [conditions_of(group)]))
    assert policy.gate is not None
    sampling = run.config.generator.sampling
    times_S = torch.tensor(timesteps(sampling.steps, sampling.shift)[:-1])
    found = timestep_buckets(policy.gate, generator.transformer.timestep_embedding, times_S, buckets)
    attached = AttachedPolicy(generator.transformer, policy)
    return list(zip(found, bucketing_errors(generator.velocity, attached, found, samples), strict=True))
