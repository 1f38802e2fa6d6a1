"""The status of a run is read from its folder alone."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ft2ray.cli import main
from ft2ray.config import load_config
from ft2ray.errors import StoredDataError
from ft2ray.observe.last_error import LastError, forget_last_error, write_last_error
from ft2ray.observe.status import read_status
from ft2ray.observe.timeline import Span, commit_spans
from ft2ray.records import Candidate, Prompt, PromptGroup
from ft2ray.rounds.plan import Plan, Quarantined
from ft2ray.run import Run
from ft2ray.storage import delete, join, write_atomically, write_json

PROMPTS = [Prompt(f"p{n}", "a.jpg", "b.wav", 0.0, 3.0) for n in range(3)]
SETTINGS = ["schedule.rounds=3", "schedule.max_staleness=1", "tlpo.steps=9", "tlpo.gate_steps=4"]
FIRST = "policy-1"


class Filled:
    """A run folder, filled by hand as the pipeline fills it."""

    def __init__(self, run_dir: str):
        self.dir = run_dir
        self.config = load_config(None, [f"run_dir={run_dir}", *SETTINGS, "pairs.margin=0.0"])
        self.run = Run(self.config)
        self.run.begin(Plan(PROMPTS, PROMPTS, [Quarantined("c.jpg", "no_face", "There is none.")]))
        self.run.identify("gen", "crit")
        self.key, self.specs = self.run.key, self.run.specs

    def commit(self, number: int, *scores: list[float] | None, policy: str = "base") -> None:
        spec, zero = self.specs[number], np.zeros((1, 1, 1, 1), np.float32)
        group = PromptGroup(
            spec.group_id, spec.round, spec.prompt.prompt_id, "a.jpg", "a", "b.wav", 0.0, 3.0, "gen", "crit",
            self.config.dimension_names, None, np.zeros((2, 2), np.float32), 1,
            [Candidate(f"c{n}", policy, n, {}, zero, zero, None, s) for n, s in enumerate(scores)],
        )  # fmt: skip
        self.run.groups.commit_once([group.to_row()])

    def refuse(self, number: int) -> None:
        row = {"path": "late.jpg", "reason": "unreadable", "message": "It is gone."}
        self.run.refused.commit_once([{"group_id": self.specs[number].group_id, **row}])

    def publish(self, version: int, fingerprint: str) -> None:
        url = join(self.run.policy(version), "policy.json")
        write_json(url, {"fingerprint": fingerprint})


@pytest.fixture(params=["local", "s3"])
def run(request, tmp_path) -> Filled:
    return Filled(str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3"))


def test_a_run_that_has_just_begun(run):
    status = read_status(run.dir)
    assert status.rounds == [(0, 3)] * 3 and status.refused == []
    assert (status.candidates, status.unscored, status.staleness) == (0, 0, {})
    assert set(status.pairs.values()) == {0}
    assert (status.step, status.last_step, status.policies, status.finished) == (0, 21, 0, False)
    assert status.groups_per_minute is None and status.generators_busy is None
    text = str(status)
    assert "staleness   no group" in text and "generation  nothing yet" in text


def test_groups_pairs_staleness_and_refusals_are_counted(run):
    run.commit(0, [0.9, 0.2, 0.5], [0.1, 0.8, 0.5], None)
    run.commit(1, None, None)
    run.refuse(2)
    run.commit(3, [0.9, 0.9, 0.9], [0.1, 0.1, 0.1])
    run.publish(1, FIRST)
    run.commit(4, [0.6, 0.6, 0.6], [0.6, 0.6, 0.7], policy=FIRST)
    run.commit(6, [0.6, 0.6, 0.6], [0.6, 0.6, 0.6], policy=FIRST)
    run.run.reached(4)
    status = read_status(run.dir)
    assert status.rounds == [(2, 3), (2, 3), (1, 3)]
    assert status.refused == ["late.jpg [unreadable]"] and status.quarantined == ["c.jpg [no_face]"]
    assert (status.candidates, status.unscored) == (11, 3)
    assert {name: status.pairs[name] for name in ("mn", "ls", "vq")} == {"mn": 2, "ls": 2, "vq": 2}
    assert status.pairs["full"] == 2, "wins in one dimension and loses in none"
    assert status.staleness == {0: 3, 1: 2}, "round 2 by the base and round 3 by policy 1 are one round late"
    assert (status.step, status.policies) == (4, 1)
    text = str(status)
    for line in (
        "round 2     2 of 3 groups",
        "candidates  11, 3 without a score",
        "staleness   3 groups 0 rounds late, 2 groups 1 rounds late",
        "training    step 4 of 21, policies published: 1",
        "quarantined c.jpg [no_face]",
        "quarantined late.jpg [unreadable]",
    ):
        assert line in text.splitlines(), line


def test_groups_of_other_settings_are_not_counted(run):
    run.commit(0, [0.9, 0.9, 0.9], [0.1, 0.1, 0.1])
    other = run.specs[1]
    run.specs[1] = type(other)("of-another-run", 0, other.prompt)
    run.commit(1, [0.9, 0.9, 0.9], [0.1, 0.1, 0.1])
    status = read_status(run.dir)
    assert status.rounds[0] == (1, 3) and status.candidates == 2


def test_throughput_is_that_of_the_last_minutes(run):
    early = [Span("generate", "a", "g0", 0, 0, 0.0, 100.0)]
    late = [Span("generate", lane, f"g{n}{lane}", 0, 0, 1000.0 + 30 * n, 1020.0 + 30 * n)
            for lane in ("b", "c") for n in range(4)]  # fmt: skip
    commit_spans(run.run.spans, early + late)
    commit_spans(run.run.spans, [Span("train", "t", "steps 0 to 1", 0, 0, 1010.0, 1050.0)])
    status = read_status(run.dir)
    assert status.groups_per_minute == pytest.approx(8 / (110 / 60))
    # a worked 100 of 100 s, b and c 80 of 110 s each
    assert status.generators_busy == pytest.approx(260 / 320)
    assert status.overlap_seconds == pytest.approx(10 + 20)
    assert "generation  4.4 groups a minute, generators busy 81%" in str(status)


def finish(run: Run) -> None:
    for version in range(1, 4):
        run.publish(version, f"policy-{version}")
    write_atomically(join(run.dir, "report.json"), b"{}")


def test_a_report_of_an_earlier_training_does_not_finish_the_next(run):
    write_atomically(join(run.dir, "report.json"), b"{}")
    run.publish(1, FIRST)
    assert not read_status(run.dir).finished


def test_a_run_is_watched_until_it_is_finished(run, capsys, monkeypatch):
    monkeypatch.setattr("ft2ray.observe.status.time.sleep", lambda seconds: finish(run))
    assert main(["status", run.dir, "--watch"]) == 0
    first, last = (line for line in capsys.readouterr().out.splitlines() if line.startswith("run  "))
    assert first == f"run         {run.dir}" and last == f"{first} (finished)"


def test_a_finished_run_says_so(run):
    finish(run)
    status = read_status(run.dir)
    assert status.finished and str(status).splitlines()[0] == f"run         {run.dir} (finished)"


def test_the_command_prints_it_and_writes_the_timeline(run, capsys, tmp_path):
    commit_spans(run.run.spans, [Span("generate", "a", "g0", 0, 0, 0.0, 10.0)])
    assert main(["status", run.dir, "--timeline", str(tmp_path / "trace.json")]) == 0
    assert "round 1     0 of 3 groups" in capsys.readouterr().out
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"][1]["name"] == "g0"


def test_the_status_says_how_the_last_attempt_ended(run):
    write_last_error(run.dir, LastError("the store does not answer", 75, 0.0))
    assert str(read_status(run.dir)).splitlines()[-2].endswith("with exit code 75: the store does not answer")
    forget_last_error(run.dir)
    assert read_status(run.dir).last_error is None


RUBBISH = (b"", b"{", b"{}", b"[]", b"null", b"\xff", b'{"sentence": 1}', b"[" * 100_000)


@pytest.mark.parametrize("data", RUBBISH)
def test_notes_that_are_damaged_stop_no_status(tmp_path, data, caplog):
    run = Filled(str(tmp_path / "run"))
    for name in ("ending.json", "deaths.json"):
        write_atomically(join(run.dir, name), data)
    status = read_status(run.dir)
    assert status.last_error is None and status.deaths == []
    assert "ending.json: how the last attempt ended is not known" in caplog.text


@pytest.mark.parametrize("data", RUBBISH)
def test_a_policy_whose_description_is_damaged_is_named(tmp_path, data):
    run = Filled(str(tmp_path / "run"))
    run.publish(1, FIRST)
    assert read_status(run.dir).policies == 1
    write_atomically(join(run.run.policy(1), "policy.json"), data)
    with pytest.raises(StoredDataError, match="policy.json: a policy's description is damaged"):
        read_status(run.dir)


def test_a_folder_without_a_run_is_one_sentence(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "is not a run folder" in said.err


def test_a_run_that_was_planned_but_never_began_is_one_sentence(run, capsys):
    delete(join(run.dir, "fingerprints.json"))
    assert main(["status", run.dir]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "holds no run that has begun" in said.err


def test_looking_at_a_run_or_scoring_its_groups_imports_no_model_library():
    """They would cost every scorer, and whoever asks for a status or opens the page, seconds and 300 MB."""
    heavy = {"torch", "transformers", "diffusers", "peft"}
    code = "import sys, ft2ray.observe.status, ft2ray.pipeline.curation, ft2ray.ui.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "ft2ray.observe.status" in loaded.split()
    assert not heavy & set(loaded.split())
