"""Files at s3:// URLs: one client per process, conditional writes, and errors that say what to do.

Endpoint, region and credentials come from where every AWS tool looks for them: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws, the machine's role.

A request that gets no answer, or only errors, is repeated for PATIENCE seconds; then StoreUnavailable is
raised. (The retries of botocore share one budget per client, which a few calls use up in the first seconds of
an outage, so they are only the quick part of it.)
"""

from __future__ import annotations

import functools
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from s3transfer.exceptions import RetriesExceededError

from ft2ray.errors import ConfigurationError, StoreRefused, StoreUnavailable, UserError
from ft2ray.records import content_id
from ft2ray.scratch import scratch_folder
from ft2ray.storage import cache
from ft2ray.storage.files import base_name, join, list_files, upload_folder
from ft2ray.storage.interface import Files
from ft2ray.storage.local import folder_beside

SCHEME = "s3://"
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
PATIENCE = 60.0
TRANSFER = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
REFUSED = {
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}
BROKEN_OFF = (HTTPClientError, ConnectionError, IncompleteReadError, RetriesExceededError)


@dataclass(frozen=True)
class Version:
    """One state of an object: `age` is its age in seconds by the store's own clock."""

    data: bytes
    etag: str
    age: float


def split(url: str) -> tuple[str, str]:
    """s3://bucket/some/key -> (bucket, some/key)."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not bucket:
        raise ConfigurationError(f"{url!r} is not of the form s3://bucket/path")
    return bucket, key


def client() -> Any:
    """The client for the credentials and endpoint that the environment names now."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    return _client(os.getpid(), settings)  # a forked process must not share the parent's connections


@functools.lru_cache(maxsize=4)
def _client(_process: int, _settings: tuple[tuple[str, str], ...]) -> Any:
    return boto3.Session().client(
        "s3",
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard"},
            signature_version="s3v4",
            max_pool_connections=16,
        ),
    )


T = TypeVar("T")


def ask(url: str, call: Callable[[], T]) -> T:
    """The result of `call`, which may be made several times; its errors are those of `explained`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with explained(url):
                return call()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.5, 1.5))  # not all at once when the store is back


def read(url: str) -> Version:
    """The object as it is now; FileNotFoundError where there is none."""
    bucket, key = split(url)

    def call() -> Version:
        answer = client().get_object(Bucket=bucket, Key=key)
        return Version(answer["Body"].read(), answer["ETag"], _age(answer))

    return ask(url, call)


def head(url: str) -> dict[str, Any] | None:
    """What the store says of the object, None where there is none."""
    bucket, key = split(url)

    def call() -> dict[str, Any] | None:
        try:
            return client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if _status(error) != 404:
                raise
            client().head_bucket(Bucket=bucket)  # a missing bucket is a mistake, not a missing file
            return None

    return ask(url, call)


def put(url: str, data: bytes, if_absent: bool = False, if_match: str | None = None) -> str | None:
    """Write the object, whole or not at all; returns its ETag.

    Returns None, having written nothing, where `if_absent` finds an object or `if_match` another ETag.
    """
    bucket, key = split(url)
    writer = uuid.uuid4().hex
    condition = {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match else {}

    def call() -> str | None:
        try:
            wish = {"Bucket": bucket, "Key": key, "Body": data, "Metadata": {"writer": writer}}
            return client().put_object(**wish, **condition)["ETag"]
        except ClientError as error:
            if not condition or _status(error) not in (404, 412) or _code(error) == "NoSuchBucket":
                raise
            # A write that arrived, but whose answer was lost, is sent again and then finds itself.
            held = head(url)
            return held["ETag"] if held is not None and held["Metadata"].get("writer") == writer else None

    return ask(url, call)


def listing(url: str, recursive: bool) -> list[tuple[str, str]]:
    """(path relative to it, ETag) of the objects below the folder `url`."""
    bucket, key = split(url)
    prefix = key.rstrip("/") + "/" if key else ""

    def call() -> list[tuple[str, str]]:
        pages = (
            client()
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=prefix, **({} if recursive else {"Delimiter": "/"}))
        )
        return [
            (item["Key"].removeprefix(prefix), item["ETag"])
            for page in pages
            for item in page.get("Contents", ())
            if not item["Key"].endswith("/")  # the empty objects that some tools keep for folders
        ]

    return ask(url, call)


class S3Files(Files):
    """Objects below s3://bucket/key."""

    def exists(self, url: str) -> bool:
        return head(url) is not None

    def size(self, url: str) -> int:
        return _require(url)["ContentLength"]

    def read(self, url: str) -> bytes:
        return read(url).data

    def write(self, url: str, data: bytes, if_absent: bool) -> bool:
        return put(url, data, if_absent) is not None

    def names(self, folder: str, recursive: bool) -> list[str]:
        return [path for path, _ in listing(folder, recursive)]

    def versions(self, folder: str) -> list[tuple[str, str]]:
        return listing(folder, recursive=True)

    def upload(self, local: Path, url: str) -> None:
        bucket, key = split(url)

        def send() -> None:
            with open(local, "rb") as stream:
                client().upload_fileobj(stream, bucket, key, Config=TRANSFER)

        ask(url, send)

    def download(self, url: str, local: Path) -> None:
        _require(url)
        bucket, key = split(url)
        with folder_beside(local) as folder:

            def fetch() -> None:
                with open(folder / local.name, "wb") as stream:
                    client().download_fileobj(bucket, key, stream, Config=TRANSFER)

            ask(url, fetch)
            os.replace(folder / local.name, local)

    def delete(self, url: str) -> None:
        bucket, key = split(url)
        ask(url, lambda: client().delete_object(Bucket=bucket, Key=key))

    def folders(self, folder: str) -> list[str]:
        return list({path.split("/")[0] for path in self.names(folder, recursive=True) if "/" in path})

    def delete_folder(self, url: str) -> None:
        for path in self.names(url, recursive=True):
            self.delete(join(url, path))

    def local_copy(self, url: str) -> Path:
        return self._cached(url, _require(url)["ETag"])

    def local_folder(self, url: str) -> Path:
        folder = cache.entry(content_id(_endpoint(), url)) / base_name(url)
        found = dict(listing(url, recursive=True))
        if not found:
            raise UserError(f"{url}: there are no files in this folder; check the URL")
        for known in list_files(folder, recursive=True):
            if known not in found:
                (folder / known).unlink(missing_ok=True)
        for path, etag in found.items():
            copy, linked = self._cached(join(url, path), etag), folder / path
            if not (linked.is_file() and linked.samefile(copy)):
                with folder_beside(linked) as temporary:
                    os.link(copy, temporary / linked.name)
                    os.replace(temporary / linked.name, linked)
        return folder

    @contextmanager
    def new_file(self, url: str) -> Iterator[Path]:
        with scratch_folder() as folder:
            yield folder / base_name(url)
            self.upload(folder / base_name(url), url)

    @contextmanager
    def new_folder(self, url: str, last: str) -> Iterator[Path]:
        with scratch_folder() as folder:
            yield folder
            upload_folder(folder, url, last)

    def link(self, url: str, seconds: int) -> str | None:
        bucket, key = split(url)
        with explained(url):
            return client().generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=seconds
            )

    def exclusive(self, url: str, what: str) -> AbstractContextManager[None]:
        from ft2ray.storage.lease import lease

        return lease(url, what)

    def _cached(self, url: str, etag: str) -> Path:
        copy = cache.entry(content_id(_endpoint(), url, etag)) / base_name(url)
        if not copy.is_file():
            self.download(url, copy)
            cache.added(copy)
        return copy


