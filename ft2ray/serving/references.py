"""References to files that a request may name: only below the stores that the settings allow.

A store is s3://bucket/folder or /absolute/folder, and a reference is allowed when it lies below one of them,
after symbolic links are followed. Anything else is refused: other schemes, relative paths, "..".
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ft2ray import storage
from ft2ray.errors import StoreRefused, StoreUnavailable, UserError
from ft2ray.serving.refusal import Refusal

S3 = "s3://"
MAX_LENGTH = 2048
log = logging.getLogger("ray.serve")


def _check_store(url: str) -> str:
    problem = _malformed(url)
    if problem or url == "/":
        raise ValueError(f"a store must be s3://bucket/folder or /absolute/folder, not {url!r}: {problem}")
    return url.rstrip("/")


Store = Annotated[str, AfterValidator(_check_store)]


def allowed(url: str, stores: tuple[str, ...]) -> str:
    """`url` itself, or its real path where it is local; refuses what lies below none of the stores."""
    problem = _malformed(url)
    if problem:
        raise Refusal(422, "bad_reference", f"the reference {url[:200]!r} can not be used: {problem}.")
    if url.startswith(S3):
        inside = any(url.startswith(store + "/") for store in stores)
    else:
        path = Path(url).resolve()  # what a symbolic link points to has to lie in the store as well
        inside = any(
            path.is_relative_to(Path(store).resolve()) for store in stores if not store.startswith(S3)
        )
        url = str(path)
    if not inside:
        # The same answer whether or not the file exists: nobody learns what else lies on this machine.
        raise Refusal(422, "store_not_allowed", "the reference lies in none of the stores that are allowed.")
    return url


def fetch(url: str, stores: tuple[str, ...], max_bytes: int) -> Path:
    """A local copy of an allowed reference, looked at for its size before a byte is copied."""
    url = allowed(url, stores)
    with answering(url):
        if not storage.exists(url):
            raise Refusal(422, "not_found", f"there is no file {url}.")
        size = storage.size(url)
        if size > max_bytes:
            raise Refusal(
                413, "too_large", f"{url} has {size} bytes, the limit is {max_bytes}; make it smaller."
            )
        return storage.local_copy(url)


@contextmanager
def answering(url: str) -> Iterator[None]:
    """What the store of `url` complains of, as a Refusal; the log keeps it for who runs the service."""
    try:
        yield
    except StoreUnavailable as error:
        log.warning("%s", error)
        raise Refusal(503, "store_unavailable", str(error), retry_after=5.0) from error
    except (OSError, StoreRefused, UserError) as error:  # no permission, no bucket, no credentials, no room
        log.warning("%s: %s", url, error)
        raise Refusal(502, "store_refuses", f"the store of {url} refuses: {error}") from error


def _malformed(url: str) -> str | None:
    """What is wrong with the form of a reference, None where nothing is."""
    if len(url) > MAX_LENGTH:
        return f"it is longer than {MAX_LENGTH} characters"
    if any(ord(character) < 32 or ord(character) == 127 for character in url):
        return "it holds control characters"
    if any("\ud800" <= character <= "\udfff" for character in url):
        return "it holds half a character"  # JSON can say \ud800, no file system can
    if url.startswith(S3):
        bucket, *segments = url.removeprefix(S3).rstrip("/").split("/")
        if not bucket:
            return "it names no bucket"
    elif url.startswith("/"):
        segments = url.strip("/").split("/") if url.strip("/") else []
    else:
        return "it is neither s3://bucket/key nor an absolute path"
    if any(segment in ("", ".", "..") for segment in segments):
        return "a part of its path is empty, '.' or '..'"
    return None
