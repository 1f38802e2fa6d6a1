"""The generator as a deployment: one clip at a time, always by the run's current policy.

A thread looks at the run's current policy and loads a new one beside the work that goes on. It is attached by
the worker that makes the clips, so always between two of them: a clip in the making ends on the policy that
it began with, the next one has the new policy, and nobody waits for the loading.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ray import serve

from ft2ray import storage
from ft2ray.config import AlignConfig
from ft2ray.errors import MediaError, UserError
from ft2ray.serving.orders import Event, Made, Order
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import GeneratorServeConfig

if TYPE_CHECKING:  # the front imports this module for its name only, and does without torch
    from ft2ray.animator import Progress

GRACE_SECONDS = 60.0  # beyond the deadline; a clip that then still has the worker will keep it for ever
log = logging.getLogger("ray.serve")


@serve.deployment(name="PortraitGenerator")
class PortraitGenerator:
    def __init__(self, settings: GeneratorServeConfig):
        from ft2ray.animator import Animator
        from ft2ray.run import read_config

        self.settings = settings
        config = read_config(settings.run_dir) if settings.run_dir else AlignConfig()
        self.defaults = config.generator.sampling
        weights = settings.weights or config.generator.weights
        allowed = settings.allow_code or settings.weights is not None
        self.animator = Animator(weights, config.generator.size, settings.max_seconds, allowed)
        self.animator.probe()
        self.worker = ThreadPoolExecutor(1)
        self.began: float | None = None
        if settings.run_dir:
            self.current = self._adopt_current(settings.run_dir, None)
            threading.Thread(target=self._follow, args=(settings.run_dir,), daemon=True).start()

    async def animate(self, order: Order) -> AsyncIterator[Event]:
        """Progress, then the clip or the reason why there is none; leaving early stops the work."""
        loop, wanted = asyncio.get_running_loop(), True
        events: asyncio.Queue[Event] = asyncio.Queue()

        def progress(state: str, share: float) -> bool:
            loop.call_soon_threadsafe(events.put_nowait, (state, share))
            return wanted

        work = loop.run_in_executor(self.worker, self._animate, order, progress)
        work.add_done_callback(lambda _: events.put_nowait(("done", 1.0)))
        try:
            while (event := await events.get()) != ("done", 1.0):
                yield event
            yield work.result()
        finally:
            wanted = False
            work.cancel()  # where it has not begun

    async def check_health(self) -> None:
        began = self.began
        if began is None:
            await asyncio.get_running_loop().run_in_executor(self.worker, self.animator.probe)
        elif time.monotonic() - began > self.settings.deadline_seconds + GRACE_SECONDS:
            raise RuntimeError(f"a clip has been in the making for {time.monotonic() - began:.0f} s")

    def _animate(self, order: Order, progress: Progress) -> Made | Refusal:
        from ft2ray.animator import Stopped

        self.began = time.monotonic()
        defaults = self.defaults
        sampler = defaults.replaced(
            steps=order.steps or defaults.steps,
            audio_scale=defaults.audio_scale if order.audio_scale is None else order.audio_scale,
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                portrait = Path(folder) / f"portrait{order.portrait[1]}"
                audio = Path(folder) / f"audio{order.audio[1]}"
                portrait.write_bytes(order.portrait[0])
                audio.write_bytes(order.audio[0])
                clip = self.animator.animate(
                    portrait, audio, sampler, order.seed, order.system, order.weights, progress
                )
                return Made(
                    mp4=clip.mp4,
                    frames=clip.frames,
                    seconds=clip.seconds,
                    system=clip.system,
                    policy=clip.policy,
                    generator=clip.generator,
                )
        except MediaError as error:
            return Refusal(422, error.reason, error.sentence)
        except UserError as error:  # a system or weights that the policy does not have
            return Refusal(422, "not_possible", f"{error}.")
        except Stopped:
            return Refusal(499, "stopped", "nobody waits for the clip any more.")
        finally:
            self.began = None

    def _follow(self, run_dir: str) -> None:
        while True:
            time.sleep(self.settings.follow_seconds)
            try:
                self.current = self._adopt_current(run_dir, self.current)
            except Exception:  # the policy at work stays: better an older one than none
                log.exception("the current policy of %s can not be taken in", run_dir)

    def _adopt_current(self, run_dir: str, known: str | None) -> str | None:
        """Attach the run's current policy unless it is `known`; returns its name, None before the first."""
        try:
            name = storage.read_bytes(storage.join(run_dir, "policies", "current")).decode()
        except FileNotFoundError:
            return known
        from ft2ray.tlpo.policy import load_policy

        if name != known:
            url = storage.join(run_dir, "policies", name)
            policy = load_policy(url, self.animator.generator.fingerprint)
            self.worker.submit(self.animator.attach, policy).result()
            log.info("serving policy %s (%s)", policy.fingerprint, name)
        return name
