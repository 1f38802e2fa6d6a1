"""The run folder keeps what it is told, here and on S3, and belongs to one align at a time."""

import pytest

from ft2ray import run as run_folder
from ft2ray import storage
from ft2ray.config import load_config
from ft2ray.errors import StoredDataError
from ft2ray.records import Prompt
from ft2ray.rounds.prompts import Plan, Quarantined
from ft2ray.storage import join


@pytest.fixture(params=["local", "s3"])
def run_dir(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3")


def test_what_was_asked_comes_back(run_dir):
    config = load_config(None, [f"run_dir={run_dir}", "tlpo.experts.rank=3"])
    prompt = Prompt("id", "s3://b/a.jpg", "b.flac", 0.0, 3.0)
    plan = Plan([prompt], [prompt], [Quarantined("c.jpg", "no_face", "There is none.")])
    run_folder.write_inputs(config, plan)
    assert run_folder.read_config(run_dir) == config and run_folder.read_plan(run_dir) == plan
    assert {"ray", "ft2ray", "python"} <= run_folder.read_versions(run_dir).keys()
    assert run_folder.read_seconds(run_dir) == {}
    for seconds in (1.0, 2.0):
        run_folder.add_seconds(run_dir, "training", seconds)
    assert run_folder.read_seconds(run_dir) == {"training": 3.0}


def test_the_policy_of_the_run_is_the_one_published_last(run_dir):
    with pytest.raises(ValueError, match="holds no trained policy"):
        run_folder.policy_dir(run_dir)
    for name in ("key-1", "key-2"):
        run_folder.publish(run_dir, join(run_dir, "policies", name))
    assert run_folder.policy_dir(run_dir) == join(run_dir, "policies", "key-2")


def test_a_folder_without_a_run_says_so(run_dir):
    with pytest.raises(ValueError, match="is not a run folder"):
        run_folder.read_config(run_dir)


def test_a_local_run_belongs_to_one_at_a_time(tmp_path):
    refused = pytest.raises(ValueError, match="another ft2ray align is working")
    with storage.exclusive(tmp_path, "ft2ray align"), refused, storage.exclusive(tmp_path, "ft2ray align"):
        pytest.fail("two at once")
    with storage.exclusive(tmp_path, "ft2ray align"):
        pass


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"{}", b"[]", b'{"generator": "a", "critic": "b", "digest": "0"}']
)
def test_damaged_notes_are_named_and_lost_wall_times_stop_nothing(tmp_path, caplog, content):
    run_folder.write_inputs(load_config(None, [f"run_dir={tmp_path}"]), Plan([], [], []))
    run_folder.write_fingerprints(tmp_path, "generator", "critic")
    run_folder.add_seconds(tmp_path, "curation", 2.0)
    readers = {
        "prompts.json": run_folder.read_plan,
        "versions.json": run_folder.read_versions,
        "fingerprints.json": run_folder.read_fingerprints,
    }
    for name, read in readers.items():
        read(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoredDataError, match=f"{tmp_path}/{name}: .* is damaged.*writes it again"):
            read(tmp_path)
    (tmp_path / "seconds.json").write_bytes(content)
    assert run_folder.read_seconds(tmp_path) == {} and "seconds.json: the note of wall times" in caplog.text
    run_folder.add_seconds(tmp_path, "curation", 3.0)
    assert run_folder.read_seconds(tmp_path) == {"curation": 3.0}
