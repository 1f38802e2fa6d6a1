"""References to files that a request may name: only below the stores that the settings allow.

A store is s3://bucket/folder or /absolute/folder, and a reference is allowed when it lies below one of them,
after symbolic links are followed. Anything else is refused: other schemes, relative paths, "..".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ft2ray import storage
from ft2ray.errors import StoreRefused
from ft2ray.serving.refusal import Refusal

S3 = "s3://"
MAX_LENGTH = 1000  # S3 has keys of up to 1024 bytes, Linux paths of up to 4096
MAX_NAME = 255  # bytes of a file name


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
        raise Refusal(422, "bad_reference", f"the reference {url[:200]!r} cannot be used: {problem}.")
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


def fetch(url: str, field: str, stores: tuple[str, ...], max_bytes: int) -> Path:
    """A local copy of an allowed reference, looked at for its size before a byte is copied.

    Args:
        url: the reference.
        field: of the request, by which answers call the file.
        stores: where references may lie.
        max_bytes: limit of its size.

    Raises:
        Refusal: the reference cannot be used.
        StoreRefused, StoreUnavailable: its store cannot be used.
    """
    url = allowed(url, stores)
    try:
        if not storage.exists(url):
            raise Refusal(422, "not_found", f"{field}: there is no such file in the store.")
        size = storage.size(url)
        if size > max_bytes:
            raise Refusal(
                413, "too_large", f"{field} has {size} bytes, the limit is {max_bytes}; make it smaller."
            )
        return storage.local_copy(url)
    except OSError as error:  # no permission, no room
        raise StoreRefused(f"{url}: {error}") from error


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
    if any(len(segment.encode()) > MAX_NAME for segment in segments):
        return f"a part of its path is longer than {MAX_NAME} bytes"
    return None
