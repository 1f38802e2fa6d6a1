"""Only what lies below an allowed store can be referred to, however the reference is written."""

import posixpath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ft2ray import storage
from ft2ray.errors import StoreRefused
from ft2ray.serving.references import allowed, fetch
from ft2ray.serving.refusal import Refusal, refusal_of
from ft2ray.serving.settings import CriticServeConfig

STORES = ("s3://clips/public", "/data/clips")

parts = st.sampled_from(
    ["clips", "public", "data", "a.mp4", "..", ".", "", "%2e%2e", "...", "x\x00", "\\", "~"]
)
schemes = st.sampled_from(["s3://", "/", "", "file:///", "http://", "S3://", "//", "s3:/", "s3:///"])
urls = st.one_of(
    st.builds(lambda scheme, path: scheme + "/".join(path), schemes, st.lists(parts, max_size=6)),
    st.builds(lambda store, path: store + "/" + "/".join(path), st.sampled_from(STORES), st.lists(parts)),
    st.text(max_size=40),
)


@given(urls)
@example("s3://clips/public/../secret/a.mp4")
@example("s3://clips/publicity/a.mp4")
@example("/data/clips/../../etc/passwd")
@example("/data/clips/\ud800")
@example("s3://clips/public/\udfff")
@settings(deadline=None, max_examples=500)
def test_what_is_allowed_lies_in_a_store(url):
    try:
        url = allowed(url, STORES)
    except Refusal as refusal:
        assert refusal.status == 422
        return
    plain = posixpath.normpath(url.replace("s3://", "/", 1))
    assert (plain + "/").startswith(("/clips/public/", "/data/clips/")), url
    assert ".." not in url.split("/") and url.encode()


@given(st.lists(st.text("abc.-_ ü%?#", min_size=1).filter(lambda part: part.strip(".")), min_size=1))
@settings(deadline=None)
def test_whatever_lies_in_a_store_is_allowed(path):
    for store in STORES:
        url = storage.join(store, *path)
        assert allowed(url, STORES) == url


def test_a_link_counts_as_what_it_points_to(tmp_path):
    store, secret = tmp_path / "store", tmp_path / "secret"
    store.mkdir()
    secret.write_text("secret")
    (store / "inside").write_text("inside")
    (store / "out").symlink_to(secret)
    (store / "in").symlink_to(store / "inside")
    assert allowed(str(store / "in"), (str(store),)) == str(store / "inside")
    with pytest.raises(Refusal, match="in none of the stores"):
        allowed(str(store / "out"), (str(store),))


def test_the_answer_does_not_tell_what_exists_elsewhere(tmp_path):
    (tmp_path / "there").write_text("x")
    said = set()
    for name in ("there", "not_there"):
        with pytest.raises(Refusal) as refused:
            allowed(str(tmp_path / name), ("/data",))
        said.add((refused.value.reason, refused.value.detail))
    assert len(said) == 1


def test_size_is_looked_at_before_the_file(tmp_path):
    clip = tmp_path / "clip"
    clip.write_bytes(bytes(100))
    stores = (str(tmp_path),)
    assert fetch(str(clip), "clip", stores, 100) == clip
    for url, limit, status in ((clip, 99, 413), (tmp_path, 100, 422), (tmp_path / "none", 100, 422)):
        with pytest.raises(Refusal) as refused:
            fetch(str(url), "clip", stores, limit)
        assert refused.value.status == status


def test_s3_references(s3, monkeypatch):
    url = storage.join(s3, "public", "clip")
    storage.write_atomically(url, b"0123456789")
    stores = (storage.join(s3, "public"),)
    assert fetch(url, "clip", stores, 10).read_bytes() == b"0123456789"
    with pytest.raises(Refusal) as large:
        fetch(url, "clip", stores, 9)
    assert large.value.status == 413
    with pytest.raises(Refusal) as missing:
        fetch(url + "s", "clip", stores, 10)
    assert (missing.value.status, missing.value.reason) == (422, "not_found")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreRefused) as refused:
        fetch(url, "clip", stores, 10)
    answer = refusal_of(refused.value)
    assert answer.status == 502 and "s3" not in answer.detail


@pytest.mark.parametrize("name", ["x" * 300, "ü" * 200, "x/" * 600, "x" * 2000])
def test_a_name_that_no_store_has_is_the_clients_mistake(tmp_path, name):
    for store in (str(tmp_path), "s3://bucket"):
        with pytest.raises(Refusal) as refused:
            fetch(f"{store}/{name}".rstrip("/"), "video", (store,), 100)
        assert (refused.value.status, refused.value.reason) in {(422, "bad_reference"), (422, "not_found")}


@pytest.mark.parametrize("store", ["clips", "file:///x", "s3://", "/a/../b", "/", "http://x/y", "s3://b//c"])
def test_stores_are_checked_when_the_service_starts(store):
    with pytest.raises(ValueError, match="a store must be"):
        CriticServeConfig(stores=(store,))


def test_stores_may_end_in_a_slash(tmp_path):
    assert CriticServeConfig(stores=("s3://b/c/",)).stores == ("s3://b/c",)
