"""One Ray Serve for all tests of this room, with both applications."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch

from ft2ray.config import AlignConfig, to_yaml
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE, read_audio

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "ft2ray" / "assets"
PORTRAIT = ASSETS / "portraits" / "grace_hopper.jpg"
SPEECH = ASSETS / "speech" / "sense_and_sensibility_0870.flac"
TOKEN = "correct horse battery staple"
STEPS = 2


@pytest.fixture(scope="session")
def animator():
    from ft2ray.animator import Animator

    return Animator("embedded", 256, max_seconds=10.0)


def speech(folder: Path, seconds: float) -> Path:
    """The first seconds of the embedded speech as a WAV file."""
    import wave

    path = folder / f"speech_{seconds:g}.wav"
    wav_T = read_audio(SPEECH)[: round(seconds * SAMPLE_RATE)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((wav_T * 32767).astype(np.int16).tobytes())
    return path


@pytest.fixture(scope="session")
def media(tmp_path_factory, animator) -> Path:
    """A folder with one.wav (1 s of speech), clip.mp4 (1.2 s, rendered from it) and long.mp4 (3 s)."""
    from ft2ray.generator.settings import SamplerSettings

    folder = tmp_path_factory.mktemp("media")
    speech(folder, 1.0).rename(folder / "one.wav")
    for name, seconds in (("clip.mp4", 1.2), ("long.mp4", 3.0)):
        clip = animator.animate(PORTRAIT, speech(folder, seconds), SamplerSettings(steps=STEPS))
        (folder / name).write_bytes(clip.mp4)
    return folder


def random_policy(animator, seed: int):
    """Experts with an effect that one can see, without a gate."""
    from ft2ray.tlpo.experts import Experts, detach_experts
    from ft2ray.tlpo.policy import policy_of
    from ft2ray.tlpo.settings import ExpertSettings

    transformer, attached = animator.generator.transformer, animator.attached
    detach_experts(transformer)
    experts = Experts(transformer, ("mn", "ls", "vq"), ExpertSettings(rank=2))
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in experts.names:
            for parameter in experts.parameters(name):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))
    policy = policy_of(experts, ("mn", "ls", "vq"), animator.generator.fingerprint)
    detach_experts(transformer)
    if attached is not None:
        animator.attach(attached.policy)
    return policy


@dataclass(frozen=True)
class Platform:
    """The critic's front has little room (2 requests at work, 1 waits; 1 MB; 2 s); the critic behind it is as
    slow as the folder `told` says (see stubs.py)."""

    port: int
    run_dir: Path
    results: Path
    told: Path

    def client(self, token: str | None = TOKEN) -> httpx2.Client:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=90.0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")  # a file that ends leaves no Ray to the tests of another one
def platform(tmp_path_factory, media) -> Iterator[Platform]:
    import ray
    from ray import serve

    from ft2ray.pipeline.critic_service import CriticService
    from ft2ray.serving.critic import CriticFront
    from ft2ray.serving.generator import build
    from ft2ray.serving.settings import CriticServeConfig, GeneratorServeConfig
    from tests.serving import stubs

    here = Platform(free_port(), *(tmp_path_factory.mktemp(name) for name in ("run", "results", "told")))
    config = AlignConfig(run_dir=str(here.run_dir))
    config = config.replaced(generator=config.generator.replaced(sampling=SamplerSettings(steps=STEPS)))
    (here.run_dir / "config.yaml").write_text(to_yaml(config))
    stubs.tell(here.told, 0.0)
    environment = {
        "PYTHONPATH": str(ROOT),
        "FT2RAY_TOKEN": TOKEN,
        stubs.FOLDER: str(here.told),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # on a busy machine
    ray.init(
        address="local",
        num_cpus=8,  # logical
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": here.port})
        stores = (str(media),)
        generator = build(
            GeneratorServeConfig(
                stores=stores,
                run_dir=str(here.run_dir),
                follow_seconds=0.2,
                result_store=str(here.results),
            )
        )
        settings = CriticServeConfig(
            stores=stores,
            max_upload_mb=1.0,
            max_seconds=2.0,
            slots=2,
            waiting=1,
            retry_after_seconds=3.0,
            deadline_seconds=85.0,  # a new replica takes a minute on a busy machine
        )
        critic = CriticFront.options(ray_actor_options={"num_cpus": 0.1}).bind(
            settings,
            CriticService.options(max_ongoing_requests=32, ray_actor_options={"num_cpus": 0.1}).bind(
                "tests.serving.stubs:ToldCritic", batch_frames=100, timeout_seconds=30.0
            ),
        )
        serve.run_many(
            [
                serve.RunTarget(critic, name="critic", route_prefix="/v1/score"),
                serve.RunTarget(generator, name="generator", route_prefix="/v1/generate"),
            ]
        )
        yield here
    finally:
        ray.shutdown()
        os.environ.pop("RAY_ADDRESS", None)
