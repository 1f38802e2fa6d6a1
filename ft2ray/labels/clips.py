"""The clips of a run or of a folder that people may be asked about; nothing but names and scores is read.

Of a run these are the candidates of its curation. Clips of the evaluation are left out: a critic that is
tuned on what people say of them would have seen the held-out people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ft2ray.dimensions import DEFAULT_DIMENSIONS, Dimension
from ft2ray.errors import DataError
from ft2ray.rounds.scores import candidate_video, kept_videos, scored_candidates
from ft2ray.run import Run
from ft2ray.storage import absolute, exists, join, list_files

PLAYABLE = (".mp4", ".m4v", ".mov", ".webm")  # by a browser


@dataclass(frozen=True)
class Clip:
    """A clip that can be shown.

    Attributes:
        path: below the labelled folder.
        group: clips of one group show one person.
        prompt: clips of one prompt can be compared; None: with no other.
        p_yes: what the critic said, by dimension; it is never shown to annotators.
    """

    path: str
    group: str | None = None
    prompt: str | None = None
    p_yes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A folder with clips and the questions that are asked of them."""

    url: str
    clips: tuple[Clip, ...]
    dimensions: tuple[Dimension, ...]

    def questions_of(self, names: tuple[str, ...] = ()) -> tuple[Dimension, ...]:
        """The dimensions of these names, all of them where none is named."""
        known = {dimension.name: dimension for dimension in self.dimensions}
        if unknown := [name for name in names if name not in known]:
            raise DataError(f"labels: no dimension {unknown[0]}; there are {', '.join(known)}")
        return tuple(known[name] for name in names) or self.dimensions


def open_source(url: str | Path) -> Source:
    """The clips of a run folder, or of any folder.

    Raises DataError where there is no clip.
    """
    if is_run(url):
        run = Run.open(url)
        return Source(run.url, run_clips(run), run.config.dimensions)
    files = [file for file in list_files(url, recursive=True) if file.lower().endswith(PLAYABLE)]
    if not files:
        raise DataError(
            f"labels: {url} is not a run and holds no clip ({', '.join(PLAYABLE)}); give the folder of either"
        )
    clips = (Clip(file, file.rpartition("/")[0] or None) for file in sorted(files))
    return Source(absolute(url), tuple(clips), DEFAULT_DIMENSIONS)


def is_run(url: str | Path) -> bool:
    """Whether this is the folder of a run."""
    return exists(join(url, "config.yaml"))


def run_clips(run: Run) -> tuple[Clip, ...]:
    """The candidates of a run whose videos were kept, in the order of their groups."""
    kept = kept_videos(run)
    prompts = {spec.group_id: spec.prompt for spec in run.specs}
    clips = []
    for row in scored_candidates(run).to_pylist():
        prompt = prompts[row["group_id"]]
        video = candidate_video(run, prompt.prompt_id, row)
        if video in kept:
            p_yes = {name: row[name] for name in run.config.dimension_names if row[name] is not None}
            clips.append(Clip(video, prompt.portrait, row["group_id"], p_yes))
    if not clips:
        raise DataError(
            f"labels: {run.url} keeps no video of a candidate; make a run with resources.keep_videos=true"
        )
    return tuple(clips)
