"""An extra that is not installed is one sentence that says how to install it."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from ft2ray.errors import ConfigurationError
from ft2ray.evaluation import identity
from ft2ray.extras import PURPOSE
from ft2ray.storage import exists
from ft2ray.tlpo import zero

ROOT = Path(__file__).parents[1]


def serving():
    importlib.import_module("ft2ray.serving")


def page():
    importlib.import_module("ft2ray.ui")


def phones():
    importlib.import_module("ft2ray.evaluation.phones")


@pytest.mark.parametrize(
    ("missing", "name", "use", "home"),
    [
        ("boto3", "s3", lambda: exists("s3://bucket/key"), "ft2ray.storage.s3"),
        ("fastapi", "serve", serving, "ft2ray.serving"),
        ("python_multipart", "serve", serving, "ft2ray.serving"),
        ("gradio", "ui", page, "ft2ray.ui"),
        ("deepspeed", "zero", zero._deepspeed.__wrapped__, None),
        ("pocketsphinx", "eval", phones, "ft2ray.evaluation.phones"),
        ("face_recognition_models", "eval", identity._models.__wrapped__, None),
    ],
)
def test_a_missing_package_names_its_extra(monkeypatch, missing, name, use, home):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(zero.dist, "is_initialized", lambda: True)
    if home is not None:
        monkeypatch.delitem(sys.modules, home, raising=False)  # it is there again after the test
    with pytest.raises(
        ConfigurationError, match=rf"{missing} is not installed; pip install 'ft2ray\[{name}\]'"
    ):
        use()


def test_what_is_said_of_an_extra_is_of_one_that_there_is():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(PURPOSE) <= set(extras)
