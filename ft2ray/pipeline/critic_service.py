"""Talking-Critic as a Ray Serve deployment, and the call that never turns a failure into a score.

There is one deployment for all: curation asks it over a handle, and so does the HTTP front in serve/.

Shapes: N clips, K dimensions, W windows, F frames.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve._private.application_state import ApplicationStatusInfo, StatusOverview
from ray.serve.context import _get_global_client
from ray.serve.generated import serve_pb2
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from ft2ray.critic.settings import CriticSettings
from ft2ray.critic.talking.view import WINDOW_FRAMES
from ft2ray.errors import CriticError, UserError
from ft2ray.observe.deaths import advice
from ft2ray.resources import Pool

if TYPE_CHECKING:
    from ft2ray.critic.base import Critic
    from ft2ray.critic.viewer import View

APP = "curation-critic"  # not "critic": a run must never replace or delete the application served over HTTP
BATCH_WAIT_SECONDS = 0.02
START_POLL_SECONDS = 0.5
ANSWER_SECONDS = 10.0  # of Serve's controller, which is killed too where memory is short


@ray.remote(num_cpus=0)
class Refusals:
    """The errors of replicas that cannot start: mistakes of the user, which Serve would pass on as text."""

    def __init__(self) -> None:
        self.errors: list[UserError] = []

    def add(self, error: UserError) -> None:
        self.errors.append(error)

    def all(self) -> list[UserError]:
        return self.errors


def clip_frames(views: Sequence[View], most: int) -> int:
    """What a batch of clips costs, in frames; a single clip is never too large, it goes alone."""
    frames = sum(view.frames for view in views)
    return min(frames, most) if len(views) == 1 else frames


@serve.deployment(name="TalkingCritic")
class CriticService:
    """Scores clip views in batches of at most `batch_frames` frames together.

    It is healthy while a built-in probe gets the scores that it got at the start and no batch takes longer
    than `timeout_seconds`.
    """

    def __init__(
        self,
        weights: str,
        batch_frames: int,
        timeout_seconds: float,
        fps: float | None = None,
        pixels: int | None = None,
        questions: dict[str, str] | None = None,
        refusals: ActorHandle | None = None,
    ):
        import torch

        from ft2ray.loaders import load_critic

        torch.set_num_threads(1)
        try:
            self.critic = load_critic(weights, fps, pixels, questions, allow_code=True)  # a user's own words
        except UserError as error:
            if refusals is not None:
                ray.get(refusals.add.remote(error))
            raise
        self.timeout_seconds = timeout_seconds
        self.probe = self.critic.viewer.probe()
        self.usual_NK = first_answer(self.critic, self.probe, timeout_seconds)
        self.batch_began: float | None = None

        # Ray warns here that max_ongoing_requests is smaller: it takes the frames for requests.
        @serve.batch(
            max_batch_size=batch_frames,
            batch_wait_timeout_s=BATCH_WAIT_SECONDS,
            batch_size_fn=lambda views: clip_frames(views, batch_frames),
        )
        async def score_batch(views: list[View]) -> list[list[float] | Exception]:
            self.batch_began = time.monotonic()
            try:
                return await asyncio.to_thread(self._score_all, views)
            finally:
                self.batch_began = None

        self._score_batch: Any = score_batch

    async def score(self, view: View, critic: str | None = None) -> list[float]:
        """P(Yes) in the critic's order of dimensions; CriticError where `critic` is not its fingerprint."""
        self._require(critic)
        answer = await self._score_batch(view)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def judge(self, view: View) -> tuple[dict[str, float], str]:
        """P(Yes) by dimension, and the fingerprint of the very critic that said so."""
        p_K = await self.score(view)
        return dict(zip(self.critic.dimensions, p_K, strict=True)), self.critic.fingerprint

    async def score_together(self, views: list[View], critic: str | None = None) -> list[list[float]]:
        """P(Yes) of clips that a critic can only judge against each other; otherwise as `score`."""
        self._require(critic)
        self.batch_began = time.monotonic()
        try:
            return await asyncio.to_thread(self._probabilities, views)
        finally:
            self.batch_began = None

    def groupwise(self) -> bool:
        return self.critic.groupwise

    def at_work(self) -> str:
        """The critic's fingerprint."""
        return self.critic.fingerprint

    async def check_health(self) -> None:
        if self.batch_began is not None:
            took = time.monotonic() - self.batch_began
            if took > self.timeout_seconds:
                raise RuntimeError(f"a batch has taken {took:.0f} s, the limit is {self.timeout_seconds:g} s")
            return
        p_NK = np.asarray(await asyncio.to_thread(self.critic.score, [self.probe]))
        if not np.allclose(p_NK, self.usual_NK, atol=1e-3):
            raise RuntimeError(f"the built-in clip is scored {p_NK.tolist()}, not {self.usual_NK.tolist()}")

    def _score_all(self, views: Sequence[View]) -> list[list[float] | Exception]:
        """Scores of each clip; where the batch fails one by one, so that a bad clip fails no other."""
        try:
            return [*self._probabilities(views)]
        except Exception as error:  # raised again by `score`, for its own clip
            return [error] if len(views) == 1 else [self._score_all([view])[0] for view in views]

    def _probabilities(self, views: Sequence[View]) -> list[list[float]]:
        """ValueError where a user's own critic gives something else."""
        p_NK = np.asarray(self.critic.score(views), dtype=np.float64)
        shape = len(views), len(self.critic.dimensions)
        if p_NK.shape != shape or not ((p_NK >= 0) & (p_NK <= 1)).all():
            raise CriticError(f"the critic gave {p_NK.tolist()}, not {shape[0]} x {shape[1]} probabilities")
        return p_NK.tolist()

    def _require(self, critic: str | None) -> None:
        """A replica that starts again reads its weights again, and they may be others by then."""
        if critic is not None and critic != self.critic.fingerprint:
            raise CriticError(
                f"the critic's weights have changed: its fingerprint is {self.critic.fingerprint}, "
                f"that of the run is {critic}; put the old weights back, or choose a new run_dir"
            )


