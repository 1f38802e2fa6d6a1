"""A report takes exactly the measurements of its own settings, judge and policy."""

from ft2ray.config import load_config
from ft2ray.pipeline.evaluation import measured, measurement_store, row_id
from ft2ray.records import Prompt

PROMPT = Prompt("prompt", "a.jpg", "b.flac", 0.0, 3.0)


def commit(config, judge, policy, value):
    rows = [
        {
            "row_id": row_id(config, "prompt", 0, system, "generator", policy, judge),
            "prompt_id": "prompt",
            "seed": 0,
            "system": system,
            "policy": policy,
            "metrics": [("ls", value)],
            "video": None,
        }
        for system in ("base", "wrong_audio")
    ]
    measurement_store(config.run_dir).commit(rows)


def test_measurements_of_other_judges_policies_and_samplers_stay_out(tmp_path):
    config = load_config(None, [f"run_dir={tmp_path}", "evaluation.seeds=[0]"])
    commit(config, "judge", "policy", 1.0)
    commit(config, "another judge", "policy", 2.0)
    commit(config, "judge", "another policy", 3.0)
    commit(
        load_config(None, [f"run_dir={tmp_path}", "generator.sampling.audio_scale=6"]), "judge", "policy", 4.0
    )
    rows = measured(config, [PROMPT], "generator", "policy", "judge")
    assert sorted(row["system"] for row in rows) == ["base", "wrong_audio"]
    assert {dict(row["metrics"])["ls"] for row in rows} == {1.0}
    assert measured(config, [], "generator", "policy", "judge") == []
