import json

import pytest

from ft2ray.dimensions import DEFAULT_DIMENSIONS, Dimension
from ft2ray.evaluation.compare import Row
from ft2ray.evaluation.findings import build_report
from ft2ray.evaluation.report import ReportData, render


def example(gain_vq, prompts=8):
    rows = []
    for i in range(prompts):
        for seed in range(3):
            level = 0.1 * i + 0.01 * seed
            rows.append(Row("base", f"p{i}", seed, {"mn": level, "ls": level, "vq": level}))
            rows.append(
                Row(
                    "tlpo", f"p{i}", seed, {"mn": level + 0.2, "ls": level + (-1) ** i, "vq": level + gain_vq}
                )
            )
    wrong = [Row("wrong_audio", f"p{i}", 0, {"ls": 0.02}) for i in range(prompts)]
    return build_report(
        rows,
        wrong,
        {"accuracy": {"mn": 0.9, "ls": None, "vq": 0.8}, "n": 60},
        12.5,
        DEFAULT_DIMENSIONS,
        resamples=300,
    )


def test_report_has_the_documented_shape_and_is_json():
    report = json.loads(json.dumps(example(0.1), allow_nan=False))
    assert set(report["systems"]["tlpo"]["ls"]) == {"mean", "ci95", "delta_vs_base", "delta_ci95"}
    assert report["seeds"] == [0, 1, 2] and report["prompts"] == 8 and report["seconds"] == 12.5
    assert report["references"]["real_video"]["ls"] is None
    assert report["critic"]["accuracy"]["ls"] is None


def test_words_follow_the_intervals():
    words = example(-0.1)["findings"]["verdicts"]["tlpo"]
    assert words == {"mn": "improved", "ls": "not shown", "vq": "worse"}
    first = example(-0.1)["findings"]["text"][0]
    assert (
        "improved motion naturalness" in first
        and "made visual quality" in first
        and "no clear change" in first
    )


def test_few_prompts_and_unmeasured_clips_are_said():
    text = " ".join(example(0.1)["findings"]["text"])
    assert "Only 8 prompts" in text and "intervals are wide" in text
    assert "no interval is stated below 6" in " ".join(example(0.1, prompts=5)["findings"]["text"])
    rows = [
        Row("base", "p", 0, {"mn": 0.1, "ls": None, "vq": 0.2}),
        Row("tlpo", "p", 0, {"mn": 0.2, "ls": 0.1}),
    ]
    report = build_report(rows, [], {"accuracy": {}, "n": 0}, 1.0, DEFAULT_DIMENSIONS, resamples=50)
    assert report["findings"]["missing"] == {"base": {"ls": 1}, "tlpo": {"vq": 1}}
    assert any("could not be measured" in sentence for sentence in report["findings"]["text"])


CALM = Dimension(name="calm", title="calm", question="Is it calm?")


@pytest.mark.parametrize(
    "dimensions", [DEFAULT_DIMENSIONS[:1], DEFAULT_DIMENSIONS[:2], (*DEFAULT_DIMENSIONS, CALM)]
)
def test_any_number_of_dimensions_and_one_that_nothing_measures(dimensions):
    names = [dimension.name for dimension in dimensions]
    rows = [
        Row(system, f"p{i}", 0, {d.name: 0.1 * i + gain if d.metric else None for d in dimensions})
        for system, gain in (("base", 0.0), ("tlpo", 0.5))
        for i in range(12)
    ]
    report = build_report(rows, [], {"accuracy": {}, "n": 0}, 1.0, dimensions, resamples=100)
    findings = report["findings"]
    assert list(report["systems"]["tlpo"]) == [*names, "joint", "displacement"]
    assert findings["verdicts"]["tlpo"] == {
        d.name: "improved" if d.metric else "not measured" for d in dimensions
    }
    assert findings["joint"]["tlpo"]["jdr"] == 1.0 and findings["worst_gain"]["value"] > 0
    assert findings["missing"] == {}
    assert any("Nothing measures calm" in text for text in findings["text"]) == (CALM in dimensions)
    data = ReportData("run", report, dimensions, {"tlpo": "the words of a system"})
    page = render(data)
    assert all(dimension.title.capitalize() in page for dimension in dimensions)
    assert f"in {len(names)} dimension{'' if len(names) == 1 else 's'}," in page
    assert "the words of a system" in page


def test_of_dimensions_that_nothing_measures_nothing_is_claimed():
    rows = [Row(system, "p", 0, {"calm": None}) for system in ("base", "tlpo")]
    report = build_report(rows, [], {"accuracy": {}, "n": 0}, 1.0, [CALM], resamples=50)
    assert report["findings"]["text"][0] == "Against the base, tlpo was not measured."
    assert report["findings"]["worst_gain"] is None and report["findings"]["joint"]["tlpo"]["jdr"] is None
