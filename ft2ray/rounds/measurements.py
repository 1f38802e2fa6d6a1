"""Which measurements a run's evaluation wants, and which of them there are."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ft2ray.errors import StoredDataError
from ft2ray.evaluation.compare import REFERENCES
from ft2ray.evaluation.judge import EMBEDDED, Judge
from ft2ray.records import content_id
from ft2ray.rounds.schedule import recorded
from ft2ray.run import Run
from ft2ray.storage import (
    DIGESTS,
    check_folder,
    delete_folder,
    exists,
    join,
    local_copy,
    local_folder,
    new_folder,
    versions,
    write_digests,
)

log = logging.getLogger(__name__)

JUDGE = "judge.safetensors"


def run_judge(run: Run) -> Path:
    """The judge of this run as one file: fitting it on a folder of clips takes a minute, once is enough."""
    source = run.config.evaluation.reference_clips
    if source is None:
        return EMBEDDED
    if exists(source):
        return local_copy(source)
    fitted = run.file("judges", content_id(source, versions(source)))
    if exists(join(fitted, DIGESTS)):
        folder = local_folder(fitted)
        try:
            check_folder(folder, "the judge of this run", "it is fitted again")
            return folder / JUDGE
        except StoredDataError as error:
            log.warning("%s", error)
            delete_folder(fitted)
    judge = Judge.load(local_folder(source))
    with new_folder(fitted, last=DIGESTS) as folder:
        judge.save(folder / JUDGE)
        write_digests(folder)
    return local_folder(fitted) / JUDGE


def row_id(run: Run, prompt_id: str, seed: int, system: str, policy: str, judge: str) -> str:
    """Identity of a measurement.

    Args:
        run: whose generator and sampler settings count.
        prompt_id: of the held-out prompt.
        seed: of the noise.
        system: which of the policy's.
        policy: fingerprint of the policy.
        judge: fingerprint of the judge.
    """
    sampling = recorded(run.config.generator.sampling)
    return content_id(prompt_id, seed, system, sampling, run.generator, policy, judge)


def measured(run: Run, policy: str, judge: str) -> list[dict[str, Any]]:
    """The committed measurements of exactly the run's prompts, settings, generator, policy and judge."""
    wanted = wanted_rows(run, (*run.config.systems, *REFERENCES), policy, judge)
    return [row for row in run.measurements.rows() if row["row_id"] in wanted]


def wanted_rows(run: Run, systems: tuple[str, ...], policy: str, judge: str) -> set[str]:
    """Ids of the measurements of these systems and references, on every held-out prompt and seed."""
    return {
        row_id(run, prompt.prompt_id, seed, system, policy, judge)
        for prompt in run.plan.evaluation
        for seed in run.config.evaluation.seeds
        for system in systems
    }
