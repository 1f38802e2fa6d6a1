"""What a run folder holds, turned into report.html, report.json and the exported pairs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ft2ray.config import AlignConfig, to_yaml
from ft2ray.critic.base import CriticCard
from ft2ray.dimensions import Dimension, questions
from ft2ray.errors import DataError
from ft2ray.evaluation.compare import REFERENCES, Row
from ft2ray.evaluation.findings import DISPLACEMENT, build_report
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.report import GateMap, ReportData, ReportVideo, write_report
from ft2ray.generator.base import Generator
from ft2ray.loaders import critic_card, load_generator
from ft2ray.observe.tensorboard import show_clips
from ft2ray.pipeline.curation import curated, group_store, refused_store
from ft2ray.pipeline.evaluation import measured, run_judge
from ft2ray.preference.export import export_pairs
from ft2ray.records import Prompt
from ft2ray.rounds.policies import curves_url
from ft2ray.rounds.prompts import Plan
from ft2ray.rounds.schedule import last_step, slots
from ft2ray.rounds.scores import pair_counts, scored_candidates
from ft2ray.run import (
    policy_dir,
    read_config,
    read_fingerprints,
    read_plan,
    read_seconds,
    read_versions,
)
from ft2ray.storage import WEEK, base_name, exists, join, list_files, local_copy, presigned, read_bytes
from ft2ray.systems import systems_of
from ft2ray.tlpo.gate import heat_map
from ft2ray.tlpo.policy import Policy, load_policy

PAIRS = "pairs.parquet"
SMOOTHING = 10  # training curves are drawn as means over this many updates


def write_run_report(run_dir: str, allow_code: bool = False) -> str:
    """Write report.html and report.json from what the run folder holds; returns where the page is.

    Args:
        allow_code: whether a generator or critic that the run's configuration names by code is imported.
    """
    config, plan = read_config(run_dir), read_plan(run_dir)
    generator = load_generator(config.generator.weights, allow_code)
    critic = critic_card(
        config.critic.weights,
        config.critic.fps,
        config.critic.pixels,
        questions(config.dimensions),
        allow_code,
    )
    judge = Judge.load(run_judge(config))
    folder = policy_dir(run_dir)
    policy = load_policy(folder, generator.fingerprint)
    candidates = scored_candidates(
        config, slots(config, generator.fingerprint, critic.fingerprint, plan.curation)
    )
    pairs = pair_counts(config, candidates)
    rows = measured(config, plan.evaluation, generator.fingerprint, policy.fingerprint, judge.fingerprint)
    if not rows:
        raise DataError(
            f"{run_dir} holds no measurements of its policy yet; run `ft2ray align` to its end first"
        )
    dimensions = config.dimensions
    titles = {dimension.name: dimension.title for dimension in dimensions}
    systems = systems_of(policy.dimensions, policy.adapters, policy.gate is not None, titles)
    report = build_report(
        [_row(m, dimensions) for m in rows if m["system"] in config.systems],
        [_row(m, dimensions) for m in rows if m["system"] in REFERENCES]
        + [
            Row("real_video", name.partition("/")[0], n, _chosen(figures, dimensions))
            for n, (name, figures) in enumerate(judge.real.items())
        ],
        _calibration(critic),
        sum(read_seconds(run_dir).values()),
        dimensions=dimensions,
        resamples=config.evaluation.bootstrap,
        seed=config.seed,
    )
    untrained = [name for name, count in pairs.items() if count == 0]
    data = ReportData(
        title=base_name(run_dir),
        report=report,
        dimensions=dimensions,
        systems={name: system.title for name, system in systems.items()},
        videos=_videos(config, plan, rows, dimensions),
        curves=_curves(folder),
        gate=_gate_map(generator, policy),
        scores={name: candidates[name].to_pylist() for name in config.dimension_names},
        counts={
            "prompt groups": pc.count_distinct(candidates["group_id"]).as_py(),
            "candidates": len(candidates),
            "candidates without a score": candidates[dimensions[0].name].null_count,
        },
        pairs=pairs,
        quarantined=[
            {"name": base_name(q.path), "reason": q.reason, "message": q.message} for q in plan.quarantined
        ]
        + [
            {"name": row["path"], "reason": row["reason"], "message": row["message"]}
            for row in refused_store(run_dir).rows()
        ],
        config=to_yaml(config),
        versions=read_versions(run_dir),
        fingerprints={
            "base": generator.fingerprint,
            "critic": critic.fingerprint,
            "policy": policy.fingerprint,
            "judge": judge.fingerprint,
        },
        command=f"ft2ray align {join(run_dir, 'config.yaml')}",
        judge=judge.source,
        links=_links(run_dir, folder),
        links_end=(datetime.now(UTC) + timedelta(seconds=WEEK)).strftime("%d %B %Y, %H:%M UTC"),
        notes=[f"Not trained, because the critic's scores gave not one pair: {', '.join(untrained)}."]
        if untrained
        else [],
    )
    clips = {f"{video.system}/{video.prompt}": video.path for video in data.videos}
    show_clips(run_dir, clips, last_step(config, config.schedule.rounds - 1))
    return write_report(data, run_dir)


def export_run_pairs(run_dir: str, out: str) -> str:
    """Write the run's pairs as `out`/pairs.parquet; returns a sentence with their numbers."""
    config, plan = read_config(run_dir), read_plan(run_dir)
    generator, critic = read_fingerprints(run_dir)
    wanted = slots(config, generator, critic, plan.curation)
    if not group_store(run_dir).committed({slot.group_id for slot in wanted}):
        raise DataError(f"{run_dir} holds no curated groups yet; run `ft2ray align` first")
    file = join(out, PAIRS)
    counts = export_pairs(curated(run_dir, wanted), config.pairs, file, critic, questions(config.dimensions))
    return f"{file}: " + ", ".join(f"{name} {n}" for name, n in counts.items())


