"""Talking-Critic as a Ray Serve deployment, and the call that never turns a failure into a score."""

from __future__ import annotations

from ray import serve
from ray.serve.handle import DeploymentHandle

from ft2ray.config import ClusterConfig, CriticConfig
from ft2ray.critic.view import ClipView

APP = "critic"


def critic_app(critic: CriticConfig, cluster: ClusterConfig) -> serve.Application:
    """Typed builder: the deployment bound to its weights; `serve.run(critic_app(...), name=APP)`."""

    @serve.deployment(
        name="TalkingCritic",
        num_replicas=cluster.critic_replicas,
        max_ongoing_requests=4 * critic.batch,
        ray_actor_options={"num_cpus": cluster.critic_cpus, "num_gpus": cluster.critic_gpus},
    )
    class CriticService:
        def __init__(self) -> None:
            import torch

            from ft2ray.parts import load_critic

            torch.set_num_threads(1)
            self.critic = load_critic(critic.weights)

        @serve.batch(max_batch_size=critic.batch, batch_wait_timeout_s=0.02)
        async def score(self, views: list[ClipView]) -> list[list[float]]:
            return [list(map(float, row)) for row in self.critic.score(views)]

        def fingerprint(self) -> str:
            return self.critic.fingerprint

    return CriticService.bind()  # type: ignore[attr-defined]  # the decorator makes it a Deployment


def start_critic(critic: CriticConfig, cluster: ClusterConfig) -> DeploymentHandle:
    """Deploy inside the cluster only: handles, no HTTP port."""
    serve.start(proxy_location="Disabled")
    return serve.run(critic_app(critic, cluster), name=APP, route_prefix=None)


def score_views(
    handle: DeploymentHandle, views: list[ClipView], timeout_seconds: float, retries: int
) -> list[tuple[list[float] | None, str | None]]:
    """(scores, None) or (None, reason) per view; all views are in flight at once so that they batch."""
    results: list[tuple[list[float] | None, str | None]] = [(None, None)] * len(views)
    waiting = list(range(len(views)))
    for _ in range(retries + 1):
        calls = [(n, handle.score.remote(views[n])) for n in waiting]
        waiting = []
        for n, call in calls:
            try:
                results[n] = (call.result(timeout_s=timeout_seconds), None)
            except Exception as error:  # whatever the replica died of becomes the reason, never a number
                reason = str(error).strip().splitlines() or [""]
                results[n] = (None, f"{type(error).__name__}: {reason[-1]}"[:500])
                waiting.append(n)
        if not waiting:
            break
    return results
