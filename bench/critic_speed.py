"""The critic: questions on a shared prefix, and what Ray Serve adds. Run `python bench/critic_speed.py`."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from figures import Figure, in_turns, main, ratios
from ray import serve

from ft2ray.config import AlignConfig, load_config
from ft2ray.critic.base import Critic
from ft2ray.critic.talking.critic import TalkingCritic
from ft2ray.critic.talking.view import ClipView
from ft2ray.dimensions import questions
from ft2ray.pipeline.cluster import ray_cluster
from ft2ray.pipeline.critic_service import APP, score_views, start_critic

CLIPS = 16
CANDIDATES = 8  # of a group, sent together as curation does it
GROUPS = 6


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    critic = TalkingCritic.load()
    clips = views(critic, CLIPS)
    return [
        *in_process(critic, clips, repetitions),
        *served(critic, clips, repetitions),
    ]


def in_process(critic: TalkingCritic, clips: list[ClipView], repetitions: int) -> list[Figure]:
    alone = [dataclasses.replace(critic, questions={name: text}) for name, text in critic.questions.items()]

    def separate_questions() -> None:
        for asked in alone:
            asked.score(clips)

    ways = {"together": lambda: critic.score(clips), "separately": separate_questions}
    in_turns(ways, 1)
    times = in_turns(ways, repetitions)
    return [
        Figure(
            "three questions on one prefix",
            "three separate calls",
            ratios(times["separately"], times["together"]),
            "x faster",
            bound=3.0,
        ),
    ]


def served(critic: TalkingCritic, clips: list[ClipView], repetitions: int) -> list[Figure]:
    config = load_config(None, [])
    counting = config.critic.replaced(weights="fakes:CountingCritic")
    with ray_cluster():
        handle = start_critic(config.critic, config.resources.pools.critic, questions(config.dimensions))
        ways = {
            "handle": lambda: ask(handle, clips, config),
            "direct": lambda: critic.score(clips),
        }
        in_turns(ways, 1)
        times = in_turns(ways, repetitions)
        serve.delete(APP)
        handle = start_critic(counting, config.resources.pools.critic, questions(config.dimensions))
        group = clips[:CANDIDATES]
        ask(handle, group, config)
        fill = []
        for _ in range(repetitions):
            shares = np.array([ask(handle, group, config) for _ in range(GROUPS)])
            batches = shares.sum()  # every clip says what part of its batch it was
            fill.append(shares.size / batches / config.critic.batch)
        serve.delete(APP)
    return [
        Figure(
            "rate over a Serve handle",
            "a direct loop",
            ratios(times["direct"], times["handle"]),
            "x",
            ">= 0.70",
            1.0,
        ),
        Figure(
            f"batch fill, groups of {CANDIDATES} candidates",
            f"full batches of {config.critic.batch}",
            fill,
            "",
            ">= 0.8",
            1.0,
        ),
    ]


def ask(handle, clips: list[ClipView], config: AlignConfig) -> list[float]:
    """First score of each clip over the handle; an error ends the bench."""
    results = score_views(handle, clips, config.critic.timeout_seconds, 0)
    failed = [error for _, error in results if error is not None]
    if failed:
        raise RuntimeError(failed[0])
    return [scores[0] for scores, _ in results]


def views(critic: TalkingCritic, count: int) -> list[ClipView]:
    """Clips of one window that a critic can take: the time does not depend on what is in them."""
    probe, rng = Critic.viewer.probe(), np.random.default_rng(0)
    frames = 75 // probe.video_WFHW3.shape[1] + 1
    video = np.tile(probe.video_WFHW3, (1, frames, 1, 1, 1))[:, :75]
    mel = np.tile(probe.mel_WMJ, (1, 1, frames))[:, :, :300]
    return [
        ClipView(
            np.roll(video, int(shift), axis=1),
            probe.stills_WKHW3,
            (mel + rng.normal(0, 0.01, mel.shape)).astype(np.float32),
            np.tile(probe.motion_WCF, (1, 1, frames))[:, :, :75],
            np.tile(probe.speech_WDF, (1, 1, frames))[:, :, :75],
        )
        for shift in rng.integers(0, 75, count)
    ]


if __name__ == "__main__":
    main("critic", measure)
