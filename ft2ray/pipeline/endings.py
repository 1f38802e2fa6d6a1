"""How a run ends that no mistake of its settings stopped: in one sentence, and the same command goes on.

What went wrong in an actor or a train worker arrives at the driver as text, wrapped by Ray Data, Ray Train or
Ray itself, so that it is looked for in the text of the whole error.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ft2ray.errors import RunEnded

GOES_ON = "what is committed stays, and the same command goes on from there"
_DISK_FULL = re.compile(r"^.*(?:No space left on device|Disk quota exceeded).*$", re.M)
_SENTENCE = re.compile(r"^\s*ft2ray\.[\w.]+\.(?:StoreUnavailable|StoreRefused|CriticError): (.+)$", re.M)


@contextmanager
def in_one_sentence(run_dir: str) -> Iterator[None]:
    """A full disk, a store that refuses or does not answer, and a critic that fails, as RunEnded."""
    try:
        yield
    except Exception as error:
        reason = why(error, run_dir)
        if reason is None:
            raise
        raise RunEnded(f"{reason}; {GOES_ON}") from error


def why(error: Exception, run_dir: str) -> str | None:
    """The sentence that `error` stands for; None where it is none of those that are known."""
    text = "".join(traceback.format_exception(error))
    if found := _SENTENCE.findall(text):
        return found[-1].strip()
    if found := _DISK_FULL.findall(text):
        disks = f"that of {run_dir}, or that of the temporary files"
        return f"a disk is full ({found[-1].strip()}); free or enlarge {disks}"
    return None
