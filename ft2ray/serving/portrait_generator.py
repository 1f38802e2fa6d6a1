"""The generator as a deployment: one clip at a time, always by the run's current policy.

A thread looks at the run's current policy and loads a new one beside the work that goes on. The worker that
makes the clips tries it out and adopts it, so always between two of them: a clip in the making ends on the
policy that it began with, the next one has the new policy, and no request waits for the loading.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ray import serve

from ft2ray.config import AlignConfig
from ft2ray.errors import FT2RayError
from ft2ray.media.generated_clip import GeneratedClip
from ft2ray.run import Run
from ft2ray.serving.messages import ClipRequest, Event, State
from ft2ray.serving.refusal import Refusal, refusal_of
from ft2ray.serving.settings import GeneratorServeConfig

if TYPE_CHECKING:  # the front imports this module for its name only, and does without torch
    from ft2ray.animator import Progress
    from ft2ray.serving.policies import Follower

GRACE_SECONDS = 60.0  # beyond the deadline; a clip that then still has the worker will keep it for ever
log = logging.getLogger("ray.serve")


def served_config(settings: GeneratorServeConfig) -> AlignConfig:
    """The configuration of the run that is served, else the defaults."""
    return Run.open(settings.run_dir).config if settings.run_dir else AlignConfig()


def served_weights(settings: GeneratorServeConfig) -> tuple[str, bool]:
    """Which generator is served, and whether code may be imported for it.

    Whoever writes the service's own settings may name code; a run folder is data, possibly in a bucket.
    """
    if settings.weights is not None:
        return settings.weights, True
    return served_config(settings).generator.weights, settings.allow_code


@serve.deployment(
    name="PortraitGenerator",
    max_ongoing_requests=1,
    max_queued_requests=8,
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 1},
    ray_actor_options={"num_cpus": 0.5},
    health_check_period_s=30,
    health_check_timeout_s=60,
)
class GeneratorService:
    def __init__(self, settings: GeneratorServeConfig):
        import torch

        from ft2ray.animator import Animator
        from ft2ray.serving.policies import Follower

        torch.set_num_threads(1)
        self.settings = settings
        config = served_config(settings)
        self.defaults = config.generator.sampling
        weights, allow_code = served_weights(settings)
        self.animator = Animator(weights, config.generator.size, settings.max_seconds, allow_code)
        self.animator.probe()
        self.worker = ThreadPoolExecutor(1)
        self.began: float | None = None
        self.follower: Follower | None = None
        if settings.run_dir:
            adopt = self.animator.adopt
            self.follower = Follower(
                settings.run_dir,
                self.animator.generator.fingerprint,
                lambda policy: self.worker.submit(adopt, policy).result(),
            )
            self.follower.look()
            threading.Thread(target=self._follow, args=(self.follower,), daemon=True).start()

    async def animate(self, request: ClipRequest) -> AsyncIterator[Event]:
        """Progress, then the clip or the reason why there is none; leaving early stops the work."""
        loop, wanted = asyncio.get_running_loop(), True
        events: asyncio.Queue[Event] = asyncio.Queue()

        def progress(state: str, share: float) -> bool:
            loop.call_soon_threadsafe(events.put_nowait, (state, share))
            return wanted

        work = loop.run_in_executor(self.worker, self._animate, request, progress)
        work.add_done_callback(lambda _: events.put_nowait(("done", 1.0)))
        try:
            while (event := await events.get()) != ("done", 1.0):
                yield event
            yield work.result()
        finally:
            wanted = False
            work.cancel()  # where it has not begun

    async def state(self) -> State:
        return State(
            policy=self.animator.policy, refused=None if self.follower is None else self.follower.refused
        )

    async def check_health(self) -> None:
        began = self.began
        if began is None:
            await asyncio.get_running_loop().run_in_executor(self.worker, self.animator.probe)
        elif time.monotonic() - began > self.settings.deadline_seconds + GRACE_SECONDS:
            raise RuntimeError(f"a clip has been in the making for {time.monotonic() - began:.0f} s")

    def _animate(self, request: ClipRequest, progress: Progress) -> GeneratedClip | Refusal:
        from ft2ray.animator import Stopped

        self.began = time.monotonic()
        defaults = self.defaults
        sampler = defaults.replaced(
            steps=request.steps or defaults.steps,
            audio_scale=defaults.audio_scale if request.audio_scale is None else request.audio_scale,
        )
        try:
            return self.animator.speak(
                request.portrait,
                request.wav_T,
                sampler,
                request.seed,
                request.system,
                request.weights,
                progress,
            )
        except FT2RayError as error:  # a system or weights that the policy does not have, for example
            return refusal_of(error)
        except Stopped:
            return Refusal(499, "stopped", "nobody waits for the clip any more.")
        finally:
            self.began = None

    def _follow(self, follower: Follower) -> None:
        while True:
            time.sleep(self.settings.follow_seconds)
            follower.look()
