"""The other tabs in a real browser, and answers of the page as labels and pairs."""

from pathlib import Path

import httpx2
import pytest

from ft2ray.media import flite
from ft2ray.preference.wrong_pairs import mark_store, marked
from ft2ray.ui.play import MAX_UPLOAD_MB
from tests.ui.conftest import CONTRAST, serving, too_pale
from tests.ui.test_label_tab import begin, press, said_by

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ASSETS = Path(__file__).parents[2] / "ft2ray" / "assets"
TABS = {
    "Label": "Type your name",
    "Blind test": "which is which is hidden",
    "Curate": "candidate 0",
    "Critic": "tuned by a job",
    "Align": "groups a minute",
    "Play": "Amount of motion",
}
SPEECH = ASSETS / "speech" / "sense_and_sensibility_0870.flac"


def open_tab(page, url, name):
    page.goto(url)
    page.get_by_role("tab", name=name).click()


def test_a_blind_test_ends_in_a_result(page, address, shared, photograph):
    open_tab(page, address, "Blind test")
    page.get_by_label("Your name").locator("visible=true").fill("Dora")
    page.get_by_role("button", name="Start").locator("visible=true").click()
    page.locator("video:visible").first.wait_for()
    assert page.locator("video:visible").count() == 2
    assert not {"tlpo", "base"} & set(page.locator("video:visible").first.get_attribute("src").split("/"))
    photograph(page, "blind")
    for key in "abt":
        press(page, key)
    assert [answer.answer for answer in said_by("Dora", shared)] == ["a", "b", "tie"]
    page.get_by_role("button", name="Result so far").click()
    page.get_by_text("Written to").wait_for()
    assert (shared / "blind_test.json").is_file()


def test_a_pair_is_marked_as_wrong_and_the_mark_taken_back(page, address, shared, photograph):
    open_tab(page, address, "Curate")
    page.locator("video:visible").first.wait_for()
    page.get_by_label("Your name").locator("visible=true").fill("Anna")
    photograph(page, "curate")
    page.get_by_role("button", name="Mark as wrong").click()
    page.get_by_text("1 pairs are marked as wrong").wait_for()
    assert len(marked(mark_store(shared))) == 1
    page.get_by_role("button", name="Take the mark back").click()
    page.get_by_text("0 pairs are marked as wrong").wait_for()
    assert marked(mark_store(shared)) == []


def test_a_portrait_speaks(page, address, shared, photograph):
    open_tab(page, address + "/?seed=3&steps=2&systems=base,tlpo", "Play")
    page.locator("#portrait input[type=file]").set_input_files(ASSETS / "portraits" / "grace_hopper.jpg")
    page.locator("#speech input[type=file]").set_input_files(SPEECH)
    page.locator("#portrait img").first.wait_for()
    page.locator(
        "#speech [data-testid=waveform-x], #speech audio, #speech .waveform-container"
    ).first.wait_for(state="attached")
    page.get_by_role("button", name="Animate").click()
    page.locator("figcaption:visible", has_text="tlpo").wait_for(timeout=300_000)
    assert page.locator("video:visible").count() == 2
    assert "seed=3" in page.get_by_role("link", name="Link to these settings").get_attribute("href")
    photograph(page, "play")


def test_without_a_microphone_the_page_says_so(page, address):
    open_tab(page, address, "Play")
    page.locator("#speech").get_by_label("Record audio").click()
    devices = page.locator("#speech select:visible")
    devices.locator("option", has_text="No microphone found").wait_for(state="attached")


def test_typed_text_is_said(page, address):
    if not flite.available():
        pytest.skip("needs the program flite (apt-get install flite)")
    open_tab(page, address + "/?steps=2&systems=base", "Play")
    page.locator("#portrait input[type=file]").set_input_files(ASSETS / "portraits" / "grace_hopper.jpg")
    page.locator("#portrait img").first.wait_for()
    page.locator("#text textarea").fill("schöne Worte")
    page.get_by_role("button", name="Animate").click()
    page.get_by_text("English only, and the text holds 'ö'").wait_for(timeout=300_000)
    page.locator("#text textarea").fill("These are beautiful words, are they not?")
    page.get_by_role("button", name="Animate").click()
    page.locator("figcaption:visible", has_text="base").wait_for(timeout=300_000)
    assert page.locator("video:visible").count() == 1


def test_a_run_is_followed(page, address, shared, photograph):
    open_tab(page, address, "Align")
    page.get_by_text("groups a minute").wait_for()
    page.locator("svg .line:visible").first.wait_for()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("against the base").first.wait_for()
    photograph(page, "align")


def test_the_critic_is_compared_with_people(page, copied, photograph):
    with serving(copied) as url:
        begin(page, url, "Anna")
        for key in "yn":
            press(page, key)
        page.get_by_role("tab", name="Critic").click()
        page.get_by_role("button", name="Compare the critic with people").click()
        page.get_by_text("balanced").wait_for(timeout=300_000)
        photograph(page, "critic")
        page.get_by_role("button", name="Fit it on them").click()
        page.get_by_text("label more").wait_for(timeout=300_000)


def test_an_upload_that_is_too_large_is_refused(page, address, tmp_path):
    large = tmp_path / "large.wav"
    with large.open("wb") as file:
        file.truncate(MAX_UPLOAD_MB * 2**20 + 1)
    open_tab(page, address, "Play")
    sent = []
    page.on("request", lambda request: sent.append(request.url) if "/upload" in request.url else None)
    page.locator("#speech input[type=file]").set_input_files(large)
    page.get_by_text("large.wav is larger than 50 MB; give a smaller file.").wait_for()
    assert sent == []
    with large.open("rb") as file:
        answer = httpx2.post(f"{address}/gradio_api/upload", files={"files": file}, timeout=90)
    assert answer.status_code == 413
    page.locator("#speech input[type=file]").set_input_files(SPEECH)
    page.locator("#speech audio, #speech .waveform-container").first.wait_for(state="attached")
    assert page.get_by_text("is larger than").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_and_every_tab_fits_a_phone(chromium, address, scheme):
    page = chromium.new_page(color_scheme=scheme)
    page.set_default_timeout(90_000)
    page.goto(address)
    page.get_by_role("button", name="Start").first.wait_for()
    for name in TABS:
        page.set_viewport_size({"width": 1100, "height": 950})
        page.get_by_role("tab", name=name, exact=True).click()
        page.get_by_text(TABS[name]).first.wait_for()
        assert too_pale(page) == [], name
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name
    page.add_style_tag(content="h1 { color: #777 !important; background: #777 }")
    assert page.evaluate(CONTRAST) == ["ft2ray: 1.00"], "what is measured"
    page.close()