S3 = S3Files()


def _require(url: str) -> dict[str, Any]:
    about = head(url)
    if about is None:
        raise FileNotFoundError(f"{url}: no such file")
    return about


@contextmanager
def explained(url: str) -> Iterator[None]:
    """What boto3 raises, as FileNotFoundError or as an FT2RayError that says what to check."""
    try:
        yield
    except ClientError as error:
        raise _answer(url, error) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise StoreRefused(
            f"{url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except BROKEN_OFF as error:
        raise _no_answer(url, error) from error
    except BotoCoreError as error:
        raise ConfigurationError(f"{url}: {error}") from error


def _answer(url: str, error: ClientError) -> Exception:
    code, status = _code(error), _status(error)
    bucket, key = split(url)
    said = f"{code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
    if code == "NoSuchBucket" or (status == 404 and error.operation_name == "HeadBucket"):
        return StoreRefused(
            f"{url}: there is no bucket {bucket} at {_endpoint()}; create it or check its name"
        )
    if status == 404:
        return FileNotFoundError(f"{url}: no such file")
    if code in REFUSED or status in (401, 403):
        return StoreRefused(
            f"{url}: the store at {_endpoint()} refuses these credentials ({said}); check AWS_ACCESS_KEY_ID, "
            f"AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and what they may do in {bucket}"
        )
    # 409: another conditional write of the same object was on its way
    if status >= 500 or status == 409 or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return StoreUnavailable(f"{url}: the store at {_endpoint()} answers with errors only ({said})")
    return StoreRefused(f"{url}: the store at {_endpoint()} refuses {error.operation_name} ({said})")


def _no_answer(url: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        f"{url}: no answer from {_endpoint()} ({error}); check that the store runs, AWS_ENDPOINT_URL and "
        "the network"
    )


def _endpoint() -> str:
    return client().meta.endpoint_url


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _age(answer: dict[str, Any]) -> float:
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return (now - answer["LastModified"]).total_seconds()
