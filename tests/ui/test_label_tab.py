"""Labelling in a real browser: by keyboard alone, by two people at once, and with hostile names."""

import time

import pytest

from ft2ray.labels.answers import answer_store, current, read_answers
from tests.ui.conftest import serving

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def begin(page, url, name):
    page.goto(url)
    page.get_by_label("Your name").first.fill(name)
    page.get_by_role("button", name="Start").first.click()
    page.locator("video:visible").first.wait_for()


def press(page, key):
    """Press a key and wait until another clip, or nothing, is on the screen."""
    before = page.locator("video:visible").first.get_attribute("src")
    page.keyboard.press(key)
    page.wait_for_function(
        "before => document.querySelector('.ft-keys video')?.getAttribute('src') !== before", arg=before
    )


def said_by(name, folder):
    return [row for row in read_answers(answer_store(folder)) if row.task.annotator == name]


def test_keyboard_alone(page, address, shared, photograph):
    page.goto(address)
    page.get_by_label("Your name").first.focus()
    page.keyboard.type("Anna")
    for _ in range(12):
        if page.evaluate("document.activeElement.textContent").strip() == "Start":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("video:visible").first.wait_for()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(" ")
    page.wait_for_function("!document.querySelector('.ft-keys video').paused")
    assert page.locator(".ft-keys video").first.evaluate("video => video.videoWidth") > 0
    photograph(page, "label")
    for key in "yns":
        press(page, key)
    press(page, "u")
    rows = said_by("Anna", shared)
    assert [row.answer for row in rows] == ["yes", "no", "skip", None]
    assert [a.answer for a in current(rows)] == ["yes", "no"]
    assert all(row.seconds > 0 for row in rows)
    assert "p_yes" not in page.content() and "store/videos" not in page.content(), "blinded"


def test_two_people_at_once_one_of_whom_leaves_in_the_middle(chromium, address, shared):
    pages = [chromium.new_page() for _ in range(2)]
    for page, name in zip(pages, ("Cleo", "Bob"), strict=True):
        page.set_default_timeout(90_000)
        begin(page, address, name)
    for _ in range(2):
        for page in pages:
            press(page, "y")
    pages[1].keyboard.press("n")
    pages[1].close()  # in the middle of an answer
    press(pages[0], "n")
    pages[0].close()
    time.sleep(1)
    again = chromium.new_page()
    again.set_default_timeout(90_000)
    begin(again, address, "Bob")
    press(again, "n")
    again.close()
    rows = [row for name in ("Cleo", "Bob") for row in said_by(name, shared)]
    said = {name: [a.answer for a in current(rows) if a.task.annotator == name] for name in ("Cleo", "Bob")}
    assert said["Cleo"] == ["yes", "yes", "no"]
    assert said["Bob"] in (["yes", "yes", "no"], ["yes", "yes", "no", "no"])
    assert len({row.to_row()["answer_id"] for row in rows}) == len(rows)


def test_a_name_that_is_html_is_text(page, address):
    begin(page, address, "<img src=x onerror=alert(1)>")
    press(page, "y")
    page.get_by_text("<img src=x onerror=alert(1)>").first.wait_for()
    assert page.locator("img[src=x]").count() == 0


def test_without_a_name_there_is_one_sentence(page, address):
    page.goto(address)
    page.get_by_role("button", name="Start").first.click()
    page.get_by_text("the name is empty; type the name").wait_for()


def test_a_token_is_asked_for_and_the_name_is_the_annotator(page, copied):
    with serving(copied, FT2RAY_TOKEN="secret-token") as url:
        page.goto(url)
        for password, opens in (("wrong", False), ("secret-token", True)):
            page.get_by_label("username").fill("Eve")
            page.get_by_label("password").fill(password)
            page.get_by_role("button", name="Login").click()
            if opens:
                page.get_by_role("button", name="Start").first.click()
                page.locator("video:visible").first.wait_for()
            else:
                page.get_by_text("Incorrect Credentials").wait_for()
        press(page, "y")
    assert [row.task.annotator for row in read_answers(answer_store(copied))] == ["Eve"]
