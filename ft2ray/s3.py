"""S3 as storage.py needs it: one client per process, conditional writes, and errors that say what to do.

Endpoint, region and credentials come from where every AWS tool looks for them: AWS_ENDPOINT_URL,
AWS_DEFAULT_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ~/.aws, the machine's role.

A slow store is waited for. One that gives no answer, or only errors, is asked again for PATIENCE seconds;
then comes StoreUnavailable. (The retries of botocore share one budget per client, which a few calls use up in
the first seconds of an outage, so they are only the quick part of it.)
"""

from __future__ import annotations

import functools
import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
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
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem
from s3transfer.exceptions import RetriesExceededError

from ft2ray.errors import ConfigurationError, StoreRefused, StoreUnavailable

SCHEME = "s3://"
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
PATIENCE = 60.0
ARROW_ATTEMPTS = 10  # with pauses of up to 20 s: about as long
TRANSFER = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn")
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


class Store(S3FileSystem):
    """pyarrow's view of the same store.

    In another process it is made anew from the environment there. S3FileSystem itself would carry the secrets
    along, and leave the patience behind.
    """

    def __reduce__(self):
        return filesystem, (type(self),)


S = TypeVar("S", bound=Store)


def filesystem(kind: type[S] = Store) -> S:
    """With the endpoint, region and credentials of `client()`."""
    session = botocore.session.Session()
    endpoint = urlsplit(client().meta.endpoint_url)
    own_store = not (endpoint.hostname or "").endswith(AWS_DOMAINS)
    credentials = session.get_credentials()
    settings: dict[str, Any] = {}
    # Credentials that expire are left to the AWS library inside pyarrow, which finds and renews them itself.
    if credentials is not None and not isinstance(credentials, RefreshableCredentials):
        known = credentials.get_frozen_credentials()
        settings = {"access_key": known.access_key, "secret_key": known.secret_key}
        settings |= {"session_token": known.token} if known.token else {}
    if own_store:
        settings |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
    return kind(
        region=session.get_config_variable("region") or ("us-east-1" if own_store else None),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=READ_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ARROW_ATTEMPTS),
        **settings,
    )


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


@contextmanager
def explained(url: str) -> Iterator[None]:
    """What boto3 and pyarrow raise, as FileNotFoundError, or as a ValueError that says what to check."""
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
    except OSError as error:
        if "AWS Error" not in str(error):
            raise
        later = "NETWORK" in str(error) or re.search(r"HTTP status 5\d\d", str(error))
        raise _no_answer(url, error) if later else StoreRefused(f"{url}: {error}") from error


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
