"""Curation: Ray Data streams groups through generator actors and the critic into the store.

GroupSpec -> GenerateGroup (actor pool: newest policy, encode once, N candidates, decode, clip views)
         -> ScoreAndCommit (critic over a Serve handle, one atomic shard per group)

Candidates are a pure function of (prompt, generator, policy, seed, sampler), so a run that is killed
anywhere goes on where the store ends. A group is committed once: of two writers the first one wins.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ray
from ray.data import ActorPoolStrategy

from ft2ray.errors import CriticError, MediaError
from ft2ray.media.video import write_video
from ft2ray.observe.metrics import metric
from ft2ray.observe.timeline import Span, commit_spans
from ft2ray.pipeline.deaths import watched
from ft2ray.pipeline.memory import SCORER
from ft2ray.records import BASE_POLICY, Candidate, Prompt, PromptGroup, video_of
from ft2ray.rounds.prompts import read_sound
from ft2ray.rounds.schedule import GroupSpec, candidate_draws, oldest_policy
from ft2ray.run import Run
from ft2ray.storage import exists, new_file
from ft2ray.systems import TLPO

if TYPE_CHECKING:  # heavy: only the actors load them
    import numpy as np
    import torch

    from ft2ray.media.portrait import Portrait

# Share of a group's clips that the critic may fail on; those become nulls. Beyond it nothing of the group is
# committed: it would never be scored again.
MOST_FAILED = 0.5
POLL_SECONDS = 1.0  # of a generator that waits for a policy
SCORER_CPUS = 0.1  # of an actor that waits for the critic and writes shards


class GenerateGroup:
    """Ray Data actor: a spec -> its group (unscored) and one critic view per candidate."""

    def __init__(self, run: Run):
        import torch

        from ft2ray.loaders import load_generator, load_viewer
        from ft2ray.media.face import FaceMesher

        torch.set_num_threads(1)
        self.run, self.config = run, run.config
        config = run.config
        critic = config.critic
        self.viewer = load_viewer(critic.weights, critic.fps, critic.pixels, allow_code=True)
        self.generator = load_generator(config.generator.weights, allow_code=True)
        self.mesher = FaceMesher()
        self.stores = run.groups, run.refused
        self.version, self.policy = 0, BASE_POLICY
        self.lane = f"{platform.node()} {os.getpid()}"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ft2ray.media.portrait import load_portrait

        spec = GroupSpec(row["group_id"], row["round"], Prompt(**row["prompt"]))
        prompt = spec.prompt
        out: dict[str, Any] = {"spec": spec, "group": None, "views": [], "refused": None, "span": None}
        if any(store.has(spec.group_id) for store in self.stores):
            return out  # this is a retry, and the first attempt was committed
        if not self.take_newest_policy(spec.round):
            return out
        began = time.time()
        try:
            portrait = load_portrait(prompt.portrait, size=self.config.generator.size, mesher=self.mesher)
            wav_T = read_sound(prompt, self.config.prompts.max_recording_seconds)
        except MediaError as error:  # readable when the run was planned, but not any more
            path = f"{prompt.portrait} with {prompt.speech}"
            return out | {"refused": {"path": path, "reason": error.reason, "message": str(error)}}
        group, views = self.generate(spec, portrait, wav_T)
        span = Span("generate", self.lane, spec.group_id, spec.round, self.version, began, ended=time.time())
        return out | {"group": group, "views": views, "span": span}

    def take_newest_policy(self, round: int) -> bool:
        """Between two groups: the newest policy that `round` may use, if it is another one than before.

        Waits for the oldest that it may use; False where the training ended without it.
        """
        from ft2ray.tlpo.policy import apply_system, load_policy

        while (version := self.run.newest_policy(round)) < oldest_policy(self.config, round):
            in_turns = self.config.schedule.max_staleness == 0
            assert not in_turns, "the round began before its policy was published"
            if not exists(self.run.training):
                return False
            time.sleep(POLL_SECONDS)
        if version != self.version:
            policy = load_policy(self.run.policy(version), self.generator.fingerprint)
            apply_system(self.generator.transformer, policy, TLPO)
            self.version, self.policy = version, policy.fingerprint
        return True

    def generate(
        self, spec: GroupSpec, portrait: Portrait, wav_T: np.ndarray
    ) -> tuple[PromptGroup, list[Any]]:
        """The group without scores, and what the critic is to see of each candidate (None: nothing)."""
        import torch

        from ft2ray.generator.settings import SamplerSettings

        prompt, fingerprint = spec.prompt, self.generator.fingerprint
        conditions = self.generator.encode_prompt(portrait, wav_T)
        candidates: list[Candidate] = []
        views: list[Any] = []
        for draw in candidate_draws(self.config, spec.round, prompt.prompt_id):
            x_CFHW = self.generator.finite_sample(conditions, draw.seed, SamplerSettings(**draw.sampler))
            frames_FHW3 = self.generator.decode(portrait, x_CFHW)
            identity = draw.candidate_id(prompt.prompt_id, fingerprint, self.policy)
            video = None
            if self.config.resources.keep_videos:
                video = video_of(identity)
                with new_file(self.run.file(video)) as file:
                    write_video(file, frames_FHW3, self.generator.fps, wav_T)
            unseen, lip_mask = None, torch.ones(1, 1, 1, 1)
            try:
                view = self.viewer.view(frames_FHW3, wav_T, self.generator.fps, self.mesher)
                lip_mask = self.generator.lip_mask(x_CFHW)
            except MediaError as problem:  # no face to look at: a candidate without scores, not a score of 0
                view, unseen = None, str(problem)
            views.append(view)
            candidates.append(
                Candidate(
                    candidate_id=identity,
                    policy=self.policy,
                    seed=draw.seed,
                    sampler=draw.sampler,
                    latents_CFHW=x_CFHW.numpy(),
                    lip_mask=lip_mask.numpy(),
                    video=video,
                    error=unseen,
                )
            )
        group = PromptGroup(
            group_id=spec.group_id,
            round=spec.round,
            prompt_id=prompt.prompt_id,
            portrait=prompt.portrait,
            portrait_id=portrait.portrait_id,
            speech=prompt.speech,
            start_seconds=prompt.start_seconds,
            seconds=prompt.seconds,
            generator=fingerprint,
            critic=None,
            dimensions=self.config.dimension_names,
            text_LD=as_array(conditions.text_LD),
            audio_LD=conditions.audio_LD.numpy(),
            image_LD=as_array(conditions.image_LD),
            stacked_CFHW=as_array(conditions.latent_CFHW),
            frames=conditions.frames,
            candidates=candidates,
        )
        return group, views


def as_array(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.float().numpy()


class ScoreAndCommit:
    """Ray Data actor: scores a group's views through the critic deployment, commits, returns a summary."""

    def __init__(self, run: Run):
        from ray import serve

        from ft2ray.pipeline.critic_service import APP, call_seconds

        self.run, config = run, run.config
        self.config = config
        self.handle = serve.get_app_handle(APP)
        self.critic = run.critic  # of the run: a replica's may be another by now
        self.groupwise = self.handle.groupwise.remote().result(timeout_s=call_seconds(config.critic))
        self.groups, self.refused, self.spans = run.groups, run.refused, run.spans

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from ft2ray.pipeline.critic_service import call_seconds, score_views

        spec: GroupSpec = row["spec"]
        summary = {"group_id": spec.group_id, "round": spec.round, "unscored": 0}
        if row["refused"] is not None:
            self.refuse(spec, **row["refused"])
            return summary
        group: PromptGroup | None = row["group"]
        if group is None:
            return summary
        seen = [(c, view) for c, view in zip(group.candidates, row["views"], strict=True) if view is not None]
        if not seen:  # nothing that a later attempt would make otherwise: the group is given up
            self.refuse(
                spec, f"{group.portrait} with {group.speech}", "no_score", str(group.candidates[0].error)
            )
            return summary
        critic = self.config.critic
        views = [view for _, view in seen]
        results = score_views(
            self.handle, views, call_seconds(critic), critic.retries, self.critic, self.groupwise
        )
        failed = [error for _, error in results if error is not None]
        if len(failed) > MOST_FAILED * len(seen):
            raise CriticError(
                f"the critic failed on {len(failed)} of {len(seen)} clips of a group: {failed[0]}"
            )
        for (candidate, _), (scores, error) in zip(seen, results, strict=True):
            candidate.scores, candidate.error = scores, error
        group.critic = self.critic
        unscored = sum(candidate.scores is None for candidate in group.candidates)
        if self.groups.commit_once([group.to_row()]):
            self.report(row["span"], unscored)
        return summary | {"unscored": unscored}

    def refuse(self, spec: GroupSpec, path: str, reason: str, message: str) -> None:
        row = {"group_id": spec.group_id, "path": path, "reason": reason, "message": message}
        self.refused.commit_once([row])
        metric("ft2ray_refused_total").inc()

    def report(self, span: Span, unscored: int) -> None:
        commit_spans(self.spans, [span])
        metric("ft2ray_groups_total").inc(tags={"round": str(span.round)})
        if unscored:
            metric("ft2ray_candidates_unscored_total").inc(unscored)
        metric("ft2ray_group_seconds").observe(span.ended - span.began)
        metric("ft2ray_staleness_rounds").set(span.round - span.version)


def curate(run: Run, specs: Sequence[GroupSpec]) -> Iterator[dict[str, Any]]:
    """Make, score and commit the groups of `specs`, roughly in order; yields one summary for each.

    A generator waits for a policy that is not published yet, so that one stream, whose models
    are loaded once, may go through many rounds.
    """
    config = run.config
    items = [dataclasses.asdict(spec) for spec in specs]
    groups = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map(
            GenerateGroup,  # type: ignore[arg-type]  # Ray's annotations lack callable classes
            fn_constructor_args=(run,),
            compute=ActorPoolStrategy(size=min(config.resources.pools.generators.count, len(items))),
            **config.resources.pools.generators.options(),
        )
        .map(
            ScoreAndCommit,  # type: ignore[arg-type]
            fn_constructor_args=(run,),
            compute=ActorPoolStrategy(size=config.resources.pools.critic.count),
            num_cpus=SCORER_CPUS,
            memory=SCORER * 1e9,
            # Beside the generators: a group need not cross the network twice.
            label_selector=config.resources.pools.generators.selector,
        )
    )
    yield from watched(groups, config.run_dir)
