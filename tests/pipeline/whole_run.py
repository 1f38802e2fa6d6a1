"""Whole runs of the method at the smallest size, as processes that a test may kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ft2ray.run import Run, measurement_store, read_groups
from tests.runs import changed

SYSTEMS = {"base", "expert_mn", "expert_ls", "expert_vq", "uniform", "dpo_sum", "tlpo"}
SETTINGS = [
    "generator.sampling.steps=3",
    "prompts.curation_prompts=3",
    "prompts.evaluation_prompts=2",
    "curation.candidates=3",
    "pairs.answers_differ=false",
    "pairs.margin=0.0",
    "tlpo.experts.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=8",
    "tlpo.gate_steps=4",
    "resources.compute.checkpoint_every=1",
    "evaluation.seeds=[0]",
    "evaluation.report_videos=1",
    "evaluation.bootstrap=200",
    "resources.pools.generators.count=1",
    "resources.pools.training.count=1",
]
# The same on two generator actors and two train workers.
TWO_ROUNDS = ("schedule.rounds=2", "resources.pools.generators.count=2", "resources.pools.training.count=2")
WAIT = 900.0  # seconds, on a machine that is busy with other things
GROUPS = 6  # 3 prompts in 2 rounds


def start(run_dir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={run_dir}", *changed(SETTINGS, *more)]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(run_dir: Path, *more: str) -> None:
    process = start(run_dir, *more)
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output[-3000:]


def kill_when(run_dir: Path, reached, still_open, *more: str) -> None:
    """SIGKILL the run once `reached()`; unless `still_open()` holds then, the kill came too late to test."""
    process = start(run_dir, *more)
    deadline = time.monotonic() + WAIT
    try:
        while not reached():
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert still_open()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def joined(run_dir: Path) -> list[list[str]]:
    """The groups that joined the training, one list for each time that some did."""
    return [json.loads(file.read_text())["groups"] for file in sorted((run_dir / "intake").rglob("*.json"))]


def result(run_dir: Path) -> dict:
    """Everything that must not depend on how often the run was interrupted."""
    measured = sorted(
        (m["row_id"], m["system"], sorted(m["metrics"])) for m in measurement_store(run_dir).rows()
    )
    return {
        "groups": [
            (g.group_id, [(c.candidate_id, c.scores, c.latents_CFHW.tobytes()) for c in g.candidates])
            for g in read_groups(run_dir)
        ],
        "policy": json.loads((Path(Run.open(run_dir).current_policy) / "policy.json").read_text())[
            "fingerprint"
        ],
        "measured": measured,
        "systems": json.loads((run_dir / "report.json").read_text())["systems"],
    }
