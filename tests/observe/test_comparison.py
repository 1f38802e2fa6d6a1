import json

import pytest

from ft2ray.errors import DataError
from ft2ray.observe.comparison import Gain, gains


def report(mean, delta, bounds):
    table = {"mean": mean, "ci95": None, "delta_vs_base": delta, "delta_ci95": bounds}
    base = {"ls": {"mean": 0.4, "ci95": None, "delta_vs_base": 0.0, "delta_ci95": None}}
    return {"systems": {"base": base, "tlpo": {"ls": table, "joint": {"n": 3}, "displacement": 0.1}}}


def test_runs_stand_side_by_side_with_their_intervals(tmp_path):
    for name, bounds in (("one", [0.01, 0.05]), ("two", None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report(0.43, 0.03, bounds)))
    assert gains([str(tmp_path / "one"), str(tmp_path / "two")]) == [
        Gain("one", "tlpo", "ls", 0.43, 0.03, (0.01, 0.05)),
        Gain("two", "tlpo", "ls", 0.43, 0.03, None),
    ]


def test_a_run_without_a_report_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no report.json yet"):
        gains([str(tmp_path)])
