"""The page over a finished run, in Debian's Chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline.whole_run import finish

CONTRAST = Path(__file__).with_name("contrast.js").read_text()  # lists what stands out too little
DOCS = Path(__file__).parents[2] / "docs" / "ui"
# Pictures show runs/mine, not where this machine keeps its temporary folders.
SHORTEN = """() => {
  const short = (text) => text.replaceAll(/\\S*\\/runs\\/mine/g, "runs/mine");
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = short(texts.currentNode.data);
  const fields = document.querySelectorAll("input:not([type=file]), textarea");
  for (const field of fields) field.value = short(field.value);
}"""


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A small run with the videos of its candidates; FT2RAY_FINISHED_RUN names one that is there already."""
    if there := os.environ.get("FT2RAY_FINISHED_RUN"):
        return Path(there)
    folder = tmp_path_factory.mktemp("run") / "small"
    finish(folder, "resources.keep_videos=true", "evaluation.report_videos=2")
    return folder


@pytest.fixture(scope="session")
def chromium():
    """A browser without a window."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs Chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A tab; whatever is asked for outside of this machine, and every error of a script, fails the test."""
    page = chromium.new_page(viewport={"width": 1100, "height": 950})
    page.set_default_timeout(90_000)
    outside, errors = [], []
    page.on("request", lambda request: outside.append(request.url) if _is_outside(request.url) else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert outside == [] and errors == []


def _is_outside(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:", "file:"))


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[str]:
    """The page over a folder, as a process; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ft2ray.cli", "ui", str(folder), f"--port={port}"]
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 600
    try:
        while not _answers(url):
            assert process.poll() is None, "the page ended"
            assert time.monotonic() < deadline, "the page does not answer"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        return True  # it asks for the token
    except OSError:
        return False
    return True


def without_answers(finished: Path, folder: Path) -> Path:
    """Copy the run without what anybody said of it."""
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("labels", ".lock", "blind_test.json"))
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A run of the test's own."""
    return without_answers(finished, tmp_path / "runs" / "mine")


@pytest.fixture(scope="session")
def shared(finished, tmp_path_factory) -> Path:
    """A run that tests share; each writes under a name of its own."""
    return without_answers(finished, tmp_path_factory.mktemp("shared") / "runs" / "mine")


@pytest.fixture(scope="session")
def address(shared) -> Iterator[str]:
    """Of the page over the run that tests share: to start one takes many seconds."""
    with serving(shared) as url:
        yield url


def too_pale(page) -> list[str]:
    """Text that stands out less than WCAG AA asks, once whatever fades in has done so."""
    deadline = time.monotonic() + 20
    while (faults := page.evaluate(CONTRAST)) and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    return faults


@pytest.fixture
def photograph() -> Callable[..., None]:
    """Keep a picture of the page for the documentation."""

    def take(page, name: str) -> None:
        DOCS.mkdir(exist_ok=True)
        page.evaluate(SHORTEN)
        page.screenshot(path=DOCS / f"{name}.jpg", type="jpeg", quality=60)

    return take
