import os
import signal
import subprocess
import sys
import tempfile

import pytest

from ft2ray import scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def age(folder) -> None:
    os.utime(folder, (0, 0))


def test_a_folder_goes_with_its_block():
    with scratch.scratch_folder() as folder:
        (folder / "portrait.jpg").write_bytes(b"face")
    assert not folder.exists()
    with pytest.raises(RuntimeError), scratch.scratch_folder() as folder:
        raise RuntimeError
    assert not folder.exists()


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(temporary):
    script = (
        "from ft2ray.scratch import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'audio.flac').write_bytes(b'voice')\n"
        "    print(folder, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        folder = process.stdout.readline().strip()
        assert scratch.remove_leftovers() == []
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [str(removed) for removed in scratch.remove_leftovers()] == [folder]
    assert list(temporary.iterdir()) == []


def test_a_folder_that_is_being_made_and_those_of_others_stay(temporary):
    (temporary / (scratch.PREFIX + "new")).mkdir()
    (temporary / "somebody-elses").mkdir()
    age(temporary / "somebody-elses")
    assert scratch.remove_leftovers() == []
    age(temporary / (scratch.PREFIX + "new"))
    assert len(scratch.remove_leftovers()) == 1
    assert (temporary / "somebody-elses").is_dir()
