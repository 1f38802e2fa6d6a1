import json

from studies.yardsticks import PAGE, RESULTS, filled


def test_the_page_shows_what_was_measured():
    """Where this fails: python studies/yardsticks.py."""
    page = PAGE.read_text()
    assert filled(page, json.loads(RESULTS.read_text())) == page
