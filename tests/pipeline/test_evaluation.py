"""A report takes exactly the measurements of its own settings, judge and policy."""

from ft2ray.config import load_config
from ft2ray.observe.reporting import _notes
from ft2ray.records import Prompt
from ft2ray.rounds.measurements import measured, row_id
from ft2ray.rounds.plan import Plan
from tests.runs import stated

PROMPT = Prompt("prompt", "a.jpg", "b.flac", 0.0, 3.0)


def commit(run, judge, policy, value):
    rows = [
        {
            "row_id": row_id(run, "prompt", 0, system, policy, judge),
            "prompt_id": "prompt",
            "seed": 0,
            "system": system,
            "policy": policy,
            "metrics": [("ls", value)],
            "video": None,
        }
        for system in ("base", "wrong_audio")
    ]
    run.measurements.commit(rows)


def run_of(tmp_path, *overrides):
    config = load_config(None, [f"run_dir={tmp_path}", "evaluation.seeds=[0]", *overrides])
    return stated(config, plan=Plan([], [PROMPT], []))


def test_measurements_of_other_judges_policies_and_samplers_stay_out(tmp_path):
    run = run_of(tmp_path)
    commit(run, "judge", "policy", 1.0)
    commit(run, "another judge", "policy", 2.0)
    commit(run, "judge", "another policy", 3.0)
    commit(run_of(tmp_path, "generator.sampling.audio_scale=6"), "judge", "policy", 4.0)
    rows = measured(run, "policy", "judge")
    assert sorted(row["system"] for row in rows) == ["base", "wrong_audio"]
    assert {dict(row["metrics"])["ls"] for row in rows} == {1.0}
    assert measured(stated(run.config), "policy", "judge") == []


def test_a_report_of_a_part_of_the_evaluation_says_so(tmp_path):
    run = run_of(tmp_path)
    commit(run, "judge", "policy", 1.0)
    (note,) = _notes(run, {"ls": 1}, measured(run, "policy", "judge"), "policy", "judge")
    assert note.startswith(f"Incomplete: 1 of {len(run.config.systems)} clips are measured")
    one = run_of(tmp_path, "evaluation.systems=[base]")
    (note,) = _notes(one, {"ls": 0}, measured(one, "policy", "judge"), "policy", "judge")
    assert note.startswith("Not trained")
