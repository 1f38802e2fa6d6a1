"""How the last attempt of a run ended where it did not finish: kept in its folder.

The attempt after it starts all the same: what was wrong (a disk, a node, a folder of weights) may be mended
without a word in the configuration, and everything is checked before a worker is asked for.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from ft2ray.errors import StoredDataError
from ft2ray.storage import delete, exists, join, plain_json, write_atomically

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastError:
    """Sentence and exit code of an attempt, and when it ended, in seconds since the epoch."""

    sentence: str
    exit_code: int
    at: float

    def __str__(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.at))
        return f"at {at} with exit code {self.exit_code}: {self.sentence}"


def read_last_error(run_dir: str | Path) -> LastError | None:
    """Read how the last attempt ended; None where it goes on, has finished, was killed, or met a bug.

    The note is a mere side figure: one that is damaged is none.
    """
    file = _file(run_dir)
    if not exists(file):
        return None
    try:
        return LastError(
            **plain_json(file, "the note of an attempt's end", "the next attempt writes it anew")
        )
    except (StoredDataError, TypeError) as error:
        log.warning("%s: how the last attempt ended is not known: %s", file, error)
        return None


def write_last_error(run_dir: str | Path, error: LastError) -> None:
    write_atomically(_file(run_dir), json.dumps(dataclasses.asdict(error)).encode())


def forget_last_error(run_dir: str | Path) -> None:
    delete(_file(run_dir))


def _file(run_dir: str | Path) -> str:
    return join(run_dir, "ending.json")
