"""Checkpoints of a training: numbered folders, each with the digests of its files.

    <root>/checkpoint_<step>/...    written by one process; digests.json, which covers the others, comes last
    <root>/checkpoint_<step>/of     the name of <root>, by which a checkpoint of another training is known

The newest whole one counts. One that is damaged, or another training's, is passed over for the one before,
which the log says.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from ft2ray.errors import StoredDataError
from ft2ray.storage.digests import DIGESTS, check_folder, write_digests
from ft2ray.storage.files import (
    base_name,
    delete_folder,
    exists,
    join,
    list_folders,
    local_folder,
    new_folder,
)

log = logging.getLogger(__name__)

NAME = "checkpoint_"
OF = "of"
_FOLDER = re.compile(NAME + r"(\d+)")
KEPT = 2  # the newest, and the one before in case it is damaged


class Checkpoints:
    """The checkpoints below `root`, a path or an s3:// URL."""

    def __init__(self, root: str):
        self.root = root
        self._writer = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def newest(self) -> int | None:
        """Step of the newest checkpoint that is whole; None where there is none."""
        for step in reversed(self._steps()):
            try:
                self.open(step)
            except StoredDataError as error:
                log.warning("%s", error)
                continue
            return step
        return None

    def open(self, step: int) -> Path:
        """The files of a checkpoint, on this machine.

        Raises:
            StoredDataError: where they are not those that were saved, or of another training.
        """
        remedy = "training goes on from the one before"
        folder = local_folder(self._url(step))
        check_folder(folder, "a checkpoint", remedy)
        of = folder / OF  # checkpoints of earlier versions do not say it
        if of.exists() and of.read_text() != base_name(self.root):
            raise StoredDataError(self._url(step), "a checkpoint of another training lies here", remedy)
        return folder

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Keep what `write` puts into a folder; a store takes it while the training goes on.

        One that is still on its way is waited for: a store that is slower than the training would fill the
        disk otherwise. Whatever lies at this step or later is of an attempt that was given up.
        """
        self.wait()
        for other in self._steps(whole=False):
            if other >= step:
                delete_folder(self._url(other))
        with ExitStack() as stack:
            folder = stack.enter_context(new_folder(self._url(step), last=DIGESTS))
            write(folder)
            (folder / OF).write_text(base_name(self.root))
            write_digests(folder)
            self._last = self._writer.submit(self._finish, stack.pop_all())

    def wait(self) -> None:
        """Wait until everything is kept; raises what went wrong meanwhile."""
        if self._last is not None:
            self._last.result()

    def _finish(self, stack: ExitStack) -> None:
        stack.close()
        whole = self._steps()[-KEPT:]
        for step in self._steps(whole=False):
            if step not in whole:
                delete_folder(self._url(step))

    def _steps(self, whole: bool = True) -> list[int]:
        found = map(_FOLDER.fullmatch, list_folders(self.root))
        steps = sorted(int(folder[1]) for folder in found if folder is not None)
        return [step for step in steps if not whole or exists(join(self._url(step), DIGESTS))]

    def _url(self, step: int) -> str:
        return join(self.root, f"{NAME}{step:08d}")
