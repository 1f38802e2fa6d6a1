"""One process works in a folder on S3: a living owner keeps it, a dead one is followed."""

import os
import subprocess
import sys
import threading
import time

import pytest

from ft2ray.storage import s3 as store
from ft2ray.storage import write_atomically
from ft2ray.storage.lease import EXPIRY, lease
from tests.s3_server import Line

TIMES = {"beat": 0.5, "expiry": 6.0}

HOLDER = """
import sys, time
from ft2ray.storage import s3 as store
from ft2ray.storage.lease import lease
with lease(sys.argv[1], "test", beat=0.5, expiry=6.0):
    print("mine", flush=True)
    time.sleep(60)
"""


def hold(url: str) -> subprocess.Popen:
    """Another process that holds the lease."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "mine\n"
    return holder


def test_the_next_one_has_it_at_once_when_the_first_is_done(s3):
    for _ in range(2):
        start = time.monotonic()
        with lease(f"{s3}/.lock", "test"):
            assert time.monotonic() - start < EXPIRY / 2


def test_a_living_owner_keeps_it_and_a_killed_one_is_followed_after_its_time(s3):
    holder = hold(f"{s3}/.lock")
    try:
        refused = pytest.raises(ValueError, match=f"another test is at work.*process {holder.pid} on")
        with refused, lease(f"{s3}/.lock", "test", **TIMES):
            pytest.fail("two at once")
    finally:
        holder.kill()
        holder.wait()
    killed = time.monotonic()
    with lease(f"{s3}/.lock", "test", **TIMES):
        assert time.monotonic() - killed > 2.0


def test_of_several_who_find_a_dead_owner_one_gets_it(s3):
    write_atomically(f"{s3}/.lock", b'{"owner": "the dead"}')
    time.sleep(8)
    results: list[str] = []

    def take() -> None:
        try:
            with lease(f"{s3}/.lock", "test", **TIMES):
                results.append("mine")
                time.sleep(4)
        except ValueError as error:
            results.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("mine") == 1 and sum("at work" in result for result in results) == 2


def test_whoever_lost_it_goes_on_and_leaves_the_other_one_its_lease(s3, caplog):
    with lease(f"{s3}/.lock", "test", **TIMES):
        write_atomically(f"{s3}/.lock", b'{"owner": "somebody else"}')
        deadline = time.monotonic() + 60
        while "was taken over by another test" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert store.read(f"{s3}/.lock").data == b'{"owner": "somebody else"}'


def test_a_lease_that_cannot_be_read_expires_as_any_other(s3):
    write_atomically(f"{s3}/.lock", b"\xff")
    time.sleep(8)
    with lease(f"{s3}/.lock", "test", **TIMES):
        pass


def test_a_beat_whose_answer_was_lost_loses_nothing(s3, s3_server, monkeypatch):
    line = Line(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", line.endpoint)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(store, "PATIENCE", 0.0)
    with lease(f"{s3}/.lock", "test", **TIMES):
        line.lose = 2
        deadline = time.monotonic() + 60
        while line.lose and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(2)
        assert line.lose == 0
    line.close()


def test_the_heart_beats_on_after_a_refusal(s3, monkeypatch):
    """Credentials that are refused once, as while they are exchanged, do not let the lease expire."""
    right = os.environ["AWS_SECRET_ACCESS_KEY"]
    with lease(f"{s3}/.lock", "test", **TIMES):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        time.sleep(3 * TIMES["beat"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", right)
        before = store.read(f"{s3}/.lock").etag
        deadline = time.monotonic() + 20
        while store.read(f"{s3}/.lock").etag == before:
            assert time.monotonic() < deadline, "nobody renews it"
            time.sleep(0.1)
