"""Replicas that die are named at the health page and counted; Ray tells of them where its dashboard runs."""

import os
import signal
import time

import pytest

from tests.serving import stubs
from tests.serving.conftest import ROOT, free_port

pytestmark = pytest.mark.cluster  # it waits for what Serve notices in its own time


@pytest.fixture
def service(tmp_path):
    import httpx2
    import ray
    from ray import serve

    from ft2ray.pipeline.critic_service import CriticService
    from ft2ray.serving.critic import CriticFront
    from ft2ray.serving.settings import CriticServeConfig

    stubs.tell(tmp_path, 0.0)
    environment = {"PYTHONPATH": str(ROOT), stubs.FOLDER: str(tmp_path), "OMP_NUM_THREADS": "1"}
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # on a busy machine
    port = free_port()
    ray.init(
        address="local",
        num_cpus=4,  # logical
        dashboard_port=0,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        behind = CriticService.options(ray_actor_options={"num_cpus": 0.1}).bind(
            "tests.serving.stubs:ToldCritic", batch_frames=100, timeout_seconds=30.0
        )
        serve.run(CriticFront.bind(CriticServeConfig(), behind), name="critic", route_prefix="/v1/score")
        yield httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=90.0), tmp_path
    finally:
        ray.shutdown()
        os.environ.pop("RAY_ADDRESS", None)


def test_a_killed_replica_is_at_the_health_page(service, media):
    client, told = service
    health = client.get("/v1/score/health").json()
    assert health["deaths"] == [] and len(health["critic"]) == 16
    with open(media / "clip.mp4", "rb") as file:
        assert client.post("/v1/score", files={"video": ("c.mp4", file, "video/mp4")}).status_code == 200
    time.sleep(15)  # until the front has seen which process is whose
    os.kill(stubs.asked(told)[0]["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        answer = client.get("/v1/score/health")
        if answer.status_code == 200 and answer.json()["deaths"]:
            break
        time.sleep(1)
    (line,) = answer.json()["deaths"]
    assert (
        line.startswith("TalkingCritic died once, at ")
        and "killed on" in line
        and "ray_actor_options" in line
    )
