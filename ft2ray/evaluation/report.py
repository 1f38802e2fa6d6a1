"""`report.html`: one self-contained page about one run; `report.json` beside it.

The page is for readers who do not know the code: what was done, whether it helped, on which evidence, and
how to repeat it. It loads nothing from outside: videos are embedded, charts are inline SVG, text is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ft2ray.dimensions import Dimension
from ft2ray.evaluation.charts import heat_map, histogram, interval_chart, line_chart
from ft2ray.storage import join, write_atomically
from ft2ray.systems import BASE, TLPO

MAX_VIDEO_BYTES = 20_000_000
"""Embedded videos in all; a page much larger opens slowly and cannot be mailed."""

PALE = 0.02
"""Weights of the gate that differ by less than this are not drawn in full colour."""

FIRST_COLUMNS = {BASE: 0, TLPO: 1}

METRIC_WORDS = {
    "ls": "how much better the lips seen in the pixels fit the lips predicted from their sound (by ridges "
    "fitted on real people) than those predicted from the same sound shifted by 0.2 to 0.6 s",
    "mn": "minus the distance to how real people move, 0 = like them",
    "vq": "identity, sharpness, texture and steadiness against the portrait, 1 = as the portrait",
}
REFERENCE_WORDS = {
    "real_video": "real people, judged by a fit that never saw them",
    "wrong_audio": "the base's videos against other speech",
    "shifted_audio": "the base's videos, sound moved by 0.2 to 0.6 s",
}


@dataclass(frozen=True)
class ReportVideo:
    """A video. prompt: words for its row; system: its column; path: local mp4; figures: dimension -> value;
    link: where to find it if it is not embedded; poster: JPEG that stands there until it plays."""

    prompt: str
    system: str
    path: Path
    figures: Mapping[str, float | None] = field(default_factory=dict)
    link: str | None = None
    poster: bytes | None = None


@dataclass(frozen=True, eq=False)
class GateMap:
    """Gate weights_TLK over timesteps_T (1 = noise), layers L and experts K, named in `experts`."""

    timesteps_T: Sequence[float]
    weights_TLK: np.ndarray
    experts: Sequence[str]


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything that the page shows.

    Attributes:
        title: heading, for example the run's name.
        dimensions: all of them, in their order.
        systems: words for each system.
        report: the content of `report.json` (`findings.build_report`).
        videos: side by side per prompt, in this order; embedded up to MAX_VIDEO_BYTES, else named.
        curves: chart title -> line name -> [(step, value), ...].
        gate: weights of the fusion gate; None before stage 2.
        scores: dimension -> the critic's P(Yes) for every candidate; None = the critic failed there.
        counts: what happened in curation, in words -> number ("prompt groups", "candidates", ...).
        pairs: dimension (or "full", "full_strict") -> number of preference pairs.
        quarantined: refused inputs: {"name", "reason", "message"}.
        config: the resolved configuration as YAML text.
        versions: package -> version.
        fingerprints: what ("base", "critic", "policy", "judge") -> content hash.
        command: the command that makes this run again.
        judge: where the judge's real clips came from (`Judge.source`).
        links: file -> where it can be loaded from until `links_end`, for a run that is on S3.
        links_end: date and time in words.
        notes: sentences to add to the summary, for example what a small run cannot show.
    """

    title: str
    report: Mapping[str, Any]
    dimensions: Sequence[Dimension]
    systems: Mapping[str, str] = field(default_factory=dict)
    videos: Sequence[ReportVideo] = ()
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]] = field(default_factory=dict)
    gate: GateMap | None = None
    scores: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    pairs: Mapping[str, int] = field(default_factory=dict)
    quarantined: Sequence[Mapping[str, str]] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    judge: str = ""
    links: Mapping[str, str] = field(default_factory=dict)
    links_end: str = ""
    notes: Sequence[str] = ()


def write_report(data: ReportData, out_dir: str | Path) -> str:
    """Write report.json and report.html into a folder or an s3:// URL, each complete or absent.

    Returns:
        Path or URL of report.html.
    """
    write_atomically(
        join(out_dir, "report.json"), json.dumps(data.report, indent=2, allow_nan=False).encode()
    )
    page = join(out_dir, "report.html")
    write_atomically(page, render(data).encode())
    return page


