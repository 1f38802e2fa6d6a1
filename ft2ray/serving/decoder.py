"""The child process of decoding.py: calls one function for whatever comes over its standard input."""

from __future__ import annotations

import math
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft2ray.errors import FT2RayError
from ft2ray.serving.decoding import Answer


def main() -> None:
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is not an answer
    prepare, memory_bytes, seconds = pickle.load(requests)
    work = prepare()
    _send(answers, Answer())  # ready
    _limit_memory(memory_bytes)
    while True:
        try:
            given = pickle.load(requests)
        except EOFError:  # the front is gone, or wants no more
            return
        signal.alarm(math.ceil(seconds) + 1)  # ends this process even where the front was killed meanwhile
        answer = _answer(work, given)
        signal.alarm(0)
        _send(answers, answer)


def _answer(work: Callable[..., Any], given: tuple[Any, ...]) -> Answer:
    try:
        return Answer(work(*given))
    except FT2RayError as error:
        return Answer(refused=error)
    except MemoryError:
        return Answer(out_of_memory=True)
    except Exception:  # goes to the front, which logs it and answers with an id
        return Answer(bug=traceback.format_exc())


def _limit_memory(grow_bytes: int) -> None:
    """Let the address space grow by so much from here: libraries map far more than they use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + grow_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _send(answers: Any, answer: Answer) -> None:
    data = pickle.dumps(answer)
    answers.write(len(data).to_bytes(8, "big") + data)
    answers.flush()


if __name__ == "__main__":
    main()
