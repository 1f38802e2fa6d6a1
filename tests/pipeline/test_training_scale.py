"""Training as at full scale, inside Ray Train: two workers, ZeRO-3, checkpointing, parts, running averages.

The matrix of ZeRO stages and workers is in tests/tlpo/test_zero.py, where no Ray is needed.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from ft2ray.config import AlignConfig, load_config
from ft2ray.loaders import load_critic, load_generator
from ft2ray.pipeline.training import new_training, pairs_of
from ft2ray.records import Candidate, PromptGroup
from ft2ray.rounds.prompts import plan_prompts
from ft2ray.rounds.schedule import GroupSpec, group_specs, training_key
from ft2ray.run import group_store
from ft2ray.storage import join
from ft2ray.tlpo.policy import Policy, load_policy
from tests.ray_head import RayHead
from tests.runs import changed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
WAIT = 900.0  # seconds, on a machine that is busy with other things
FRAMES = 5
SETTINGS = [
    "generator.weights=tests.pipeline.faulty_models:TrainableGenerator",
    "critic.weights=tests.pipeline.faulty_models:DiscerningCritic",
    "prompts.curation_prompts=4",
    "prompts.evaluation_prompts=1",
    "pairs.margin=0.0",
    "tlpo.experts.rank=2",
    "tlpo.batch=4",
    "tlpo.steps=10",
    "tlpo.gate_steps=4",
    "resources.compute.checkpoint_every=1",
    "tlpo.ema=0.9",
]
SCALE = [
    "resources.compute.zero_stage=3",
    "resources.compute.checkpointing=true",
    "resources.compute.microbatch=1",
    "resources.pools.training.count=2",
]
JOIN = "resources.address=auto"


def made(spec: GroupSpec) -> PromptGroup:
    """The spec's group with candidates out of the air."""
    rng = np.random.default_rng(int(spec.group_id[:8], 16))
    candidates = [
        Candidate(
            f"{spec.group_id}-{n}", "base", n, {}, rng.standard_normal((2, FRAMES, 1, 1)).astype("f4"),
            np.ones((2, 1, 1, 1), np.float32), None, rng.uniform(0.1, 0.9, 3).tolist(),
        )
        for n in range(4)
    ]  # fmt: skip
    return PromptGroup(
        spec.group_id, spec.round, spec.prompt.prompt_id, "a.jpg", "a", "b.wav", 0.0, 3.0, "trainable",
        "discerning", ("mn", "ls", "vq"), None, rng.standard_normal((2 * FRAMES, 4)).astype("f4"), FRAMES,
        candidates,
    )  # fmt: skip


def prepared(run_dir: Path, *more: str) -> tuple[AlignConfig, list[PromptGroup], str]:
    """Configuration, the groups, which are committed to the store, and where the policy will be published."""
    config = load_config(None, [f"run_dir={run_dir}", *changed(SETTINGS, *more)])
    prompts = plan_prompts(config.prompts, config.generator.size).curation
    parts = (
        load_generator(config.generator.weights, allow_code=True).fingerprint,
        load_critic(config.critic.weights, allow_code=True).fingerprint,
    )
    groups = [made(spec) for spec in group_specs(config, *parts, prompts)]
    for group in groups:
        group_store(str(run_dir)).commit_once([group.to_row()])
    return config, groups, join(str(run_dir), "policies", f"{training_key(config, *parts, prompts)}-1")


@pytest.fixture(scope="module")
def head():
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with RayHead(["--num-cpus=4"], environment=environment, dashboard=False) as head:
        yield head


def training(head: RayHead, run_dir: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "tests.pipeline.stage_alone",
        "train",
        f"run_dir={run_dir}",
        JOIN,
        *changed(SETTINGS, *more),
    ]
    return head.start(*command)


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output[-3000:]


def workers(head: RayHead) -> list[psutil.Process]:
    found = []
    for process in head.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def undisturbed(head, tmp_path_factory) -> tuple[Policy, Policy]:
    """Published by two workers with everything shared out, and by one process that knows nothing of it."""
    run_dir = tmp_path_factory.mktemp("scale")
    config, groups, url = prepared(run_dir, *SCALE)
    finish(training(head, run_dir, *SCALE))
    alone = new_training(load_config(None, [*SETTINGS, "resources.pools.training.count=1"]))
    for group in groups:
        alone.add(group, pairs_of(config, group, group.critic))
    alone.train(alone.last_step, lambda run: None)
    return load_policy(url, "trainable"), alone.policy()


def test_two_workers_with_zero_3_publish_what_one_process_does(undisturbed):
    """Within 1e-3 of the largest weight: float32 sums in another order, through 14 updates."""
    shared, alone = undisturbed
    for name, (_, tensors) in alone.adapters.items():
        for key, wanted in tensors.items():
            assert (shared.adapters[name][1][key] - wanted).abs().max() < 1e-3 * wanted.abs().max()
    difference = shared.gate.bias_NK - alone.gate.bias_NK
    assert difference.abs().max() < 1e-2 * alone.gate.bias_NK.abs().max()


def test_a_worker_that_is_killed_changes_no_bit(head, undisturbed, tmp_path):
    _, _, url = prepared(tmp_path, *SCALE)
    process = training(head, tmp_path, *SCALE)
    deadline = time.monotonic() + WAIT
    while len(list((tmp_path / "train").glob("*/checkpoint_*"))) < 2:
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers(head)[-1].kill()
    assert not (tmp_path / "policies").exists(), "it was killed too late to test anything"
    finish(process)
    assert load_policy(url, "trainable").fingerprint == undisturbed[0].fingerprint
