"""The whole method at the smallest size ends in a report, repeats bitwise and survives SIGKILL anywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ft2ray.pipeline.curation import read_groups
from ft2ray.pipeline.evaluation import measurement_store
from ft2ray.pipeline.run_folder import policy_dir, read_plan

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SYSTEMS = {"base", "expert_mn", "expert_ls", "expert_vq", "uniform", "dpo_sum", "tlpo"}
SETTINGS = [
    "generator.steps=3",
    "prompts.curation=3",
    "prompts.evaluation=2",
    "curation.candidates=3",
    "preference.answers_differ=false",
    "preference.margin=0.0",
    "tlpo.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=8",
    "tlpo.gate_steps=4",
    "tlpo.checkpoint_every=1",
    "evaluation.seeds=[0]",
    "evaluation.report_videos=1",
    "evaluation.bootstrap=200",
    "schedule.rounds=2",
]
TOGETHER = "schedule.max_staleness=1"
SLOTS = 6  # 3 prompts in 2 rounds


def start(run_dir: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "ft2ray.cli", "align", f"run_dir={run_dir}", *SETTINGS, *more]
    return subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(run_dir: Path, *more: str) -> None:
    process = start(run_dir, *more)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output[-3000:]


def kill_when(run_dir: Path, reached, still_open, *more: str) -> None:
    """SIGKILL the run once `reached()`; unless `still_open()` holds then, the kill came too late to test."""
    process = start(run_dir, *more)
    deadline = time.monotonic() + 400
    while not reached():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert still_open()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


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
        "policy": json.loads((Path(policy_dir(run_dir)) / "policy.json").read_text())["fingerprint"],
        "measured": measured,
        "systems": json.loads((run_dir / "report.json").read_text())["systems"],
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed")
    finish(run_dir)
    return run_dir


def test_a_run_ends_in_a_complete_report(undisturbed):
    report = json.loads((undisturbed / "report.json").read_text())
    assert set(report["systems"]) == SYSTEMS
    for dimension in ("mn", "ls", "vq"):
        base = report["systems"]["base"][dimension]
        assert np.isfinite(base["mean"]) and base["delta_vs_base"] == 0.0
        assert np.isfinite(report["systems"]["tlpo"][dimension]["mean"])
    assert set(report["references"]) == {"real_video", "wrong_audio", "shifted_audio"}
    assert report["prompts"] == 2 and report["seeds"] == [0] and report["seconds"] > 0
    page = (undisturbed / "report.html").read_text()
    assert page.count("data:video/mp4") == len(SYSTEMS) and "http" not in page.split("<body")[0].replace(
        "http-equiv", ""
    )
    plan = read_plan(undisturbed)
    assert len(plan.curation) == 3 and len(read_groups(undisturbed)) == SLOTS


def test_the_second_round_is_generated_by_the_policy_of_the_first(undisturbed):
    policies = {
        round: {c.policy for g in read_groups(undisturbed) if g.round == round for c in g.candidates}
        for round in (0, 1)
    }
    (first,) = (undisturbed / "policies").glob("*-1/policy.json")
    assert policies == {0: {"base"}, 1: {json.loads(first.read_text())["fingerprint"]}}


def test_killed_in_every_stage_it_goes_on_and_ends_the_same(undisturbed, tmp_path):
    def shards(folder):
        return list((tmp_path / "store" / folder).glob("*.parquet"))

    kill_when(tmp_path, lambda: len(shards("groups")) >= 1, lambda: len(shards("groups")) < 3)
    before = {path: path.stat().st_mtime_ns for path in shards("groups")}
    kill_when(
        tmp_path,
        lambda: len(list((tmp_path / "train").glob("*/checkpoint_*"))) >= 2,
        lambda: not (tmp_path / "policies" / "current").exists(),
    )
    assert all(path.stat().st_mtime_ns == before[path] for path in before), "a committed group was made again"
    kill_when(
        tmp_path, lambda: len(shards("measurements")) >= 1, lambda: not (tmp_path / "report.json").exists()
    )
    finish(tmp_path)
    assert result(tmp_path) == result(undisturbed)


def test_a_finished_run_makes_nothing_again(undisturbed):
    files = {p: p.stat().st_mtime_ns for p in (undisturbed / "store").rglob("*.parquet")}
    policy = {p: p.stat().st_mtime_ns for p in Path(policy_dir(undisturbed)).rglob("*") if p.is_file()}
    finish(undisturbed)
    assert {p: p.stat().st_mtime_ns for p in (undisturbed / "store").rglob("*.parquet")} == files
    assert {
        p: p.stat().st_mtime_ns for p in Path(policy_dir(undisturbed)).rglob("*") if p.is_file()
    } == policy


def test_curated_and_trained_together_a_kill_loses_and_doubles_nothing(tmp_path):
    def committed():
        return list((tmp_path / "store" / "groups").glob("*.parquet"))

    kill_when(
        tmp_path,
        lambda: len(committed()) >= 1 and any((tmp_path / "intake").rglob("*.json")),
        lambda: len(committed()) < SLOTS,
        TOGETHER,
    )
    finish(tmp_path, TOGETHER)
    groups = read_groups(tmp_path)
    assert len({(g.round, g.prompt_id) for g in groups}) == len(groups) == len(committed()) == SLOTS
    versions = {"base": 0} | {
        json.loads(file.read_text())["fingerprint"]: int(file.parent.name.rpartition("-")[2])
        for file in (tmp_path / "policies").glob("*/policy.json")
    }
    for group in groups:
        assert {group.round - versions[c.policy] for c in group.candidates} <= {0, 1}, "too stale"

    joined = [json.loads(file.read_text()) for file in sorted((tmp_path / "intake").rglob("*.json"))]
    assert sorted(sum(joined, [])) == sorted(g.group_id for g in groups), "every group joined exactly once"
    assert len(joined) > 1, "the training began before all groups were there"

    policy = result(tmp_path)["policy"]
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "policies")
    finish(tmp_path, TOGETHER)  # the same groups at the same steps, as the intake has them written down
    assert result(tmp_path)["policy"] == policy
