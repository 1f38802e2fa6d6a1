"""What a front answers when the replica that it asked is lost."""

import asyncio

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from ft2ray.serving.calls import ATTEMPTS, ask, stream
from ft2ray.serving.refusal import Refusal

UNAVAILABLE = DeploymentUnavailableError(DeploymentID(name="TalkingCritic", app_name="critic"))


class Replicas:
    """A method of a handle, whose calls end as `endings` say, one after the other."""

    def __init__(self, *endings):
        self.endings, self.asked = list(endings), 0

    def options(self, stream):
        return self

    def remote(self):
        self.asked += 1
        return self._streamed(self.endings.pop(0)) if self.streams else self._said(self.endings.pop(0))

    streams = False

    async def _said(self, ending):
        if isinstance(ending, Exception):
            raise ending
        return ending

    async def _streamed(self, ending):
        yield await self._said(ending)


class Streaming(Replicas):
    streams = True


async def first(method):
    async for item in stream(method):
        return item


ASKED = [(Replicas, ask), (Streaming, first)]


@pytest.mark.parametrize(("kind", "call"), ASKED, ids=["ask", "stream"])
@pytest.mark.parametrize("error", [ActorDiedError(), OutOfMemoryError("Memory on the node was 2GB / 2GB")])
def test_another_replica_is_asked(kind, call, error):
    assert asyncio.run(call(kind(error, "answer"))) == "answer"


@pytest.mark.parametrize(("kind", "call"), ASKED, ids=["ask", "stream"])
@pytest.mark.parametrize(
    ("errors", "why"),
    [
        ([ActorDiedError()] * ATTEMPTS, "the last one that tried died"),
        ([OutOfMemoryError("Memory on the node was 2GB / 2GB")] * ATTEMPTS, "ran out of memory"),
        ([UNAVAILABLE], "none gets ready"),
    ],
)
def test_a_refusal_says_why(kind, call, errors, why):
    method = kind(*errors)
    with pytest.raises(Refusal, match=why) as refused:
        asyncio.run(call(method))
    assert (refused.value.status, refused.value.reason) == (503, "replica_died")
    assert refused.value.retry_after > 0 and method.asked == len(errors)
    assert "2GB" not in refused.value.detail, "the log and the health page have the numbers"
