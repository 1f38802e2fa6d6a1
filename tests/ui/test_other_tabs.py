"""The other tabs in a real browser, and answers of the page as labels and pairs."""

import shutil
from pathlib import Path

import pytest

from ft2ray.labels.answers import answer_store, read_answers
from ft2ray.preference.wrong_pairs import mark_store, marked
from tests.ui.test_label_tab import copied, press  # noqa: F401  # a fixture

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ASSETS = Path(__file__).parents[2] / "ft2ray" / "assets"


def open_tab(page, url, name):
    page.goto(url)
    page.get_by_role("tab", name=name).click()


def test_a_blind_test_ends_in_a_result(page, served, copied, photograph):  # noqa: F811
    open_tab(page, served(copied), "Blind test")
    page.get_by_label("Your name").locator("visible=true").fill("Anna")
    page.get_by_role("button", name="Start").locator("visible=true").click()
    page.locator("video:visible").first.wait_for()
    assert page.locator("video:visible").count() == 2
    assert not {"tlpo", "base"} & set(page.locator("video:visible").first.get_attribute("src").split("/"))
    photograph(page, "blind")
    for key in "abt":
        press(page, key)
    assert [answer.answer for answer in read_answers(answer_store(copied))] == ["a", "b", "tie"]
    page.get_by_role("button", name="Result so far").click()
    page.get_by_text("Written to").wait_for()
    assert (copied / "blind_test.json").is_file()


def test_a_pair_is_marked_as_wrong_and_the_mark_taken_back(page, served, copied, photograph):  # noqa: F811
    open_tab(page, served(copied), "Curate")
    page.locator("video:visible").first.wait_for()
    page.get_by_label("Your name").locator("visible=true").fill("Anna")
    photograph(page, "curate")
    page.get_by_role("button", name="Mark as wrong").click()
    page.get_by_text("1 pairs are marked as wrong").wait_for()
    assert len(marked(mark_store(copied))) == 1
    page.get_by_role("button", name="Take the mark back").click()
    page.get_by_text("0 pairs are marked as wrong").wait_for()
    assert marked(mark_store(copied)) == []


def test_a_portrait_speaks(page, served, copied, photograph):  # noqa: F811
    open_tab(page, served(copied) + "/?seed=3&steps=2&systems=base,tlpo", "Play")
    page.locator("#portrait input[type=file]").set_input_files(ASSETS / "portraits" / "grace_hopper.jpg")
    page.locator("#speech input[type=file]").set_input_files(
        ASSETS / "speech" / "sense_and_sensibility_0870.flac"
    )
    page.locator("#portrait img").first.wait_for()
    page.locator(
        "#speech [data-testid=waveform-x], #speech audio, #speech .waveform-container"
    ).first.wait_for(state="attached")
    page.get_by_role("button", name="Animate").click()
    page.locator("figcaption:visible", has_text="tlpo").wait_for(timeout=300_000)
    assert page.locator("video:visible").count() == 2
    assert "seed=3" in page.get_by_role("link", name="Link to these settings").get_attribute("href")
    photograph(page, "play")


def test_a_run_is_followed(page, served, copied, photograph):  # noqa: F811
    open_tab(page, served(copied), "Align")
    page.get_by_text("groups a minute").wait_for()
    page.locator("svg:visible polyline, svg:visible path.line").first.wait_for()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("against the base").first.wait_for()
    photograph(page, "align")


def test_the_critic_is_compared_with_people(page, served, copied, photograph):  # noqa: F811
    url = served(copied)
    page.goto(url)
    page.get_by_label("Your name").first.fill("Anna")
    page.get_by_role("button", name="Start").first.click()
    page.locator("video:visible").first.wait_for()
    for key in "yn":
        press(page, key)
    page.get_by_role("tab", name="Critic").click()
    page.get_by_role("button", name="Compare the packaged critic").click()
    page.get_by_text("balanced").wait_for(timeout=300_000)
    photograph(page, "critic")
    page.get_by_role("button", name="Fit its scaling").click()
    page.get_by_text("label more").wait_for(timeout=300_000)


def test_an_upload_that_is_too_large_is_refused(page, served, copied, tmp_path):  # noqa: F811
    large = tmp_path / "large.wav"
    shutil.copyfile(ASSETS / "speech" / "sense_and_sensibility_0870.flac", large)
    with large.open("ab") as file:
        file.truncate(51_000_000)
    open_tab(page, served(copied), "Play")
    page.locator("#speech input[type=file]").set_input_files(large)
    page.get_by_text("exceeds the maximum").first.wait_for()