def render(data: ReportData) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure,
        "short": short,
        "signed": signed,
        "interval": interval_words,
        "seconds": duration,
    }
    titles = {dimension.name: dimension.title for dimension in data.dimensions}
    measured = {d.title: METRIC_WORDS.get(d.metric, d.metric) for d in data.dimensions if d.metric}
    return environment.get_template("report.html").render(
        data=data,
        report=data.report,
        findings=data.report["findings"],
        dimensions=list(titles),
        titles=titles,
        measured=measured,
        base=BASE,
        system_words=data.systems,
        reference_words=REFERENCE_WORDS,
        effects={d: _effect_chart(data.report, d, title) for d, title in titles.items()},
        curves={name: line_chart(name, lines) for name, lines in data.curves.items()},
        heat_maps=_heat_maps(data.gate),
        score_charts=_score_charts(data.scores, titles),
        rows=embed_videos(data.videos),
    )


def _effect_chart(report: Mapping[str, Any], dimension: str, title: str) -> Markup:
    rows = []
    for name, words in report["findings"]["verdicts"].items():
        table = report["systems"][name][dimension]
        rows.append((name, table["delta_vs_base"], table["delta_ci95"], words[dimension]))
    return interval_chart(f"{title}: difference to the base", rows)


def _heat_maps(gate: GateMap | None) -> dict[str, Any]:
    if gate is None:
        return {}
    weights_TLK = np.asarray(gate.weights_TLK, dtype=np.float64)
    middle = float(weights_TLK.mean())
    reach = max(float(np.abs(weights_TLK - middle).max()), PALE)
    maps = {
        name: heat_map(f"weight of the {name} expert", weights_TLK[..., k], gate.timesteps_T, middle, reach)
        for k, name in enumerate(gate.experts)
    }
    return {"maps": maps, "middle": middle, "low": float(weights_TLK.min()), "high": float(weights_TLK.max())}


def _score_charts(
    scores: Mapping[str, Sequence[float | None]], titles: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    charts = {}
    for dimension, values in scores.items():
        known = [value for value in values if value is not None and np.isfinite(value)]
        charts[dimension] = {
            "chart": histogram(f"scores for {titles[dimension]}", known) if known else None,
            "n": len(known),
            "missing": len(values) - len(known),
            "yes": sum(value > 0.5 for value in known) / len(known) if known else None,
        }
    return charts


def embed_videos(
    videos: Sequence[ReportVideo], limit: int = MAX_VIDEO_BYTES
) -> dict[str, list[dict[str, Any]]]:
    """Prompt -> its videos as {"system", "figures", "source", "poster" (data URIs or None), "name", "link"}.

    The base and the aligned generator come first, side by side. A prompt is embedded as a whole or not at
    all, within the limit: a comparison with holes misleads.
    """
    rows: dict[str, list[ReportVideo]] = {}
    for video in videos:
        rows.setdefault(video.prompt, []).append(video)
    for row in rows.values():
        row.sort(key=lambda video: FIRST_COLUMNS.get(video.system, len(FIRST_COLUMNS)))
    page: dict[str, list[dict[str, Any]]] = {}
    used = 0
    for prompt, row in rows.items():
        sizes = (video.path.stat().st_size + len(video.poster or b"") for video in row)
        size = sum(size * 4 // 3 + 128 for size in sizes)
        embed = used + size <= limit
        used += size if embed else 0
        page[prompt] = [
            {
                "system": video.system,
                "figures": video.figures,
                "name": video.path.name,
                "link": video.link,
                "source": _data_uri("video/mp4", video.path.read_bytes()) if embed else None,
                "poster": _data_uri("image/jpeg", video.poster) if embed and video.poster else None,
            }
            for video in row
        ]
    return page


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def figure(value: float | None) -> str:
    """Three digits after the point, or a dash for what was not measured."""
    return "–" if value is None else _minus(f"{value:.3f}")


def short(value: float | None) -> str:
    """Two digits after the point."""
    return "–" if value is None else _minus(f"{value:.2f}")


def signed(value: float | None) -> str:
    """`figure` with its sign."""
    return "–" if value is None else _minus(f"{value:+.3f}")


def interval_words(bounds: Sequence[float] | None) -> str:
    """An interval as "low … high"."""
    return "no interval" if bounds is None else _minus(f"{bounds[0]:.3f} … {bounds[1]:.3f}")


def _minus(text: str) -> str:
    return text.replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Seconds as "12 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
