"""Where the page may listen, and that words from outside stay words."""

import pytest

from ft2ray.errors import ConfigurationError
from ft2ray.labels.agreement import Reliability
from ft2ray.ui.app import check_exposure
from ft2ray.ui.words import agreement_tables, captioned, paragraph, table

EVIL = "<script>alert(1)</script>"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.2"])
def test_loopback_needs_no_token(host):
    check_exposure(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_elsewhere_there_must_be_a_token(host):
    check_exposure(host, "token")
    with pytest.raises(ConfigurationError, match="set FT2RAY_TOKEN"):
        check_exposure(host, None)


def test_a_name_is_no_address():
    with pytest.raises(ConfigurationError, match="is no address"):
        check_exposure("everywhere", None)


def test_words_from_outside_are_escaped(tmp_path):
    person = Reliability(1, 0, 0, 0, 0, 1.0)
    for html in (
        paragraph(EVIL),
        table((EVIL,), [(EVIL,)]),
        agreement_tables({}, {EVIL: person}),
        captioned([(EVIL, tmp_path / f'"{EVIL}.mp4')]),
    ):
        assert EVIL not in html and "alert" in html
