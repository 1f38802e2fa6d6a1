"""A critic behind an OpenAI-compatible endpoint: pictures and sound go there, log-probabilities come back.

`critic.weights=openai:MODEL@URL`, where MODEL takes pictures (and sound) and answers with `top_logprobs`:

    openai:qwen2.5-omni@http://localhost:8000/v1?per_minute=600&tokens=20000000

What stands after the question mark is `Limits`. The key comes from the environment variable FT2RAY_CRITIC_KEY
alone. One request is one question about one clip. The last answers are kept, so that neither a health check
nor the clips beside one that failed are paid for twice.

Shape suffixes: F frames, H W 3 pixels, T audio samples, N clips, K dimensions.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import math
import os
import re
import threading
import time
import urllib.error
import urllib.request
import wave
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, ValidationError

from ft2ray.critic.base import Critic, CriticCard
from ft2ray.critic.omni.whole_clip import FPS, PIXELS, WholeClip, WholeClipViewer, check_fps
from ft2ray.critic.processor import SAMPLE_RATE
from ft2ray.critic.questions import NO, QUESTIONS, YES
from ft2ray.errors import ConfigurationError, MediaError
from ft2ray.records import content_id
from ft2ray.settings import Settings

KEY = "FT2RAY_CRITIC_KEY"
AT_ONCE = 8  # requests under way
KEPT = 1024  # answers
LONGEST_ANSWER = 1_000_000  # bytes
BLOCK = 28  # pixels; sides of the pictures are multiples of it
LONGEST_PAUSE = 60.0  # seconds before a request is repeated
_AROUND = " \n\t.\"'\u2581\u0120"  # what tokenizers leave around a word
_NAMED = re.compile(r"openai:(?P<model>[^@\s]+)@(?P<url>https?://\S+)")


class Limits(Settings):
    """What may be asked of an endpoint; none of it decides a score but `sound`."""

    model_config = ConfigDict(strict=False)  # they come as text

    per_minute: float = Field(60.0, gt=0)  # requests
    tokens: int = Field(10_000_000, ge=1)  # that a replica may use up; then scores are null
    retries: int = Field(4, ge=0)  # of a request that the endpoint could not serve just then
    seconds: float = Field(30.0, gt=0)  # that one request may take
    sound: bool = True  # whether clips go there with their sound; some models only see


@dataclass(frozen=True)
class Endpoint:
    """What `critic.weights=openai:MODEL@URL?LIMITS` names."""

    model: str
    url: str
    limits: Limits


def endpoint(weights: str) -> Endpoint:
    """Take the name of an endpoint apart.

    Raises ConfigurationError where it is none, a limit cannot be, or the key would travel unprotected.
    """
    named = _NAMED.fullmatch(weights)
    if named is None:
        raise ConfigurationError(
            f"critic.weights {weights!r} is not of the form openai:MODEL@URL, such as "
            "openai:qwen2.5-omni@http://localhost:8000/v1"
        )
    parts = urlsplit(named["url"])
    if parts.username is not None:
        raise ConfigurationError(f"critic.weights: the URL holds a name or password; give the key in {KEY}")
    if parts.scheme == "http" and os.environ.get(KEY) and not _is_here(parts.hostname or ""):
        raise ConfigurationError(
            f"critic.weights: {KEY} would go to {parts.hostname} unencrypted; give an https:// URL"
        )
    given = parse_qsl(parts.query, keep_blank_values=True)
    if len(dict(given)) < len(given):
        raise ConfigurationError(
            f"critic.weights: a limit occurs twice after the question mark: {parts.query}"
        )
    try:
        limits = Limits.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(
            f"critic.weights: {'.'.join(map(str, first['loc']))} after the question mark: {first['msg']}; "
            f"there are {', '.join(Limits.model_fields)}"
        ) from error
    return Endpoint(named["model"], parts._replace(query="", fragment="").geturl().rstrip("/"), limits)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def remote_viewer(weights: str, fps: float | None = None, pixels: int | None = None) -> WholeClipViewer:
    """How such a critic looks at clips."""
    endpoint(weights)
    return WholeClipViewer(FPS if fps is None else fps, PIXELS if pixels is None else pixels, BLOCK)


def remote_card(
    weights: str,
    fps: float | None = None,
    pixels: int | None = None,
    questions: Mapping[str, str] | None = None,
) -> CriticCard:
    """What is known of it without asking it anything.

    Its fingerprint is of the name, the questions and the view: nobody but the provider knows the weights.
    """
    at, viewer, asked = endpoint(weights), remote_viewer(weights, fps, pixels), dict(questions or QUESTIONS)
    check_fps(viewer.fps, asked if at.limits.sound else {})
    seen = [viewer.fps, viewer.pixels, at.limits.sound]
    return CriticCard(tuple(asked), content_id("openai", at.model, at.url, asked, seen), None, asked)


class RemoteCritic(Critic):
    """Asks an endpoint; `load` makes one from a name."""

    def __init__(self, at: Endpoint, card: CriticCard, viewer: WholeClipViewer):
        assert card.questions is not None
        self.at, self.questions, self.viewer = at, card.questions, viewer
        self.dimensions, self.fingerprint, self.calibration = card.dimensions, card.fingerprint, None
        self._client = Client(at)
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._lock = threading.Lock()

    @staticmethod
    def load(
        weights: str,
        fps: float | None = None,
        pixels: int | None = None,
        questions: Mapping[str, str] | None = None,
    ) -> RemoteCritic:
        card = remote_card(weights, fps, pixels, questions)
        return RemoteCritic(endpoint(weights), card, remote_viewer(weights, fps, pixels))

    def score(self, views: Sequence[WholeClip]) -> np.ndarray:
        """As `Critic.score`; MediaError for a clip that got no answer, and why."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            rows = []
            for content in (contents(view, self.at.limits.sound) for view in views):
                clip = content_id(content)
                rows.append([pool.submit(self._p_yes, content, clip, q) for q in self.questions.values()])
            p_NK = [[answer.result() for answer in row] for row in rows]
        return np.array(p_NK, np.float64).reshape(len(views), len(self.dimensions))

    def _p_yes(self, content: list[dict[str, Any]], clip: str, question: str) -> float:
        with self._lock:
            if (clip, question) in self._known:
                self._known.move_to_end((clip, question))
                return self._known[clip, question]
        text = f"{question} Answer with one word, {YES} or {NO}."
        answer = p_yes(self._client.ask([*content, {"type": "text", "text": text}]))
        with self._lock:
            self._known[clip, question] = answer
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        return answer


