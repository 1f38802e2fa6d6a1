"""A lease on S3: only one process works in a folder, and one that died does not keep it for ever.

The lease is one object that its owner writes again every BEAT seconds. Whoever wants it watches it first: if
it is written meanwhile, its owner lives and the other is refused; if it is EXPIRY seconds old by the store's
own clock, it is taken over. All writes are conditional on what was read, so of several who try one succeeds.
An owner that was silent too long (a suspended machine, a store out of reach) and lost the lease is stopped.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from ft2ray import s3
from ft2ray.errors import StoreRefused, StoreUnavailable, UserError

BEAT = 15.0
EXPIRY = 60.0


@contextlib.contextmanager
def lease(url: str, what: str, beat: float = BEAT, expiry: float = EXPIRY) -> Iterator[None]:
    """Hold the lease `url` for the block; ValueError where another process does `what` in its folder."""
    owner = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
    etag = _acquire(url, what, owner, beat, expiry)
    ended, lost = threading.Event(), threading.Event()

    def renew() -> None:
        nonlocal etag
        while not ended.wait(beat):
            try:
                new = s3.put(url, _state(owner), if_match=etag) or _etag_if_held(url, owner)
            except (StoreUnavailable, StoreRefused):
                continue  # the work itself meets the same store; the lease is ours as long as nobody took it
            if new is None:
                lost.set()
                _thread.interrupt_main()
                return
            etag = new

    heart = threading.Thread(target=renew, daemon=True)
    heart.start()
    try:
        with _interruptible():
            yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise UserError(
            f"{url} was taken over by another {what} while this one did not answer; this one stops"
        ) from None
    finally:
        ended.set()
        heart.join()
        if not lost.is_set():
            with contextlib.suppress(StoreUnavailable, StoreRefused):  # then it expires by itself
                s3.put(url, _state(None), if_match=etag)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A job that a script starts with & ignores SIGINT, and interrupt_main would be lost on it."""
    ignores = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if not ignores or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _acquire(url: str, what: str, owner: str, beat: float, expiry: float) -> str:
    seen = None
    while True:
        etag: str | None = None
        try:
            held = s3.read(url)
        except FileNotFoundError:
            etag = s3.put(url, _state(owner), if_absent=True)
        else:
            holder = json.loads(held.data)["owner"]
            if holder is None or held.age > expiry:
                etag = s3.put(url, _state(owner), if_match=held.etag)
            elif seen is None:
                print(f"{url} belongs to {holder}; waiting to see whether it is alive", flush=True)
            elif held.etag != seen:
                raise UserError(f"another {what} is at work: {url} belongs to {holder}, which is alive")
            seen = held.etag
        if etag is not None:
            return etag
        time.sleep(beat / 5)


def _state(owner: str | None) -> bytes:
    """Every state differs from the one before, and so does its ETag."""
    return json.dumps({"owner": owner, "beat": uuid.uuid4().hex}).encode()


def _etag_if_held(url: str, owner: str) -> str | None:
    """The ETag of our own lease where a beat got through whose answer never came."""
    try:
        held = s3.read(url)
    except FileNotFoundError:
        return None
    return held.etag if json.loads(held.data)["owner"] == owner else None
