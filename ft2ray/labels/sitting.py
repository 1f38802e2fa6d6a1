"""One annotator at work: the task on the screen, answers as they are given, and taking them back."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from ft2ray.errors import DataError
from ft2ray.labels.answers import WORDS, Answer, Task, annotator_name, answer_store, current, read_answers
from ft2ray.labels.clips import Source
from ft2ray.labels.queue import QueueSettings, next_task, queue
from ft2ray.media.audio import read_audio
from ft2ray.media.video import FPS, read_video, write_video
from ft2ray.records import content_id
from ft2ray.storage import exists, join, local_copy, read_bytes


class Sitting:
    """One annotator before one source.

    Args:
        source: the clips.
        annotator: under whose name the answers are kept.
        dimensions: names of those that are asked; none stands for all of them.
        settings: what is asked, in which order.
        tasks: another list of tasks than that of `queue`.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        source: Source,
        annotator: str,
        dimensions: tuple[str, ...] = (),
        settings: QueueSettings | None = None,
        tasks: list[Task] | None = None,
        clock: Callable[[], float] = time.time,
    ):
        self.source, self.settings, self.clock = source, settings or QueueSettings(), clock
        self.annotator = annotator_name(annotator)
        asked = [dimension.name for dimension in source.questions_of(dimensions)]
        self.tasks = queue(source, asked, self.annotator, self.settings) if tasks is None else tasks
        self.store = answer_store(source.url)
        self.gone: list[str] = []
        self.read()

    def read(self) -> None:
        """Take in what the store holds, and go to the next task."""
        self.rows = read_answers(self.store)
        self._next()

    @property
    def said(self) -> list[Answer]:
        """The annotator's current answers to tasks of this kind."""
        kind = self.tasks[0].kind if self.tasks else None
        mine = (row for row in self.rows if row.task.annotator == self.annotator and row.task.kind == kind)
        return current(mine)

    def show(self, folder: Path) -> tuple[Path, ...]:
        """The clips of the task as the only files of `folder`; their names tell nothing.

        A clip that is gone is passed over (its path is added to `gone`), and the next task taken.

        Raises MediaError where a clip that is to be shown under another sound cannot be read.
        """
        while self.task is not None:
            task = self.task
            names = [name for name in (task.clip, task.other, task.sound) if name is not None]
            missing = [name for name in names if not exists(join(self.source.url, name))]
            if not missing:
                return tuple(self._shown(folder, task))
            self.gone += missing
            self.tasks = [
                task for task in self.tasks if not {task.clip, task.other, task.sound} & set(missing)
            ]
            clips = tuple(clip for clip in self.source.clips if clip.path not in missing)
            self.source = Source(self.source.url, clips, self.source.dimensions)
            self._next()
        return ()

    def answer(self, word: str, task_id: str | None = None) -> bool:
        """Give an answer to the task and go to the next one.

        Args:
            word: one of those of the task's kind.
            task_id: of the task that the annotator saw; None for the one that is on.

        Returns:
            Whether it was kept: not where the same annotator has answered it elsewhere meanwhile, or saw
            another task.
        """
        task = self.task
        if task is None or task_id not in (None, task.task_id):
            return False
        if word not in WORDS[task.kind]:
            raise DataError(f"labels: {word!r} is not an answer; give one of {', '.join(WORDS[task.kind])}")
        return self._give(task, word)

    def undo(self) -> bool:
        """Take the last answer back, which then is asked again; False where there is none."""
        said = self.said
        return bool(said) and self._give(said[-1].task, None)

    def _give(self, task: Task, word: str | None) -> bool:
        now = self.clock()
        answer = Answer(
            task,
            word,
            revision=sum(row.task.task_id == task.task_id for row in self.rows),
            clip_id=self._content(task.clip) if word else "",
            other_id=self._content(task.other) if word and task.other else None,
            place=len(self.said),
            seconds=now - self.shown_at,
            answered=now,
        )
        kept = self.store.commit_once([answer.to_row()])
        if kept:
            self.rows.append(answer)
            self._next()
        else:
            self.read()
        return kept

    def _content(self, name: str) -> str:
        url = join(self.source.url, name)
        if not exists(url):
            raise DataError(
                f"labels: {url} is gone, so that nothing can be said of it; go on with the next one"
            )
        return content_id(read_bytes(url))

    def _next(self) -> None:
        self.task = next_task(self.tasks, self.said, self.source, self.settings)
        self.shown_at = self.clock()

    def _shown(self, folder: Path, task: Task) -> list[Path]:
        paths = []
        for letter, name in (("a", task.clip), ("b", task.other)):
            if name is None:
                continue
            shown = folder / f"{task.task_id}{letter}{Path(name).suffix.lower()}"
            if task.sound is not None:
                shown = shown.with_suffix(".mp4")
            if not shown.exists():
                file = local_copy(join(self.source.url, name))
                if task.sound is None:
                    shutil.copyfile(file, shown)
                else:
                    frames_FHW3, _ = read_video(file)
                    write_video(
                        shown, frames_FHW3, FPS, read_audio(local_copy(join(self.source.url, task.sound)))
                    )
            paths.append(shown)
        for old in set(folder.iterdir()) - set(paths):
            old.unlink()
        self.shown_at = self.clock()
        return paths
