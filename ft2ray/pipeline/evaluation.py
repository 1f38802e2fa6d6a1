"""Evaluation on Ray Data: every system on every held-out prompt and seed, measured from decoded pixels.

One row is (prompt, seed); its systems share prompt, noise and sampler, so differences are paired. Each row
is committed atomically and never measured twice.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from ft2ray.config import AlignConfig
from ft2ray.errors import StoredDataError
from ft2ray.evaluation.compare import REFERENCES
from ft2ray.evaluation.findings import DISPLACEMENT
from ft2ray.evaluation.judge import EMBEDDED, Judge
from ft2ray.media.video import write_video
from ft2ray.pipeline.deaths import watched
from ft2ray.pipeline.memory import JUDGE_GB
from ft2ray.records import Prompt, content_id
from ft2ray.resources import Pool
from ft2ray.rounds.prompts import read_clip
from ft2ray.rounds.schedule import recorded
from ft2ray.storage import (
    DIGESTS,
    RowStore,
    check_folder,
    delete_folder,
    exists,
    join,
    local_copy,
    local_folder,
    new_file,
    new_folder,
    seal_folder,
    versions,
)
from ft2ray.systems import BASE

log = logging.getLogger(__name__)

JUDGE = "judge.safetensors"

MEASUREMENT = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt_id", pa.string()),
        ("seed", pa.int64()),
        ("system", pa.string()),  # a system of the configuration, or a reference such as wrong_audio
        ("policy", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),  # absent or null is missing
        ("video", pa.string()),
    ]
)


def measurement_store(run_dir: str | Path) -> RowStore:
    return RowStore(join(run_dir, "store", "measurements"), MEASUREMENT, "row_id", what="a measurement")


def run_judge(config: AlignConfig) -> Path:
    """The judge of this run as one file: fitting it on a folder of clips takes a minute, once is enough."""
    source = config.evaluation.reference_clips
    if source is None:
        return EMBEDDED
    if exists(source):
        return local_copy(source)
    fitted = join(config.run_dir, "judges", content_id(source, versions(source)))
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
        seal_folder(folder)
    return local_folder(fitted) / JUDGE


def row_id(
    config: AlignConfig, prompt_id: str, seed: int, system: str, generator: str, policy: str, judge: str
) -> str:
    return content_id(prompt_id, seed, system, recorded(config.generator.sampling), generator, policy, judge)


class MeasurePrompt:
    """Ray Data actor: (prompt, seed) -> one committed measurement per system and reference."""

    def __init__(self, config: AlignConfig, policy_dir: str, with_video: frozenset[str]):
        import torch

        from ft2ray.loaders import load_generator
        from ft2ray.media.face import FaceMesher
        from ft2ray.tlpo.policy import AttachedPolicy, load_policy

        torch.set_num_threads(1)
        self.config, self.with_video = config, with_video
        self.generator = load_generator(config.generator.weights, allow_code=True)
        self.policy = load_policy(policy_dir, self.generator.fingerprint)
        self.attached = AttachedPolicy(self.generator.transformer, self.policy)
        self.judge = Judge.load(run_judge(config))
        self.mesher = FaceMesher()
        self.store = measurement_store(config.run_dir)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ft2ray.evaluation.measure import measure_clip
        from ft2ray.media.portrait import load_portrait

        seed = row.pop("seed")
        prompt = Prompt(**row)
        portrait = load_portrait(prompt.portrait, size=self.config.generator.size, mesher=self.mesher)
        wav_T = read_clip(prompt, self.config.prompts.max_recording_seconds)
        conditions, fps = self.generator.encode_prompt(portrait, wav_T), self.generator.fps
        noise_seed = int(content_id("evaluation", seed, prompt.prompt_id)[:8], 16)
        rows: list[dict[str, Any]] = []
        base_CFHW = None
        for system in sorted(self.config.systems, key=lambda name: name != BASE):
            self.attached.use(system)
            x_CFHW = self.generator.sample(conditions, noise_seed, self.config.generator.sampling)
            frames_FHW3 = self.generator.decode(portrait, x_CFHW)
            measured = measure_clip(frames_FHW3, wav_T, fps, portrait, self.judge, self.mesher)
            video = None
            if prompt.prompt_id in self.with_video and seed == self.config.evaluation.seeds[0]:
                video = f"videos/{prompt.prompt_id}_{system}.mp4"
                with new_file(join(self.config.run_dir, video)) as file:
                    write_video(file, frames_FHW3, fps, wav_T)
            base_CFHW = x_CFHW if base_CFHW is None else base_CFHW
            moved = float((x_CFHW - base_CFHW).norm() / base_CFHW.norm())
            metrics = measured.metrics() | {DISPLACEMENT: moved}
            rows.append(self._row(prompt.prompt_id, seed, system, metrics, video))
            if system == BASE:
                for reference, metrics in measured.audio_references().items():
                    rows.append(self._row(prompt.prompt_id, seed, reference, metrics, None))
        self.store.commit(rows)
        return {"prompt_id": prompt.prompt_id, "seed": seed, "clips": len(self.config.systems)}

    def _row(
        self, prompt_id: str, seed: int, system: str, metrics: dict[str, float | None], video: str | None
    ) -> dict:
        key = row_id(
            self.config,
            prompt_id,
            seed,
            system,
            self.generator.fingerprint,
            self.policy.fingerprint,
            self.judge.fingerprint,
        )
        return {
            "row_id": key,
            "prompt_id": prompt_id,
            "seed": seed,
            "system": system,
            "policy": self.policy.fingerprint,
            "metrics": list(metrics.items()),
            "video": video,
        }


def measured(
    config: AlignConfig, prompts: list[Prompt], generator: str, policy: str, judge: str
) -> list[dict[str, Any]]:
    """The committed measurements of exactly these prompts, settings, generator, policy and judge."""
    wanted = {
        row_id(config, prompt.prompt_id, seed, system, generator, policy, judge)
        for prompt in prompts
        for seed in config.evaluation.seeds
        for system in (*config.systems, *REFERENCES)
    }
    return [row for row in measurement_store(config.run_dir).rows() if row["row_id"] in wanted]


def evaluators(config: AlignConfig) -> Pool:
    """The pool of generators, each with a judge beside it."""
    pool = config.resources.pools.generators
    return pool if pool.memory is None else pool.replaced(memory=pool.memory + JUDGE_GB)


def evaluate(
    config: AlignConfig, prompts: list[Prompt], generator: str, judge: str, policy_dir: str
) -> Iterator[dict[str, Any]]:
    """Measure what the store lacks; yields one summary per finished (prompt, seed)."""
    from ft2ray.tlpo.policy import published_fingerprint

    policy = published_fingerprint(policy_dir)
    done = measurement_store(config.run_dir).keys()
    todo = [
        dataclasses.asdict(prompt) | {"seed": seed}
        for seed in config.evaluation.seeds
        for prompt in prompts
        if any(
            row_id(config, prompt.prompt_id, seed, system, generator, policy, judge) not in done
            for system in config.systems
        )
    ]
    if not todo:
        return
    with_video = frozenset(p.prompt_id for p in prompts[: config.evaluation.report_videos])
    rows = ray.data.from_items(todo, override_num_blocks=len(todo)).map(
        MeasurePrompt,  # type: ignore[arg-type]  # Ray's annotations lack callable classes
        fn_constructor_args=(config, policy_dir, with_video),
        compute=ActorPoolStrategy(size=min(config.resources.pools.generators.count, len(todo))),
        **evaluators(config).options(),
    )
    yield from watched(rows.iter_rows(), config.run_dir)
