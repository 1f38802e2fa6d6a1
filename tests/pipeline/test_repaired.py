"""A damaged group stops the work, is set aside, and is made again by the work that follows."""

from pathlib import Path

import pytest
from ray.exceptions import RayTaskError

from ft2ray.config import AlignConfig
from ft2ray.errors import StoredDataError
from ft2ray.pipeline.align import repaired
from ft2ray.run import Run, group_store, refused_store


def row(n: int) -> dict:
    return {"group_id": f"g{n}", "path": "a.jpg", "reason": "no_face", "message": "There is none."}


def flip(store, key: str) -> Path:
    path = Path(store.root, store.commit([row(int(key[1:]))]))
    path.write_bytes(path.read_bytes().replace(b"no_face", b"mo_face"))
    return path


def test_the_work_is_done_again_without_the_damaged_rows(tmp_path, caplog):
    store, calls = refused_store(str(tmp_path)), []
    bad = [flip(store, "g1"), flip(store, "g3")]
    store.commit([row(2)])

    def work() -> str:
        calls.append(store.committed({"g1", "g2", "g3"}))
        if len(calls) == 1:
            with pytest.raises(StoredDataError) as found:
                store.get("g1")
            raise RayTaskError("train", "Traceback ...", found.value)  # as it comes from a train worker
        return "done"

    assert repaired(Run(AlignConfig(run_dir=str(tmp_path))), work) == "done"
    assert calls == [{"g1", "g2", "g3"}, {"g2"}] and not any(path.exists() for path in bad)
    assert caplog.text.count("it is set aside as") == 2


def test_what_cannot_be_set_aside_and_what_is_a_bug_are_raised(tmp_path):
    def raising(error):
        def work():
            raise error

        return work

    for error in (StoredDataError("/a", "is damaged", "mend it"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            repaired(Run(AlignConfig(run_dir=str(tmp_path))), raising(error))
    assert group_store(str(tmp_path)).shards() == []
