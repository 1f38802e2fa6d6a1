"""What a run folder holds, turned into report.html, report.json and the exported pairs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ft2ray.blind_test import sentences
from ft2ray.config import to_yaml
from ft2ray.critic.base import CriticCard
from ft2ray.dimensions import Dimension, questions
from ft2ray.errors import DataError
from ft2ray.evaluation.compare import REFERENCES, Row
from ft2ray.evaluation.findings import DISPLACEMENT, build_report
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.report import GateMap, ReportData, ReportVideo, write_report
from ft2ray.generator.base import Generator
from ft2ray.loaders import critic_card, load_generator
from ft2ray.media.video import poster
from ft2ray.observe.curves import scores_by_round, training_curves
from ft2ray.observe.tensorboard import show_clips
from ft2ray.preference.export import export_pairs
from ft2ray.records import Prompt
from ft2ray.rounds.measurements import measured, run_judge, wanted_rows
from ft2ray.rounds.schedule import last_step
from ft2ray.rounds.scores import pair_counts, scored_candidates
from ft2ray.run import PAIRS, Run
from ft2ray.storage import WEEK, base_name, exists, join, list_files, local_copy, presigned
from ft2ray.systems import SUM, systems_of
from ft2ray.tlpo.gate import heat_map
from ft2ray.tlpo.policy import Policy, load_policy


def write_run_report(run_dir: str, allow_code: bool = False) -> str:
    """Write report.html and report.json from what the run folder holds; returns where the page is.

    Args:
        run_dir: the run folder.
        allow_code: whether a generator or critic that the run's configuration names by code is imported.
    """
    run = Run.open(run_dir)
    config, plan = run.config, run.plan
    generator = load_generator(config.generator.weights, allow_code)
    critic = critic_card(
        config.critic.weights,
        config.critic.fps,
        config.critic.pixels,
        questions(config.dimensions),
        allow_code,
    )
    judge = Judge.load(run_judge(run))
    folder = run.current_policy
    policy = load_policy(folder, generator.fingerprint)
    candidates = scored_candidates(run)
    pairs = pair_counts(config, candidates, run.wrong_pairs)
    rows = measured(run, policy.fingerprint, judge.fingerprint)
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
        sum(run.seconds.values()),
        dimensions=dimensions,
        resamples=config.evaluation.bootstrap,
        seed=config.seed,
    )
    data = ReportData(
        title=base_name(run.url),
        report=report,
        dimensions=dimensions,
        systems={name: system.title for name, system in systems.items()},
        videos=_videos(run, rows, dimensions),
        curves=training_curves(run.curves(folder)) | scores_by_round(candidates, config.dimension_names),
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
            for row in run.refused.rows()
        ],
        config=to_yaml(config),
        versions=run.versions,
        fingerprints={
            "base": generator.fingerprint,
            "critic": critic.fingerprint,
            "policy": policy.fingerprint,
            "judge": judge.fingerprint,
        },
        command=f"ft2ray align {run.file('config.yaml')}",
        judge=judge.source,
        links=_links(run, folder),
        links_end=(datetime.now(UTC) + timedelta(seconds=WEEK)).strftime("%d %B %Y, %H:%M UTC"),
        notes=_notes(run, pairs, rows, policy.fingerprint, judge.fingerprint),
    )
    clips = {f"{video.system}/{video.prompt}": video.path for video in data.videos}
    show_clips(run.file("tensorboard"), clips, last_step(config, config.schedule.rounds - 1))
    return write_report(data, run.url)


def export_run_pairs(run_dir: str, out: str) -> str:
    """Write the run's pairs as `out`/pairs.parquet; returns a sentence with their numbers."""
    run = Run.open(run_dir)
    if len(run.missing(run.specs)) == len(run.specs):
        raise DataError(f"{run_dir} holds no curated groups yet; run `ft2ray align` first")
    file = join(out, PAIRS)
    counts = export_pairs(
        run.curated(),
        run.config.pairs,
        file,
        run.critic,
        questions(run.config.dimensions),
        wrong=run.wrong_pairs,
    )
    return f"{file}: " + ", ".join(f"{name} {n}" for name, n in counts.items())


def _notes(run: Run, pairs: dict[str, int], rows: list[dict[str, Any]], policy: str, judge: str) -> list[str]:
    """What a reader of the figures has to know about their making."""
    notes = []
    adapters = [name for name in pairs if name != SUM or run.config.tlpo.baseline]
    if untrained := [name for name in adapters if pairs[name] == 0]:
        notes.append(f"Not trained, because the critic's scores gave not one pair: {', '.join(untrained)}.")
    if wrong := len(run.wrong_pairs):
        notes.append(f"People marked {wrong} pairs as wrong; these took no part in the training.")
    notes += sentences(run)
    wanted = wanted_rows(run, run.config.systems, policy, judge)
    if there := len(wanted - {row["row_id"] for row in rows}):
        notes.append(
            f"Incomplete: {len(wanted) - there} of {len(wanted)} clips are measured; the figures are of "
            "these. The same `ft2ray align` measures the others."
        )
    return notes


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


def _videos(run: Run, rows: list[dict[str, Any]], dimensions: Sequence[Dimension]) -> list[ReportVideo]:
    words = {p.prompt_id: _words(p) for p in run.plan.evaluation}
    videos = []
    for system in run.config.systems:
        for m in rows:
            if m["system"] == system and m["video"] and m["prompt_id"] in words:
                figures = _chosen(dict(m["metrics"]), dimensions)
                url = run.file(m["video"])
                link = presigned(url, WEEK)
                file = local_copy(url)
                videos.append(ReportVideo(words[m["prompt_id"]], system, file, figures, link, poster(file)))
    return videos


def _words(prompt: Prompt) -> str:
    return f"{Path(prompt.portrait).stem} with {Path(prompt.speech).stem} from {prompt.start_seconds:g} s"


def _links(run: Run, policy: str) -> dict[str, str]:
    """Links to files for readers without the store's credentials, where the run is on S3."""
    folder = join("policies", base_name(policy))
    files = [f"{folder}/{file}" for file in list_files(policy, recursive=True)]
    files += [file for file in (PAIRS, "config.yaml", "report.json") if exists(run.file(file))]
    links = {file: presigned(run.file(file), WEEK) for file in files}
    return {file: link for file, link in links.items() if link is not None}


def _gate_map(generator: Generator, policy: Policy) -> GateMap | None:
    if policy.gate is None:
        return None
    t_S, weights_SNK = heat_map(policy.gate, generator.transformer.condition_embedder)
    return GateMap(t_S.tolist(), weights_SNK.numpy(), policy.dimensions)
