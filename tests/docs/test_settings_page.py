"""The settings page is the one that the classes give."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_classes_give():
    """Where this fails: `make docs`."""
    page = runpy.run_path(str(DOCS / "settings_reference.py"))["page"]()
    assert (DOCS / "settings.md").read_text() == page
    assert "| `tlpo.loss.beta` |" in page