def contents(view: WholeClip, sound: bool) -> list[dict[str, Any]]:
    """A clip as parts of a message: JPEG pictures in their order, then its sound as WAV."""
    parts: list[dict[str, Any]] = []
    for frame_HW3 in view.frames_FHW3:
        data = io.BytesIO()
        Image.fromarray(frame_HW3).save(data, "JPEG", quality=90)
        url = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": url}})
    if sound:
        data = io.BytesIO()
        with wave.open(data, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((np.clip(view.wav_T, -1, 1) * 32767).astype("<i2").tobytes())
        given = {"data": base64.b64encode(data.getvalue()).decode(), "format": "wav"}
        parts.append({"type": "input_audio", "input_audio": given})
    return parts


def p_yes(answer: Mapping[str, Any]) -> float:
    """P(Yes) against P(No), from the likeliest first words.

    Raises MediaError where the answer is neither, is refused, or comes without log-probabilities.
    """
    try:
        choice = answer["choices"][0]
        message = choice.get("message") or {}
        said = message.get("refusal") or message.get("content") or choice.get("finish_reason")
        first = ((choice.get("logprobs") or {}).get("content") or [{}])[0]
        likely = [(str(t["token"]), float(t["logprob"])) for t in first.get("top_logprobs") or []]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise MediaError("bad_answer", f"the critic's answer has another form ({error!r}).") from error
    yes, no = (
        sum(math.exp(min(at, 0.0)) for token, at in likely if token.strip(_AROUND).lower() == word.lower())
        for word in (YES, NO)
    )
    if message.get("refusal") or not likely or not yes + no > 0:
        what = "gave no log-probabilities" if not likely else f"said neither {YES} nor {NO}"
        raise MediaError("refused", f"the critic {what}: {str(said)[:200]!r}.")
    return yes / (yes + no)


class Client:
    """Asks one endpoint within its limits, from several threads."""

    def __init__(self, at: Endpoint, sleep: Callable[[float], None] = time.sleep):
        self.at, self.sleep = at, sleep
        self.tokens = 0
        self._lock, self._next = threading.Lock(), 0.0
        self._opener = urllib.request.build_opener(_NoRedirect())

    def ask(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        """The endpoint's answer.

        Raises MediaError where it gave none, for whatever reason: the clip then has no score.
        """
        body = {
            "model": self.at.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }
        request = urllib.request.Request(f"{self.at.url}/chat/completions", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if key := os.environ.get(KEY):
            request.add_header("Authorization", f"Bearer {key}")
        for attempt in range(self.at.limits.retries + 1):
            self._wait_for_turn()
            pause = min(2.0**attempt, LONGEST_PAUSE)
            try:
                with self._opener.open(request, timeout=self.at.limits.seconds) as response:
                    answer = json.loads(response.read(LONGEST_ANSWER))
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}: {error.read(300).decode(errors='replace')}"
                if error.code not in (408, 409, 429) and error.code < 500:
                    break
                pause = _seconds(error.headers.get("Retry-After"), pause)
            except (OSError, ValueError) as error:  # not reached, too slow, or not JSON
                reason = str(error)
            else:
                self._count(answer)
                return answer
            if attempt < self.at.limits.retries:
                self.sleep(pause)
        raise MediaError("no_answer", f"the critic at {self.at.url} gave no answer ({reason}).")

    def _count(self, answer: Any) -> None:
        """Add what the answer cost; MediaError where it does not say, since then nothing holds the cap."""
        if not isinstance(answer, dict):
            return  # no answer of this kind at all, which `p_yes` says
        used = answer.get("usage")
        tokens = used.get("total_tokens") if isinstance(used, dict) else None
        if type(tokens) is not int or tokens < 0:
            raise MediaError("no_usage", f"the critic does not say how many tokens it used ({used!r}).")
        with self._lock:
            self.tokens += tokens

    def _wait_for_turn(self) -> None:
        with self._lock:
            if self.tokens >= self.at.limits.tokens:
                raise MediaError(
                    "cost_cap", f"the critic has used up its {self.at.limits.tokens} tokens (tokens=...)."
                )
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60.0 / self.at.limits.per_minute
        if turn > now:
            self.sleep(turn - now)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key stays with the host that was named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _seconds(header: str | None, otherwise: float) -> float:
    """The seconds of a Retry-After header, which may be a date."""
    try:
        return min(max(float(header or ""), 0.0), LONGEST_PAUSE)
    except ValueError:
        return otherwise
