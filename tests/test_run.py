"""The run folder keeps what it is told, here and on S3, and is read where it lies."""

import pickle
import shutil
from pathlib import Path

import pytest

from ft2ray import storage
from ft2ray.config import AlignConfig, load_config
from ft2ray.errors import DataError
from ft2ray.records import Prompt
from ft2ray.rounds.plan import Plan, Quarantined
from ft2ray.run import Run
from ft2ray.storage import join, write_atomically, write_json
from tests.runs import stated

PROMPT = Prompt("id", "s3://b/a.jpg", "b.flac", 0.0, 3.0)
PLAN = Plan([PROMPT], [PROMPT], [Quarantined("c.jpg", "no_face", "There is none.")])


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3")


def begun(run_dir: str) -> Run:
    run = Run(load_config(None, [f"run_dir={run_dir}", "tlpo.experts.rank=3"]))
    run.begin(PLAN)
    run.identify("gen", "crit")
    return run


def test_what_was_asked_comes_back(run_dir):
    run = begun(run_dir)
    again = Run.open(run_dir)
    assert (again.config, again.plan) == (run.config, PLAN)
    assert {"ray", "ft2ray", "python"} <= again.versions.keys()
    assert (again.generator, again.critic, again.key, again.specs) == ("gen", "crit", run.key, run.specs)
    assert again.seconds == {}
    for seconds in (1.0, 2.0):
        run.add_seconds("training", seconds)
    assert again.seconds == {"training": 3.0}


def test_other_fingerprints_are_another_training(tmp_path):
    run = begun(str(tmp_path))
    key, specs = run.key, run.specs
    run.identify("another", "crit")
    assert run.key != key and run.specs != specs
    assert Run.open(tmp_path).key == run.key


def test_it_travels_without_what_can_be_read_again(tmp_path):
    run = begun(str(tmp_path))
    assert run.specs and set(run.__getstate__()) == {"config"}
    assert pickle.loads(pickle.dumps(run)).specs == run.specs


@pytest.mark.parametrize("how", [shutil.copytree, shutil.move], ids=["copied", "moved"])
def test_a_copied_or_moved_folder_is_read_where_it_lies(tmp_path, how):
    run = begun(str(tmp_path / "first"))
    run.add_seconds("training", 3.0)
    run.publish(run.policy(1))
    how(tmp_path / "first", tmp_path / "other")
    begun(str(tmp_path / "first")).add_seconds("training", 9.0)  # a new run in the old place
    other = Run.open(tmp_path / "other")
    places = (
        other.url,
        other.groups.root,
        other.policy(1),
        other.current_policy,
        other.group_lists,
        other.file("x"),
    )
    assert all(place.startswith(str(tmp_path / "other")) for place in places)
    assert other.seconds == {"training": 3.0} and other.key == run.key


def test_the_policy_of_the_run_is_the_one_published_last(run_dir):
    run = begun(run_dir)
    with pytest.raises(DataError, match="holds no trained policy"):
        _ = run.current_policy
    for version in (1, 2):
        run.publish(run.policy(version))
    assert run.current_policy == join(run_dir, "policies", f"{run.key}-2")


def test_a_folder_without_a_run_says_so(run_dir):
    with pytest.raises(DataError, match="is not a run folder"):
        Run.open(run_dir)


@pytest.mark.parametrize("name", ["prompts.json", "versions.json", "fingerprints.json"])
@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"[]", b'{"critic": "b", "digest": "0"}'])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, name, data):
    begun(str(tmp_path))
    write_atomically(tmp_path / name, data)
    run = Run.open(tmp_path)
    with pytest.raises(DataError, match=f"{name}: .* is damaged.*writes it again"):
        _ = run.plan, run.versions, run.critic


def test_wall_times_that_are_lost_stop_nobody(tmp_path, caplog):
    run = begun(str(tmp_path))
    write_atomically(tmp_path / "seconds.json", b"")
    assert run.seconds == {} and "seconds.json" in caplog.text
    run.add_seconds("training", 2.0)
    assert run.seconds == {"training": 2.0}


def test_a_local_run_belongs_to_one_at_a_time(tmp_path):
    refused = pytest.raises(ValueError, match="another ft2ray align is working")
    with storage.exclusive(tmp_path, "ft2ray align"), refused, storage.exclusive(tmp_path, "ft2ray align"):
        pytest.fail("two at once")
    with storage.exclusive(tmp_path, "ft2ray align"):
        pass


@pytest.mark.parametrize("damage", [b"", b"{", b'{"step": 7}', b'{"curves": []}', b"[]", b"\xff"])
def test_side_figures_that_are_lost_stop_nothing(tmp_path, damage, caplog):
    """And a figure that was changed is never shown as one that was written."""
    run = stated(AlignConfig(run_dir=str(tmp_path)), key="key")
    run.reached(5)
    assert run.step == 5
    policy = run.policy(1)
    write_json(policy + ".curves.json", {"curves": [{"step": 1, "name": "mn", "loss": 0.5}]})
    assert run.curves(policy)[0]["loss"] == 0.5
    (tmp_path / "train" / "key.progress.json").write_bytes(damage)
    Path(policy + ".curves.json").write_bytes(damage)
    assert run.step == 0 and run.curves(policy) == []
    assert caplog.text.count("what it held is lost") == 2
