"""Curation: Ray Data streams prompts through generator actors and the critic into the store.

prompt row -> GenerateGroup (actor pool: encode once, N candidates, decode, clip views)
           -> ScoreAndCommit (critic over a Serve handle, one atomic shard per group)

Candidates are a pure function of (prompt, generator, policy, seed, sampler), so a run that is killed
anywhere goes on where the store ends.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy

from ft2ray.config import AlignConfig
from ft2ray.media.errors import MediaError
from ft2ray.media.video import FPS, write_video
from ft2ray.pipeline.prompts import read_clip
from ft2ray.records import GROUP, Candidate, Draw, Prompt, PromptGroup, content_id
from ft2ray.storage import RowStore

BASE_POLICY = "base"  # the policy of candidates that the un-aligned generator made


def group_store(run_dir: str | Path) -> RowStore:
    return RowStore(Path(run_dir) / "store" / "groups", GROUP, "group_id")


def read_groups(run_dir: str | Path) -> list[PromptGroup]:
    """All committed groups in the order of their ids: the same list whatever order they arrived in."""
    return sorted(
        (PromptGroup.from_row(row) for row in group_store(run_dir).rows()), key=lambda g: g.group_id
    )


def draws(config: AlignConfig, prompt_id: str) -> list[Draw]:
    """The candidates of one prompt: own seeds, guidance dealt round-robin."""
    scales = config.curation.audio_scales
    return [
        Draw(
            seed=int(content_id(config.seed, prompt_id, n)[:8], 16),
            sampler={
                "steps": config.generator.steps,
                "shift": config.generator.shift,
                "text_scale": config.generator.text_scale,
                "audio_scale": scales[n % len(scales)],
            },
        )
        for n in range(config.curation.candidates)
    ]


def group_id(config: AlignConfig, prompt_id: str, generator: str, policy: str) -> str:
    return content_id([draw.candidate_id(prompt_id, generator, policy) for draw in draws(config, prompt_id)])


class GenerateGroup:
    """Ray Data actor: one prompt row -> its group (unscored) and one critic view per candidate."""

    def __init__(self, config: AlignConfig, policy_dir: str | None):
        import torch

        from ft2ray.media.face import FaceMesher
        from ft2ray.parts import load_generator

        torch.set_num_threads(1)
        self.config = config
        self.generator = load_generator(config.generator.weights)
        self.mesher = FaceMesher()
        self.policy = BASE_POLICY
        if policy_dir is not None:
            from ft2ray.tlpo.policy import apply_system, load_policy

            policy = load_policy(policy_dir, self.generator.fingerprint)
            apply_system(self.generator.transformer, policy, "tlpo")
            self.policy = policy.fingerprint

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ft2ray.critic.view import clip_view
        from ft2ray.generator.sampler import SamplerConfig
        from ft2ray.media.portrait import load_portrait

        prompt = Prompt(**row)
        fingerprint = self.generator.fingerprint
        try:
            portrait = load_portrait(prompt.portrait, size=self.config.prompts.size, mesher=self.mesher)
            wav_T = read_clip(prompt)
        except MediaError as error:  # readable when the run was planned, but not any more
            return {
                "group": None,
                "views": None,
                "quarantine": json.dumps(
                    [f"{prompt.portrait} with {prompt.speech}", error.reason, str(error)]
                ),
            }
        conditions = self.generator.encode_prompt(portrait, wav_T)
        candidates, views = [], []
        for draw in draws(self.config, prompt.prompt_id):
            x_CFHW = self.generator.sample(conditions, draw.seed, SamplerConfig(**draw.sampler))
            frames_FHW3 = self.generator.decode(portrait, x_CFHW)
            identity = draw.candidate_id(prompt.prompt_id, fingerprint, self.policy)
            video = None
            if self.config.curation.keep_videos:
                video = f"store/videos/{identity}.mp4"
                write_video(Path(self.config.run_dir) / video, frames_FHW3, FPS, wav_T)
            try:
                view, unseen = clip_view(frames_FHW3, wav_T, FPS, self.mesher), None
            except ValueError as problem:  # no face to look at: a candidate without scores, not a score of 0
                view, unseen = None, str(problem)
            views.append(view)
            candidates.append(
                Candidate(
                    candidate_id=identity,
                    policy=self.policy,
                    seed=draw.seed,
                    sampler=draw.sampler,
                    latents_CFHW=x_CFHW.numpy(),
                    lip_mask=self.generator.lip_mask(x_CFHW).numpy(),
                    video=video,
                    error=unseen,
                )
            )
        group = PromptGroup(
            group_id=group_id(self.config, prompt.prompt_id, fingerprint, self.policy),
            prompt_id=prompt.prompt_id,
            portrait=prompt.portrait,
            portrait_id=portrait.portrait_id,
            speech=prompt.speech,
            start_seconds=prompt.start_seconds,
            seconds=prompt.seconds,
            generator=fingerprint,
            critic=None,
            dimensions=self.config.tlpo.dimensions,
            text_LD=None if conditions.text_LD is None else conditions.text_LD.numpy(),
            audio_LD=conditions.audio_LD.numpy(),
            frames=conditions.frames,
            candidates=candidates,
        )
        return {"group": group, "views": views, "quarantine": None}


class ScoreAndCommit:
    """Ray Data actor: scores a group's views through the critic deployment, commits, returns a summary."""

    def __init__(self, config: AlignConfig):
        from ray import serve

        from ft2ray.pipeline.critic_service import APP

        self.config = config
        self.handle = serve.get_app_handle(APP)
        self.critic = self.handle.fingerprint.remote().result(timeout_s=config.critic.timeout_seconds)
        self.store = group_store(config.run_dir)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ft2ray.pipeline.critic_service import score_views

        if row["group"] is None:
            return {"candidates": 0, "unscored": 0, "quarantine": row["quarantine"]}
        group: PromptGroup = row["group"]
        seen = [(c, view) for c, view in zip(group.candidates, row["views"], strict=True) if view is not None]
        critic = self.config.critic
        results = score_views(self.handle, [view for _, view in seen], critic.timeout_seconds, critic.retries)
        for (candidate, _), (scores, error) in zip(seen, results, strict=True):
            candidate.scores, candidate.error = scores, error
        group.critic = self.critic
        self.store.commit([group.to_row()])
        unscored = sum(candidate.scores is None for candidate in group.candidates)
        return {"candidates": len(group.candidates), "unscored": unscored, "quarantine": None}


