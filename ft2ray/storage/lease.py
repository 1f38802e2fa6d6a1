"""A lease on S3: only one process works in a folder, and one that died does not keep it for ever.

The lease is one object that its owner writes again every BEAT seconds. A second process watches it first: if
it is written meanwhile, its owner lives and the other is refused; if it is EXPIRY seconds old by the store's
own clock, it is taken over. All writes are conditional on what was read, so of several who try one succeeds.

An owner that was silent too long (a suspended machine, a store out of reach) may find the lease taken. It
goes on: groups, measurements and the training's data order are written once, and both take what is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from ft2ray.errors import DataError, StoreRefused, StoreUnavailable
from ft2ray.storage import s3

log = logging.getLogger(__name__)

BEAT = 15.0
EXPIRY = 60.0


@contextlib.contextmanager
def lease(url: str, what: str, beat: float = BEAT, expiry: float = EXPIRY) -> Iterator[None]:
    """Hold the lease `url` for the block; DataError where another process does `what` in its folder."""
    owner = f"process {os.getpid()} on {socket.gethostname()} ({uuid.uuid4().hex[:8]})"
    etag: str | None = _acquire(url, what, owner, beat, expiry)
    ended = threading.Event()

    def renew() -> None:
        nonlocal etag
        while etag is not None and not ended.wait(beat):
            try:
                etag = s3.put(url, _state(owner), if_match=etag) or _etag_if_held(url, owner)
            except (StoreUnavailable, StoreRefused):
                continue  # the work itself meets the same store; the lease is ours until another takes it
            if etag is None:
                log.warning("%s was taken over by another %s while this one did not answer", url, what)

    heart = threading.Thread(target=renew, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        if etag is not None:
            with contextlib.suppress(StoreUnavailable, StoreRefused):  # then it expires by itself
                s3.put(url, _state(None), if_match=etag)


def _acquire(url: str, what: str, owner: str, beat: float, expiry: float) -> str:
    seen = None
    while True:
        etag: str | None = None
        try:
            held = s3.read(url)
        except FileNotFoundError:
            etag = s3.put(url, _state(owner), if_absent=True)
        else:
            holder = _owner(held)
            if holder is None or held.age > expiry:
                etag = s3.put(url, _state(owner), if_match=held.etag)
            elif seen is None:
                log.warning("%s belongs to %s; waiting to see whether it is alive", url, holder)
            elif held.etag != seen:
                raise DataError(f"another {what} is at work: {url} belongs to {holder}, which is alive")
            seen = held.etag
        if etag is not None:
            return etag
        time.sleep(beat / 5)


def _state(owner: str | None) -> bytes:
    """Every state differs from the one before, and so does its ETag."""
    return json.dumps({"owner": owner, "beat": uuid.uuid4().hex}).encode()


def _owner(held: s3.Version) -> str | None:
    """Whose it is; a lease that cannot be read has an unknown owner, and expires as any other."""
    try:
        return json.loads(held.data)["owner"]
    except (ValueError, KeyError, TypeError):
        return "an unknown process"


def _etag_if_held(url: str, owner: str) -> str | None:
    """The ETag of our own lease where a beat got through whose answer never came."""
    try:
        held = s3.read(url)
    except FileNotFoundError:
        return None
    return held.etag if _owner(held) == owner else None
