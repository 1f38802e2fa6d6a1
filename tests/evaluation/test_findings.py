import json

from ft2ray.evaluation.compare import Row
from ft2ray.evaluation.findings import build_report


def example(gain_vq, prompts=4):
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
        rows, wrong, {"accuracy": {"mn": 0.9, "ls": None, "vq": 0.8}, "n": 60}, 12.5, resamples=300
    )


def test_report_has_the_documented_shape_and_is_json():
    report = json.loads(json.dumps(example(0.1), allow_nan=False))
    assert set(report["systems"]["tlpo"]["ls"]) == {"mean", "ci95", "delta_vs_base", "delta_ci95"}
    assert report["seeds"] == [0, 1, 2] and report["prompts"] == 4 and report["seconds"] == 12.5
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
    assert "Only 4 prompts" in text and "intervals are wide" in text
    rows = [
        Row("base", "p", 0, {"mn": 0.1, "ls": None, "vq": 0.2}),
        Row("tlpo", "p", 0, {"mn": 0.2, "ls": 0.1}),
    ]
    report = build_report(rows, [], {"accuracy": {}, "n": 0}, 1.0, resamples=50)
    assert report["findings"]["missing"] == {"base": {"ls": 1}, "tlpo": {"vq": 1}}
    assert any("could not be measured" in sentence for sentence in report["findings"]["text"])