def _calibration(critic: CriticCard) -> dict[str, Any]:
    """How often the critic was right on held-out clips; null for a critic that does not say."""
    known = critic.calibration
    if not known:
        return {"accuracy": dict.fromkeys(critic.dimensions), "n": 0}
    return {"accuracy": known["accuracy"], "n": min(known["n"].values())}


def _row(m: dict[str, Any], dimensions: Sequence[Dimension]) -> Row:
    metrics = dict(m["metrics"])
    figures = _chosen(metrics, dimensions) | {DISPLACEMENT: metrics.get(DISPLACEMENT)}
    return Row(m["system"], m["prompt_id"], m["seed"], figures)


def _chosen(figures: Any, dimensions: Sequence[Dimension]) -> dict[str, float | None]:
    """The figure that measures each dimension, None where there is none."""
    return {d.name: None if d.metric is None else figures.get(d.metric) for d in dimensions}


def _videos(
    config: AlignConfig, plan: Plan, rows: list[dict[str, Any]], dimensions: Sequence[Dimension]
) -> list[ReportVideo]:
    words = {p.prompt_id: _words(p) for p in plan.evaluation}
    videos = []
    for system in config.systems:
        for m in rows:
            if m["system"] == system and m["video"] and m["prompt_id"] in words:
                figures = _chosen(dict(m["metrics"]), dimensions)
                url = join(config.run_dir, m["video"])
                link = presigned(url, WEEK)
                videos.append(ReportVideo(words[m["prompt_id"]], system, local_copy(url), figures, link))
    return videos


def _words(prompt: Prompt) -> str:
    return f"{Path(prompt.portrait).stem} with {Path(prompt.speech).stem} from {prompt.start_seconds:g} s"


def _links(run_dir: str, policy: str) -> dict[str, str]:
    """Links to what somebody without the store's credentials may want to load, where the run is on S3."""
    folder = join("policies", base_name(policy))
    files = [f"{folder}/{file}" for file in list_files(policy, recursive=True)]
    files += [file for file in (PAIRS, "config.yaml", "report.json") if exists(join(run_dir, file))]
    links = {file: presigned(join(run_dir, file), WEEK) for file in files}
    return {file: link for file, link in links.items() if link is not None}


def _curves(folder: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Loss, margin and accuracy per adapter, as means over SMOOTHING updates."""
    charts: dict[str, dict[str, list[tuple[float, float]]]] = {}
    raw: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for point in json.loads(read_bytes(curves_url(folder))):
        for key in ("loss", "margin", "accuracy"):
            raw[key, point["name"]].append((point["step"], point[key]))
    for (key, name), points in raw.items():
        chunks = [points[i : i + SMOOTHING] for i in range(0, len(points), SMOOTHING)]
        line = [(chunk[-1][0], sum(y for _, y in chunk) / len(chunk)) for chunk in chunks]
        charts.setdefault(key, {})[name] = line
    return charts


def _gate_map(generator: Generator, policy: Policy) -> GateMap | None:
    if policy.gate is None:
        return None
    t_S, weights_SNK = heat_map(policy.gate, generator.transformer.condition_embedder)
    return GateMap(t_S.tolist(), weights_SNK.numpy(), policy.dimensions)
