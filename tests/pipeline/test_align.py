"""The whole method at the smallest size ends in a report, repeats bitwise and survives SIGKILL anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from ft2ray.run import Run, read_groups
from tests.pipeline.whole_run import SYSTEMS, finish, kill_when, result

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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
    plan = Run.open(undisturbed).plan
    assert len(plan.curation) == len(read_groups(undisturbed)) == 3
    (log,) = (undisturbed / "logs").glob("*.log")
    assert "of memory per worker" not in log.read_text(), "Ray Data asks for more memory than was declared"


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
    policy = {
        p: p.stat().st_mtime_ns for p in Path(Run.open(undisturbed).current_policy).rglob("*") if p.is_file()
    }
    finish(undisturbed)
    assert {p: p.stat().st_mtime_ns for p in (undisturbed / "store").rglob("*.parquet")} == files
    assert {
        p: p.stat().st_mtime_ns for p in Path(Run.open(undisturbed).current_policy).rglob("*") if p.is_file()
    } == policy
