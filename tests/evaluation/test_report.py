import dataclasses
import html
import json
import re
import urllib.request

import numpy as np
import pytest

from ft2ray import storage
from ft2ray.dimensions import DEFAULT_DIMENSIONS
from ft2ray.evaluation.compare import Row
from ft2ray.evaluation.findings import build_report
from ft2ray.evaluation.report import GateMap, ReportData, ReportVideo, embed_videos, render, write_report

EVIL = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    videos = []
    for system in ("uniform", "base", "tlpo"):
        path = folder / f"{system}.mp4"
        path.write_bytes(system.encode() * 100)
        figures = {"ls": 0.41, "mn": None}
        videos.append(ReportVideo(f"a portrait {EVIL}", system, path, figures, poster=b"jpeg"))
    rows = [
        Row(system, f"p{i}", 0, {"mn": -0.5 + gain + 0.1 * i, "ls": 0.4 + gain, "vq": None})
        for system, gain in (("base", 0.0), ("tlpo", 0.1))
        for i in range(8)
    ]
    report = build_report(
        rows, [], {"accuracy": {"mn": 0.9, "ls": None}, "n": 12}, 63.0, DEFAULT_DIMENSIONS, resamples=100
    )
    return ReportData(
        title=f"Run {EVIL}",
        report=report,
        dimensions=DEFAULT_DIMENSIONS,
        videos=videos,
        curves={"loss": {"mn": [(0, 0.7), (1, 0.6)]}},
        gate=GateMap([0.1, 0.9], np.full((2, 4, 3), 1 / 3), ("mn", "ls", "vq")),
        scores={"mn": [0.1, 0.9, None], "ls": [], "vq": [None]},
        counts={"prompt groups": 3},
        pairs={"mn": 5, "full_strict": 2},
        quarantined=[{"name": EVIL, "reason": "two_faces", "message": f"{EVIL} shows two."}],
        config=f"title: {EVIL}",
        versions={"torch": "2.13"},
        fingerprints={"base": "abc"},
        command=f"make demo # {EVIL}",
    )


def test_nothing_is_loaded_from_outside_and_nothing_is_executed(data):
    page = render(data)
    assert page.count("<script>") == 1  # the page's own
    assert not re.search(r"(src|href|poster)=[\"'](?!data:video/mp4;base64,|data:image/jpeg;base64,|#)", page)
    assert "http" not in page.replace("http-equiv", "")


def test_everything_worth_knowing_is_on_the_page(data):
    page = render(data)
    expected = [
        "1 min 3 s",
        "two faces",
        "5 pairs",
        "full strict: 2",
        "1 without a score",
        "2 scores, 50 % yes",
    ]
    for text in [*expected, "abc", "torch", "90.0 %", "not measured", "Lip-sync"]:
        assert text in page, text


def test_an_empty_run_still_makes_a_page(data):
    page = render(ReportData("empty", data.report, data.dimensions))
    assert "every portrait and recording was usable" in page
    assert 'id="videos"' not in page and "The gate" not in page


def test_base_and_aligned_stand_side_by_side(data):
    (row,) = embed_videos(data.videos).values()
    assert [video["system"] for video in row] == ["base", "tlpo", "uniform"]


def test_videos_over_the_limit_are_named_instead_of_embedded(data):
    (row,) = embed_videos(data.videos, limit=1000).values()
    assert {video["source"] for video in row} == {None}
    assert {video["name"] for video in row} == {"base.mp4", "tlpo.mp4", "uniform.mp4"}


def test_files_are_whole_and_json_is_strict(data, tmp_path):
    page = write_report(data, tmp_path / "run")
    assert page == str(tmp_path / "run" / "report.html")
    assert storage.list_files(tmp_path / "run") == ["report.html", "report.json"]
    loaded = json.loads((tmp_path / "run" / "report.json").read_text())
    assert loaded["systems"]["tlpo"]["vq"]["mean"] is None


def test_a_run_on_s3_offers_links_that_load_and_end(data, s3):
    storage.write_atomically(f"{s3}/gate.safetensors", b"weights")
    link = storage.presigned(f"{s3}/gate.safetensors", 60)
    videos = [dataclasses.replace(video, link=f"{link}&video") for video in data.videos]
    on_s3 = dataclasses.replace(data, links={"gate": link}, links_end="tomorrow", videos=videos)
    page = storage.read_bytes(write_report(on_s3, s3)).decode()
    (href,) = re.findall(r'<li><a href="([^"]*)">gate</a>', page)
    with urllib.request.urlopen(html.unescape(href)) as answer:
        assert answer.read() == b"weights"
    assert "until tomorrow" in page and "data:video/mp4" in page and "&amp;video" not in page
    (row,) = embed_videos(videos, limit=1000).values()
    assert {video["link"] for video in row} == {f"{link}&video"}


def test_every_clip_has_a_poster_and_the_first_two_are_played_in_step(data):
    page = render(data)
    assert page.count('poster="data:image/jpeg;base64,anBlZw=="') == 3
    assert "play the first two in step" in page


def luminance(colour):
    """As WCAG 2 defines it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_their_ground_as_wcag_aa_asks(data, scheme):
    block = re.findall(r":root \{(.*?)\}", render(data), re.S)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    grounds = {"good": ["good-soft"], "bad": ["bad-soft"], "unsure": ["unsure-soft"]}
    grounds |= {
        "ink": ["page", "card", "soft"],
        "quiet": ["page", "card", "soft"],
        "accent": ["page", "card"],
    }
    for words, others in grounds.items():
        for ground in others:
            dark, light = sorted((luminance(colours[words]), luminance(colours[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (words, ground)
