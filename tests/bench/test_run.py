"""The benches run and say what they measured; how fast anything is, no test asks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))

from figures import Figure, in_turns, ratios, table  # noqa: E402


def test_ways_take_turns_and_each_repetition_begins_with_another_one():
    calls = []
    times = in_turns({name: lambda name=name: calls.append(name) for name in "abc"}, 4)
    assert "".join(calls) == "abcbcacababc"
    assert {name: len(found) for name, found in times.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratios_are_taken_within_a_repetition():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


@pytest.mark.parametrize(
    ("target", "met", "shown"),
    [(">= 2.0", True, ">= 2.0, met"), ("<= 1.9", False, "<= 1.9, **missed**"), ("", None, "|  |")],
)
def test_a_figure_is_its_median_and_says_whether_it_meets_its_target(target, met, shown):
    figure = Figure("ours", "theirs", [1.0, 5.0, 2.0], "x", target)
    assert figure.median == 2.0 and figure.met is met
    line = table({"bench": [figure]}).splitlines()[-1]
    assert "2x (1 to 5)" in line and shown in line


@pytest.mark.slow
def test_one_command_runs_a_bench(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "bench" / "run.py"), "--quick", "--only", "fused"]
    done = subprocess.run([*command, f"--json={results}"], capture_output=True, text=True, check=True)
    assert "three passes" in done.stdout
    figures = json.loads(results.read_text())["figures"]["fused"]
    assert all(len(figure["values"]) == 1 and figure["values"][0] > 0 for figure in figures)


@pytest.mark.slow
def test_the_run_at_full_scale_works_at_the_embedded_size(tmp_path):
    results = tmp_path / "results.json"
    command = [sys.executable, str(ROOT / "bench" / "gpu_scale.py"), "--device=cpu", "--repetitions=1"]
    done = subprocess.run([*command, f"--json={results}"], capture_output=True, text=True, check=True)
    lines = json.loads(results.read_text())["lines"]
    names = ["sampling step, 2 passes", "DPO step, 4 pair(s), with checkpointing"]
    names += ["DPO step, 4 pair(s), without checkpointing", "critic, one clip"]
    assert [line["name"] for line in lines] == names
    assert all(line["peak_bytes"] is None and line["flops"] > 0 for line in lines)
    assert "not measured" in done.stdout
