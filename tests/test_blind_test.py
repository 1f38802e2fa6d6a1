"""Base against aligned, blinded: sides, exact intervals, and a result that cannot be changed by hand."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray import blind_test
from ft2ray.blind_test import BlindPair, blind_tasks, preferences
from ft2ray.labels.answers import Answer
from ft2ray.storage import write_json

PAIRS = [BlindPair(f"prompt {n}", f"videos/base-{n}.mp4", f"videos/tlpo-{n}.mp4") for n in range(24)]
ALIGNED = [pair.aligned for pair in PAIRS]


def answers(words, annotator="Anna"):
    tasks = blind_tasks(PAIRS, ("ls",), annotator)
    return [Answer(task, word(task), 0, "id") for task, word in zip(tasks, words, strict=False)]


def aligned(task):
    return "a" if task.clip in ALIGNED else "b"


def base(task):
    return "b" if task.clip in ALIGNED else "a"


def test_sides_and_order_are_drawn_for_everybody_and_stay():
    tasks = {name: blind_tasks(PAIRS, ("ls", "mn"), name) for name in ("Anna", "Bob")}
    assert tasks["Anna"] == blind_tasks(PAIRS, ("ls", "mn"), "Anna")
    assert [t.group for t in tasks["Anna"]] != [t.group for t in tasks["Bob"]]
    left = sum(task.clip in ALIGNED for task in tasks["Anna"])
    assert 14 <= left <= 34, "aligned clips stand on either side"
    assert len({task.task_id for task in tasks["Anna"]}) == 48


def test_the_interval_is_the_exact_one_of_clopper_and_pearson():
    """8 of 10: 44.4 % to 97.5 %, as tables have it; p of the sign test 112/1024."""
    found = preferences(answers([aligned] * 8 + [base] * 2 + [lambda _: "tie"]), ALIGNED)["ls"]
    assert (found.aligned, found.base, found.ties, found.answers) == (8, 2, 1, 11)
    assert found.rate == 0.8
    assert found.interval == pytest.approx((0.4439, 0.9748), abs=1e-4)
    assert found.p_value == pytest.approx(112 / 1024)
    assert (found.prompts, found.annotators) == (11, 1)


@given(st.integers(0, 24), st.integers(0, 24))
@settings(max_examples=40)
def test_the_interval_holds_the_rate_and_turns_round_with_the_answers(wins, losses):
    words = ([aligned] * wins + [base] * losses)[:24]
    other = [base if word is aligned else aligned for word in words]
    found = preferences(answers(words), ALIGNED).get("ls")
    if found is None:
        assert not words
        return
    turned = preferences(answers(other), ALIGNED)["ls"]
    low, high = found.interval
    assert 0 <= low <= found.rate <= high <= 1
    assert math.isclose(turned.interval[0], 1 - high, abs_tol=1e-9)


def test_only_ties_are_no_rate():
    found = preferences(answers([lambda _: "tie"] * 3), ALIGNED)["ls"]
    assert found.rate is None and found.interval is None and found.p_value is None and found.ties == 3


@pytest.fixture
def run(tmp_path, monkeypatch):
    """What the blind test reads of a run: clips, answers and the policy's fingerprint."""
    from ft2ray.config import load_config
    from ft2ray.labels.answers import answer_store
    from ft2ray.records import content_id
    from ft2ray.run import Run

    run = Run(load_config(None, [f"run_dir={tmp_path}"]))
    (tmp_path / "policies" / "p").mkdir(parents=True)
    write_json(tmp_path / "policies" / "p" / "policy.json", {"fingerprint": "fff"})
    (tmp_path / "policies" / "current").write_text("p")
    (tmp_path / "videos").mkdir()
    rows = []
    for n in range(3):
        for system in ("base", "tlpo"):
            path = f"videos/{system}-{n}.mp4"
            (tmp_path / path).write_bytes(path.encode())
            rows.append(
                {
                    "row_id": path,
                    "prompt_id": f"prompt{n}",
                    "seed": 0,
                    "system": system,
                    "policy": "fff",
                    "metrics": {},
                    "video": path,
                }
            )
    rows.append(rows[-1] | {"row_id": "old", "policy": "another", "video": "videos/old.mp4"})
    run.measurements.commit(rows)
    store = answer_store(run.url)
    for task in blind_tasks(blind_test.blind_pairs(run), run.config.dimension_names, "Anna"):
        ids = [content_id(path.encode()) for path in (task.clip, task.other)]
        word = "a" if "tlpo" in task.clip else "b"
        store.commit_once([Answer(task, word, 0, *ids).to_row()])
    return run


def test_the_result_of_a_run_comes_back_in_words(run):
    blind_test.write_blind_result(run)
    sentences = blind_test.sentences(run)
    assert len(sentences) == 3
    assert "lip-sync: tlpo was preferred to the base in 3 of 3 choices (100%" in sentences[1]
    assert "3 prompts, 1 people, 0 ties" in sentences[1]


def test_a_clip_that_was_changed_after_it_was_seen_does_not_count(run, tmp_path):
    (tmp_path / "videos" / "tlpo-0.mp4").write_bytes(b"another")
    result = blind_test.blind_result(run)
    assert {found["answers"] for found in result["dimensions"].values()} == {2}


def test_a_result_that_was_changed_by_hand_is_not_believed(run, tmp_path):
    file = tmp_path / "blind_test.json"
    blind_test.write_blind_result(run)
    result = json.loads(file.read_text())
    result["dimensions"]["ls"]["rate"] = 0.99
    file.write_text(json.dumps(result))
    with pytest.raises(blind_test.DataError, match="changed or damaged"):
        blind_test.read_blind_result(run)


def test_the_result_of_an_earlier_policy_is_none_of_this_one(run, tmp_path):
    blind_test.write_blind_result(run)
    write_json(tmp_path / "policies" / "p" / "policy.json", {"fingerprint": "new"})
    assert blind_test.read_blind_result(run) is None and blind_test.sentences(run) == []
    with pytest.raises(blind_test.DataError, match="side by side"):
        blind_test.blind_pairs(run)