def first_answer(critic: Critic, probe: View, seconds: float) -> np.ndarray:
    """Scores of the built-in clip; RuntimeError, so that the deployment fails, where they do not come."""
    thread = ThreadPoolExecutor(1)
    try:
        return np.asarray(thread.submit(critic.score, [probe]).result(timeout=seconds))
    except TimeoutError as error:
        raise RuntimeError(f"the critic did not score the built-in clip within {seconds:g} s") from error
    finally:
        thread.shutdown(wait=False)


def critic_app(
    critic: CriticSettings, pool: Pool, questions: dict[str, str], refusals: ActorHandle | None = None
) -> serve.Application:
    """The critic of a run: `batch` clips of one window at a time, waiting ones bounded by the curation."""
    return CriticService.options(  # type: ignore[attr-defined]  # the decorator makes it a Deployment
        num_replicas=pool.count,
        health_check_period_s=critic.timeout_seconds / 6,  # Serve replaces a replica after three bad ones,
        graceful_shutdown_timeout_s=critic.timeout_seconds / 6,  # and would wait for its calls even then
        max_ongoing_requests=4 * critic.batch,
        ray_actor_options=pool.options(),
    ).bind(
        critic.weights,
        critic.batch * WINDOW_FRAMES,
        critic.timeout_seconds,
        critic.fps,
        critic.pixels,
        questions,
        refusals,
    )


def start_critic(
    critic: CriticSettings, pool: Pool, questions: dict[str, str], look: Callable[[], None]
) -> None:
    """Deploy inside the cluster only: handles, no HTTP port.

    Args:
        critic: what is deployed.
        pool: of its replicas.
        questions: that it is asked, by dimension.
        look: called while it starts; an error of it ends the wait, which has no other limit where Serve's own
            controller dies as well.

    Raises:
        UserError: what a replica met, such as weights that it cannot load.
        CriticError: replicas that died or did not get ready at every start.
    """
    serve.start(proxy_location="Disabled")
    refusals = Refusals.remote()  # type: ignore[attr-defined]  # the decorator makes it an actor's class
    app = serve.RunTarget(critic_app(critic, pool, questions, refusals), APP, route_prefix=None)
    serve.run_many([app], wait_for_applications_running=False)
    while (state := _state()) is None or state.status is not ApplicationStatus.RUNNING:
        if state is not None and state.status is ApplicationStatus.DEPLOY_FAILED:
            for refusal in ray.get(refusals.all.remote()):
                raise refusal
            last = (state.message.strip().splitlines() or ["no reason given"])[-1].strip()
            raise CriticError(
                f"the critic died or was not ready at every start ({last[:300]}); {advice('critic')}, "
                "or a longer critic.timeout_seconds"
            )
        look()
        time.sleep(START_POLL_SECONDS)


def _state() -> ApplicationStatusInfo | None:
    """Of the critic's application; None where Serve's controller does not answer, for it starts again."""
    client: Any = _get_global_client()  # its own question for the state waits without a limit
    try:
        told = ray.get(client._controller.get_serve_status.remote(APP), timeout=ANSWER_SECONDS)
    except (GetTimeoutError, RayActorError):
        return None
    told = serve_pb2.StatusOverview.FromString(told)  # type: ignore[attr-defined]  # made when it is imported
    return StatusOverview.from_proto(told).app_status


def call_seconds(critic: CriticSettings) -> float:
    """How long curation waits for a score: until a replica that hangs has been found out and replaced.

    Were it no longer than the batch itself may take, the next try would wait for the same replica in vain.
    """
    return 2 * critic.timeout_seconds


def reason_of(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1]}"[:500]


def score_views(
    handle: DeploymentHandle,
    views: list[View],
    timeout_seconds: float,
    retries: int,
    critic: str | None = None,
    groupwise: bool = False,
) -> list[tuple[list[float] | None, str | None]]:
    """(scores, None) or (None, reason) per view.

    All views are in flight at once so that they batch; those of a `groupwise` critic go in one call, and fail
    together.

    CriticError where a replica's fingerprint is not `critic`: no clip is to blame, and the next replica will
    say the same.
    """
    results: list[tuple[list[float] | None, str | None]] = [(None, None)] * len(views)
    everything = list(range(len(views)))
    waiting = [everything] if groupwise and views else [[n] for n in everything]
    for _ in range(retries + 1):
        calls = [
            handle.score_together.remote([views[n] for n in some], critic)
            if groupwise
            else handle.score.remote(views[some[0]], critic)
            for some in waiting
        ]
        failed = []
        for some, call in zip(waiting, calls, strict=True):
            try:
                answer = call.result(timeout_s=timeout_seconds)
            except CriticError:
                raise
            except Exception as error:  # whatever the replica died of becomes the reason, never a number
                failed.append(some)
                for n in some:
                    results[n] = None, reason_of(error)
                continue
            for n, p_K in zip(some, answer if groupwise else [answer], strict=True):
                results[n] = p_K, None
        waiting = failed
    return results
