"""Evaluation on Ray Data: every system on every held-out prompt and seed, measured from decoded pixels.

One row is (prompt, seed); its systems share prompt, noise and sampler, so differences are paired. Each row
is committed atomically and never measured twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy

from ft2ray.config import AlignConfig
from ft2ray.evaluation.findings import DISPLACEMENT
from ft2ray.evaluation.judge import Judge
from ft2ray.media.video import write_video
from ft2ray.pipeline.deaths import watched
from ft2ray.pipeline.memory import JUDGE_GB
from ft2ray.records import Prompt, content_id
from ft2ray.resources import Pool
from ft2ray.rounds.measurements import row_id, run_judge
from ft2ray.rounds.prompts import read_sound
from ft2ray.run import Run
from ft2ray.storage import new_file
from ft2ray.systems import BASE
from ft2ray.tlpo.description import published_fingerprint

if TYPE_CHECKING:
    from ft2ray.media.portrait import Portrait


class MeasurePrompt:
    """Ray Data actor: (prompt, seed) -> one committed measurement per system and reference."""

    def __init__(self, run: Run, policy_dir: str, with_video: frozenset[str]):
        import torch

        from ft2ray.loaders import load_generator
        from ft2ray.media.face import FaceMesher
        from ft2ray.tlpo.policy import AttachedPolicy, load_policy

        torch.set_num_threads(1)
        self.run, self.config, self.with_video = run, run.config, with_video
        self.generator = load_generator(self.config.generator.weights, allow_code=True)
        self.policy = load_policy(policy_dir, self.generator.fingerprint)
        self.attached = AttachedPolicy(self.generator.transformer, self.policy)
        self.judge = Judge.load(run_judge(run))
        self.mesher = FaceMesher()
        self.store = run.measurements
        # The seeds of a prompt follow each other: its portrait need not be searched for a face again.
        self.read = lru_cache(maxsize=4)(self._read)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ft2ray.evaluation.measure import measure_clip

        seed = row.pop("seed")
        prompt = Prompt(**row)
        portrait, wav_T = self.read(prompt)
        conditions, fps = self.generator.encode_prompt(portrait, wav_T), self.generator.fps
        noise_seed = int(content_id("evaluation", seed, prompt.prompt_id)[:8], 16)
        rows: list[dict[str, Any]] = []
        base_CFHW = None
        for system in sorted(self.config.systems, key=lambda name: name != BASE):
            self.attached.use(system)
            x_CFHW = self.generator.finite_sample(conditions, noise_seed, self.config.generator.sampling)
            frames_FHW3 = self.generator.decode(portrait, x_CFHW)
            measured = measure_clip(frames_FHW3, wav_T, fps, portrait, self.judge, self.mesher)
            video = None
            if prompt.prompt_id in self.with_video and seed == self.config.evaluation.seeds[0]:
                video = f"videos/{prompt.prompt_id}_{system}.mp4"
                with new_file(self.run.file(video)) as file:
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

    def _read(self, prompt: Prompt) -> tuple[Portrait, np.ndarray]:
        """The portrait and the sound (wav_T)."""
        from ft2ray.media.portrait import load_portrait

        portrait = load_portrait(prompt.portrait, size=self.config.generator.size, mesher=self.mesher)
        return portrait, read_sound(prompt, self.config.prompts.max_recording_seconds)

    def _row(
        self, prompt_id: str, seed: int, system: str, metrics: dict[str, float | None], video: str | None
    ) -> dict:
        return {
            "row_id": row_id(
                self.run, prompt_id, seed, system, self.policy.fingerprint, self.judge.fingerprint
            ),
            "prompt_id": prompt_id,
            "seed": seed,
            "system": system,
            "policy": self.policy.fingerprint,
            "metrics": list(metrics.items()),
            "video": video,
        }


def evaluators(config: AlignConfig) -> Pool:
    """The pool of generators, each with a judge beside it."""
    pool = config.resources.pools.generators
    return pool if pool.memory is None else pool.replaced(memory=pool.memory + JUDGE_GB)


def evaluate(run: Run, judge: str, policy_dir: str) -> Iterator[dict[str, Any]]:
    """Measure what the store lacks; yields one summary per finished (prompt, seed)."""
    config, prompts, policy = run.config, run.plan.evaluation, published_fingerprint(policy_dir)
    done = run.measurements.keys()
    todo = [
        dataclasses.asdict(prompt) | {"seed": seed}
        for prompt in prompts
        for seed in config.evaluation.seeds
        if any(
            row_id(run, prompt.prompt_id, seed, system, policy, judge) not in done
            for system in config.systems
        )
    ]
    if not todo:
        return
    with_video = frozenset(p.prompt_id for p in prompts[: config.evaluation.report_videos])
    rows = ray.data.from_items(todo, override_num_blocks=len(todo)).map(
        MeasurePrompt,  # type: ignore[arg-type]  # Ray's annotations lack callable classes
        fn_constructor_args=(run, policy_dir, with_video),
        compute=ActorPoolStrategy(size=min(config.resources.pools.generators.count, len(todo))),
        **evaluators(config).options(),
    )
    yield from watched(rows, config.run_dir)
