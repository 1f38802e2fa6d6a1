"""How long an annotator waits for the first clip, and what the page then holds, by the number of clips.

    python bench/first_clip.py [--clips 100 10000]

The page is a process of its own, opened in Chromium. Shown are the seconds from the key on Start to a clip
that can be played, the seconds from an answer to the next clip (median), and the page's resident memory
before and after the answers. Target: the first clip of 10,000 within 2 s, and memory that stays.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from ft2ray.media.video import write_video
from tests.ui.conftest import serving

ANSWERS = 20
PLAYABLE = """before => {
  const video = document.querySelector("video");
  return video && video.src !== before && video.readyState >= HTMLMediaElement.HAVE_FUTURE_DATA;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[100, 10_000])
    arguments = parser.parse_args()
    print("| clips | first clip, s | next clip, s | memory, MB | after the answers, MB |")
    print("|---|---|---|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for clips in arguments.clips:
            with tempfile.TemporaryDirectory() as folder:
                fill(Path(folder), clips)
                with serving(Path(folder)) as url:
                    first, following, before, after = measured(browser, url)
                print(f"| {clips} | {first:.2f} | {following:.2f} | {before:.0f} | {after:.0f} |", flush=True)
        browser.close()


def fill(folder: Path, clips: int) -> None:
    """So many names of one clip, three for each person."""
    made = folder / "person0" / "0.mp4"
    made.parent.mkdir()
    frames_FHW3 = np.full((75, 256, 256, 3), 128, np.uint8)
    write_video(made, frames_FHW3, 25, np.zeros(48_000, np.float32))
    for n in range(1, clips):
        clip = folder / f"person{n // 3}" / f"{n}.mp4"
        clip.parent.mkdir(exist_ok=True)
        clip.hardlink_to(made)


def measured(browser: Browser, url: str) -> tuple[float, float, float, float]:
    """Seconds to the first and to each further clip; MB of the page then and after the answers."""
    page = browser.new_page()
    page.goto(url)
    page.get_by_label("Your name").fill("Anna")
    times = [seconds(page, lambda: page.get_by_role("button", name="Start").click(), None)]
    before = memory(url)
    for _ in range(ANSWERS):
        shown = page.evaluate("document.querySelector('video').src")
        times.append(seconds(page, lambda: page.keyboard.press("y"), shown))
    after = memory(url)
    page.close()
    return times[0], median(times[1:]), before, after


def seconds(page: Page, act: Callable[[], None], before: str | None) -> float:
    start = time.perf_counter()
    act()
    page.wait_for_function(PLAYABLE, arg=before)
    return time.perf_counter() - start


def memory(url: str) -> float:
    """Resident MB of the process that serves an address of this machine."""
    port = int(url.rpartition(":")[2])
    here = psutil.Process().children(recursive=True)
    (server,) = (
        p for p in here if any(c.laddr.port == port and c.status == "LISTEN" for c in p.net_connections())
    )
    return server.memory_info().rss / 1e6


if __name__ == "__main__":
    main()
