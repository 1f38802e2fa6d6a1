"""A run that cannot go on says so in one sentence that names the cause, and leaves nothing running."""

import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from ft2ray.cli import main
from ft2ray.observe.last_error import read_last_error
from ft2ray.pipeline import align
from ft2ray.pipeline.align import check_pairs, critic_running, run_together, take_turns
from ft2ray.rounds.group_loader import CurationFailed
from tests.observe.test_status import Filled

YES, NO = [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]


@pytest.fixture
def run(tmp_path) -> Filled:
    return Filled(str(tmp_path / "run"))


@pytest.fixture
def without_ray(monkeypatch):
    monkeypatch.setattr(align, "critic_running", lambda config, missing: nullcontext())


def curating(run: Filled) -> Path:
    return Path(run.run.curating)


def commit_nulls(run: Filled) -> None:
    for number in range(3):
        run.commit(number, None, None)
    row = run.run.groups.get(run.specs[0].group_id)
    assert row["candidates"][0]["scores"] is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["resources.pools.training.count=3"],
            "tlpo.batch 8 must be a multiple of resources.pools.training.count 3",
        ),
        (["resources.compute.offload=true"], "offload needs zero_stage 2 or 3"),
        (
            ["resources.compute.zero_stage=2", "tlpo.loss.safeguard_mu=0.9"],
            "set resources.compute.zero_stage=0 or tlpo.loss.safeguard_mu=null",
        ),
        (["tlpo.loss.kind=simpo", "tlpo.draws.per_group=4"], "simpo has no reference"),
        (["resources.compute.zero_stage=3", "tlpo.draws.per_group=4"], "take stage 0 or 2"),
    ],
)
def test_a_training_that_can_not_be_is_refused_before_anything_is_made(settings, says, tmp_path, capsys):
    assert main(["align", f"run_dir={tmp_path / 'run'}", *settings]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_run_folder_keeps_how_an_attempt_ended_and_the_next_one_looks_anew(tmp_path, capsys, monkeypatch):
    run_dir, weights = f"run_dir={tmp_path / 'run'}", tmp_path / "weights"
    assert main(["align", run_dir, f"generator.weights={weights}"]) == 2
    sentence = capsys.readouterr().err.removeprefix("ft2ray: ").strip()
    assert str(weights) in sentence
    assert main(["status", str(tmp_path / "run")]) == 2
    assert f"with exit code 2: {sentence}" in capsys.readouterr().err

    def stop(*_):
        raise KeyboardInterrupt

    weights.mkdir()  # mended, without another word in the configuration
    (weights / "a.safetensors").write_bytes(b"")
    monkeypatch.setattr(align, "plan_prompts", stop)
    with pytest.raises(KeyboardInterrupt):
        main(["align", run_dir, f"generator.weights={weights}"])
    assert read_last_error(tmp_path / "run") is None, "this attempt did not end by itself"


def test_one_pair_in_one_dimension_is_enough_to_go_on(run, caplog):
    caplog.set_level("INFO", logger="ft2ray")
    run.commit(0, [0.9, 0.5, 0.5], [0.1, 0.5, 0.5])
    check_pairs(run.run)
    assert "mn 1, ls 0, vq 0" in caplog.text


def test_scores_without_a_pair_say_what_to_change(run):
    run.commit(0, YES, YES)
    with pytest.raises(ValueError, match="no dimension has a single preference pair; lower pairs.margin"):
        check_pairs(run.run)


def test_candidates_without_scores_are_counted_and_the_reason_is_named(run):
    commit_nulls(run)
    with pytest.raises(ValueError, match="6 of 6 candidates have no score"):
        check_pairs(run.run)


def test_in_turns_nothing_is_trained_without_a_pair(run, without_ray, monkeypatch):
    monkeypatch.setattr(align, "curate", lambda *_: commit_nulls(run) or [])
    monkeypatch.setattr(align, "train", lambda *_: pytest.fail("trained on nothing"))
    with pytest.raises(ValueError, match="no score"):
        take_turns(run.run)


def test_together_a_failed_curation_ends_the_training_and_its_error_is_the_one_that_is_seen(
    run, without_ray, monkeypatch
):
    def train(*_):
        while curating(run).exists():
            time.sleep(0.01)
        raise CurationFailed

    def disk_full(*_):
        raise OSError("No space left on device")

    def curate(*_):
        monkeypatch.setattr(align, "write_atomically", disk_full)  # nor can anything be left for the training
        disk_full()

    monkeypatch.setattr(align, "curate", curate)
    monkeypatch.setattr(align, "train", train)
    with pytest.raises(OSError, match="No space left on device"):
        run_together(run.run)


def test_together_groups_without_a_pair_end_the_run_before_it_waits_for_a_policy(
    run, without_ray, monkeypatch
):
    """Rounds 1 and 2 of three are the base's; the third would wait for a policy that nobody trains."""
    rounds = []

    def curate(_, specs):
        for number, spec in enumerate(specs):
            run.commit(number, None, None)
            rounds.append(spec.round)
            yield {"round": spec.round}

    def train(*_):
        while curating(run).exists():
            time.sleep(0.01)
        raise CurationFailed

    monkeypatch.setattr(align, "curate", curate)
    monkeypatch.setattr(align, "train", train)
    with pytest.raises(ValueError, match="no score"):
        run_together(run.run)
    assert rounds == [0, 0, 0, 1, 1, 1]


def test_together_a_failed_training_stops_the_curation(run, without_ray, monkeypatch):
    training = Path(run.run.training)

    def curate(_, specs):
        """As the generators, which wait for a policy until they are told that none will come."""
        while training.exists():
            time.sleep(0.01)
        yield {"round": specs[0].round}
        pytest.fail("nobody stopped the curation")

    def train(*_):
        raise RuntimeError("the training broke")

    monkeypatch.setattr(align, "curate", curate)
    monkeypatch.setattr(align, "train", train)
    with pytest.raises(RuntimeError, match="the training broke"):
        run_together(run.run)
    assert curating(run).exists()


def test_the_critic_goes_with_a_run_that_fails(run, monkeypatch):
    deleted = []
    monkeypatch.setattr(align, "start_critic", lambda *_: None)
    monkeypatch.setattr(align, "deaths_bounded", lambda run_dir: nullcontext())
    client = SimpleNamespace(_controller=SimpleNamespace(delete_apps=SimpleNamespace(remote=deleted.append)))
    monkeypatch.setattr(align, "_get_global_client", lambda **_: client)
    monkeypatch.setattr(align.ray, "get", lambda _, timeout: None)
    with pytest.raises(KeyboardInterrupt), critic_running(run.config, run.specs):
        raise KeyboardInterrupt
    assert deleted == [[align.APP]]
