"""What child processes do in test_decoding.py."""

import os
import time

from ft2ray.errors import MediaError


def prepare():
    print("a library that greets")  # noqa: T201
    return work


def work(what, *given):
    return {
        "say": lambda: given,
        "pid": os.getpid,
        "sleep": lambda: time.sleep(*given),
        "refuse": lambda: refuse(),
        "fail": lambda: 1 / 0,
        "fill": lambda: len(bytearray(*given)),
        "die": lambda: os.abort(),
    }[what]()


def refuse():
    raise MediaError("silence", "it is silent.")
