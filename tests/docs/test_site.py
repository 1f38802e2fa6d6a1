"""The documentation builds: every page, link, anchor and example is there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    command = ["-m", "mkdocs", "build", "--config-file", ".ci/mkdocs.yml", "--site-dir", tmp_path / "site"]
    built = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "extending" / "index.html").read_text()
    assert ">PlainCritic</span>" in page and ">NodGenerator</span>" in page
