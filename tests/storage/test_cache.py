"""Copies of S3 objects are bounded: those that nobody has used for longest go first."""

import os
import time

import pytest

from ft2ray import storage
from ft2ray.storage import cache

HOURS = 3600.0


@pytest.fixture
def root(tmp_path):
    """Four entries of 100 bytes, last used 4, 3, 2 and 1.5 hours ago; the third is linked to by a folder."""
    for name, hours in (("a", 4), ("b", 3), ("c", 2), ("d", 1.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100))
        os.utime(tmp_path / name, (time.time() - hours * HOURS,) * 2)
    (tmp_path / "folder").mkdir()
    os.link(tmp_path / "c" / "file", tmp_path / "folder" / "file")
    os.utime(tmp_path / "folder", (time.time() - 2.5 * HOURS,) * 2)
    return tmp_path


def left(root) -> set[str]:
    return {folder.name for folder in root.iterdir()}


@pytest.mark.parametrize(
    ("limit", "stay"),
    [
        (400, {"a", "b", "c", "d", "folder"}),
        (399, {"b", "c", "d", "folder"}),
        (200, {"c", "d", "folder"}),
        (199, {"d"}),  # to let go of the folder alone frees nothing
        (0, set()),
    ],
)
def test_least_recently_used_entries_go_until_the_rest_fits(root, limit, stay):
    cache.trim(root, limit)
    assert left(root) == stay


def test_what_was_just_used_stays(root, monkeypatch):
    monkeypatch.setattr(cache, "_root", lambda: root)
    assert cache.entry("a") == root / "a"
    cache.trim(root, 0)
    assert left(root) == {"a"}


def test_copies_of_objects_stay_within_the_limit(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("FT2RAY_CACHE_GB", "1e-6")
    monkeypatch.setattr(cache, "IN_USE_SECONDS", 0.0)
    for name in ("one", "two", "three"):
        storage.write_atomically(f"{s3}/{name}", bytes(400))
        assert storage.local_copy(f"{s3}/{name}").read_bytes() == bytes(400)
        time.sleep(0.01)
    cached = [file.name for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(cached) == ["three", "two"]
    monkeypatch.setenv("FT2RAY_CACHE_GB", "much")
    storage.write_atomically(f"{s3}/four", bytes(400))
    with pytest.raises(ValueError, match="FT2RAY_CACHE_GB is 'much'"):
        storage.local_copy(f"{s3}/four")
