"""report.html in a real browser, as a file without any network."""

import time

import pytest

from tests.ui.conftest import too_pale

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_base_and_aligned_play_in_step_with_one_sound(page, finished, photograph):
    page.goto(f"file://{finished}/report.html")
    button = page.get_by_role("button", name="play the first two in step").first
    button.scroll_into_view_if_needed()
    photograph(page, "report")
    button.click()
    videos = "[...document.querySelectorAll('#row-1 video')]"
    deadline = time.monotonic() + 90
    # The report's own policy forbids Playwright's wait_for_function, which makes code of words.
    while not page.evaluate(f"{videos}[0].currentTime > 1"):
        assert time.monotonic() < deadline, "the first video does not play"
        page.wait_for_timeout(50)
    state = page.evaluate(f"{videos}.map(v => [v.paused, v.muted, v.currentTime])")
    (first, second), others = state[:2], state[2:]
    assert not first[0] and not second[0] and all(paused for paused, *_ in others)
    assert (first[1], second[1]) == (False, True)
    assert abs(first[2] - second[2]) < 0.15


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out(chromium, finished, scheme):
    page = chromium.new_page(color_scheme=scheme)
    page.goto(f"file://{finished}/report.html")
    assert too_pale(page) == []
    page.close()


def test_it_fits_a_phone(chromium, finished):
    page = chromium.new_page(viewport={"width": 360, "height": 740})
    page.goto(f"file://{finished}/report.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()
