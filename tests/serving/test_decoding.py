"""Child processes end with their request, their time and their memory; the next request gets a new one."""

import asyncio
import os
import signal
import time

import psutil
import pytest

from ft2ray.errors import MediaError
from ft2ray.serving.decoding import Decoders
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import FrontSettings
from tests.serving.work import prepare

pytestmark = pytest.mark.slow
SETTINGS = FrontSettings(decoders=2, decoder_seconds=20.0, decoder_memory_mb=300.0)


def with_decoders(test, **changes):
    async def run():
        async with Decoders(prepare, SETTINGS.model_copy(update=changes)) as decode:
            return await test(decode)

    return asyncio.run(run())


def test_what_the_function_gives_or_raises_comes_back():
    async def test(decode):
        first = await decode("pid")
        assert await decode("say", 1, "two") == (1, "two")
        with pytest.raises(MediaError, match="it is silent"):
            await decode("refuse")
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            await decode("fail")
        assert await decode("pid") == first != os.getpid()
        return first

    assert not psutil.pid_exists(with_decoders(test))


@pytest.mark.parametrize("what", [("fill", 10**9), ("die",)])
def test_memory_is_bounded_and_the_next_request_does_not_notice(what):
    async def test(decode):
        first = await decode("pid")
        with pytest.raises(Refusal, match="more than 300 MB") as refused:
            await decode(*what)
        assert (refused.value.status, refused.value.reason) == (422, "too_much_memory")
        assert await decode("fill", 10**8) == 10**8
        assert await decode("pid") != first and not psutil.pid_exists(first)

    with_decoders(test)


def test_work_beyond_its_time_is_ended():
    async def test(decode):
        first = await decode("pid")
        began = time.monotonic()
        with pytest.raises(Refusal, match="more than 0.5 s"):
            await decode("sleep", 60)
        assert time.monotonic() - began < 5 and not psutil.pid_exists(first)

    with_decoders(test, decoder_seconds=0.5)


def test_a_request_that_ends_takes_its_work_along_and_others_are_served_meanwhile():
    async def test(decode):
        first = await decode("pid")
        slow = asyncio.create_task(decode("sleep", 60))
        await asyncio.sleep(0)
        others = [await decode("say", n) for n in range(3)]
        assert others == [(0,), (1,), (2,)] and not slow.done()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        assert not psutil.pid_exists(first)

    with_decoders(test)


def test_a_child_ends_by_itself_where_its_front_was_killed():
    async def test(decode):
        child = psutil.Process(await decode("pid"))
        asyncio.get_running_loop().call_later(0.2, decode.idle[0].stdin.close)  # as the kernel does it
        await asyncio.to_thread(child.wait, 10)
        decode.idle.clear()

    with_decoders(test)


def test_work_that_outlives_its_front_has_an_alarm():
    """SIGALRM is not caught: it ends even native code that never comes back."""

    async def test(decode):
        child = psutil.Process(await decode("pid"))
        working = asyncio.create_task(decode("sleep", 60))
        await asyncio.sleep(0.2)
        child.send_signal(signal.SIGALRM)
        with pytest.raises(Refusal):
            await working

    with_decoders(test)
