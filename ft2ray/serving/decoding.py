"""Decoding what clients send in child processes, which can be ended where a thread cannot.

A small file may take a decoder minutes, or fill the memory. Its request then ends alone: with its deadline,
with its client, or at the limits here, and the next request gets a new child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ft2ray.errors import FT2RayError
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import FrontSettings


@dataclass(frozen=True)
class Answer:
    """What the work gave, or why it gave nothing; `bug` is the traceback of what no user can mend."""

    result: Any = None
    refused: FT2RayError | None = None
    bug: str | None = None
    out_of_memory: bool = False


class Decoders:
    """A few child processes, each at work for one request at a time.

    Args:
        prepare: called once in every child; it returns the function that the child then calls.
        settings: how many children, how much memory and how many seconds each has.
    """

    def __init__(self, prepare: Callable[[], Callable[..., Any]], settings: FrontSettings):
        self.first = pickle.dumps(
            (prepare, round(settings.decoder_memory_mb * 1e6), settings.decoder_seconds)
        )
        self.settings = settings
        self.free = asyncio.Semaphore(settings.decoders)
        self.idle: list[asyncio.subprocess.Process] = []

    async def __call__(self, *given: Any) -> Any:
        """What the function of `prepare` gives for these arguments.

        Raises:
            FT2RayError: what it raised, or a Refusal where it took too much time or memory.
        """
        async with self.free:
            child = self.idle.pop() if self.idle else await self._start()
            done = False
            try:
                async with asyncio.timeout(self.settings.decoder_seconds):
                    answer = await _ask(child, given)
                done = not answer.out_of_memory  # else its memory stays in pieces
            except TimeoutError:
                raise Refusal(
                    422,
                    "too_much_work",
                    f"decoding takes more than {self.settings.decoder_seconds:g} s; "
                    "send a shorter or smaller file.",
                ) from None
            except asyncio.IncompleteReadError:  # native code ends its process where memory runs out
                answer = Answer(out_of_memory=True)
            finally:
                if done:
                    self.idle.append(child)
                else:
                    await _end(child)
        if answer.out_of_memory:
            raise Refusal(
                422,
                "too_much_memory",
                f"decoding takes more than {self.settings.decoder_memory_mb:g} MB; send a shorter or smaller "
                "file.",
            )
        if answer.refused is not None:
            raise answer.refused
        if answer.bug is not None:
            raise RuntimeError(f"a decoder failed:\n{answer.bug}")
        return answer.result

    async def __aenter__(self) -> Decoders:
        self.idle.append(await self._start())  # the first request does not wait for it
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self.idle:
            await _end(child)

    async def _start(self) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "ft2ray.serving.decoder",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        )
        try:
            assert child.stdin is not None
            child.stdin.write(self.first)
            await _answer(child)
        except BaseException:
            await _end(child)
            raise
        return child


async def _ask(child: asyncio.subprocess.Process, given: tuple[Any, ...]) -> Answer:
    assert child.stdin is not None
    child.stdin.write(pickle.dumps(given))
    return await _answer(child)


async def _answer(child: asyncio.subprocess.Process) -> Answer:
    assert child.stdout is not None
    size = int.from_bytes(await child.stdout.readexactly(8), "big")
    return pickle.loads(await child.stdout.readexactly(size))


async def _end(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()