def curated(config: AlignConfig, prompts: list[Prompt], generator: str) -> list[PromptGroup]:
    """The committed groups that this configuration asks for (a folder may hold those of others too)."""
    wanted = {group_id(config, p.prompt_id, generator, BASE_POLICY) for p in prompts}
    return [group for group in read_groups(config.run_dir) if group.group_id in wanted]


def missing_prompts(config: AlignConfig, prompts: list[Prompt], generator: str, policy: str) -> list[Prompt]:
    """The prompts whose group is not committed yet."""
    committed = group_store(config.run_dir).keys()
    return [p for p in prompts if group_id(config, p.prompt_id, generator, policy) not in committed]


def curate(config: AlignConfig, prompts: list[Prompt], policy_dir: str | None) -> Iterator[dict[str, Any]]:
    """Make, score and commit the groups of `prompts`; yields one summary per finished group."""
    rows = ray.data.from_items([dataclasses.asdict(p) for p in prompts], override_num_blocks=len(prompts))
    groups = rows.map(
        GenerateGroup,  # type: ignore[arg-type]  # Ray's annotations lack callable classes
        fn_constructor_args=(config, policy_dir),
        compute=ActorPoolStrategy(size=min(config.cluster.generators, len(prompts))),
        num_cpus=config.cluster.generator_cpus,
        num_gpus=config.cluster.generator_gpus,
    ).map(
        ScoreAndCommit,  # type: ignore[arg-type]
        fn_constructor_args=(config,),
        compute=ActorPoolStrategy(size=1),
        num_cpus=0.1,
    )
    yield from groups.iter_rows()
