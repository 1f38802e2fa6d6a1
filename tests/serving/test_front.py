"""The gate: who comes in, how much is read, how long it may take."""

import asyncio
import json

import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.testclient import TestClient

from ft2ray.errors import (
    CriticError,
    MediaError,
    NonFiniteError,
    StoreRefused,
    StoreUnavailable,
    UserError,
)
from ft2ray.serving.front import DEADLINE_HEADER, Slots, front
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import FrontSettings, check_exposure

ROUTE = "/v1/echo"


def echo(monkeypatch, token="secret", handler=None, **settings):
    monkeypatch.setenv("FT2RAY_TOKEN", token)
    api = front(ROUTE, FrontSettings(**settings), "Echo", "Gives the length of the body.")

    async def length(request: Request):
        return {"bytes": len(await request.body())}

    api.post(ROUTE, response_model=None)(handler or length)
    return api


def client(api, token="secret"):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return TestClient(api, headers=headers, raise_server_exceptions=False)


@pytest.mark.parametrize(
    "authorization, status",
    [
        ("Bearer secret", 200),
        ("bearer  secret", 200),
        ("Bearer secre", 401),
        ("Bearer secret2", 401),
        ("Basic secret", 401),
        ("secret", 401),
        ("Bearer", 401),
        (None, 401),
    ],
)
def test_the_token(monkeypatch, authorization, status):
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client(echo(monkeypatch), None).post(ROUTE, content=b"abc", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["reason"] == "unauthorised" and answer.headers["WWW-Authenticate"] == "Bearer"


def test_without_a_token_set_up_everybody_comes_in(monkeypatch):
    assert client(echo(monkeypatch, token=""), None).post(ROUTE, content=b"abc").json() == {"bytes": 3}


def test_the_pages_are_open_and_nothing_else(monkeypatch):
    stranger = client(echo(monkeypatch), None)
    paths = {
        path: stranger.get(path).status_code
        for path in (f"{ROUTE}/docs", f"{ROUTE}/openapi.json", "/", ROUTE)
    }
    assert list(paths.values()) == [200, 200, 404, 405]
    assert stranger.post(ROUTE).status_code == stranger.post(f"{ROUTE}/docs/../").status_code == 401


def asgi(api, messages, headers=(), root="", pause=0.0):
    """Run one request whose body comes as `messages`, each after a `pause`; returns (status, body, messages
    that were read)."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": root + ROUTE,
        "root_path": root + ROUTE if root else "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }
    sent, read = [], 0

    async def receive():
        nonlocal read
        await asyncio.sleep(pause)
        read += 1
        return messages[read - 1]

    async def send(message):
        sent.append(message)

    asyncio.run(api(scope, receive, send))
    return sent[0]["status"], b"".join(m.get("body", b"") for m in sent[1:]), read


def chunks(count, size):
    body = [{"type": "http.request", "body": bytes(size), "more_body": True} for _ in range(count)]
    return [*body, {"type": "http.request", "body": b"", "more_body": False}]


AUTHORISED = ("Authorization", "Bearer secret")


def test_a_stranger_sends_his_body_to_nobody(monkeypatch):
    status, _, read = asgi(echo(monkeypatch), chunks(10, 100))
    assert (status, read) == (401, 0)


def test_a_length_beyond_the_limit_is_refused_unread(monkeypatch):
    api = echo(monkeypatch, max_upload_mb=0.001)
    status, body, read = asgi(api, chunks(11, 100), [AUTHORISED, ("Content-Length", "1100")])
    assert (status, read) == (413, 0) and json.loads(body)["reason"] == "too_large"
    assert asgi(api, chunks(10, 100), [AUTHORISED, ("Content-Length", "1000")])[0] == 200


@pytest.mark.parametrize("headers", [[], [("Content-Length", "5")]])
def test_reading_stops_where_the_body_is_longer_than_it_said(monkeypatch, headers):
    status, _, read = asgi(echo(monkeypatch, max_upload_mb=0.001), chunks(1000, 100), [AUTHORISED, *headers])
    assert (status, read) == (413, 11)


def test_a_body_that_trickles_misses_the_deadline(monkeypatch):
    api = echo(monkeypatch, deadline_seconds=0.2)
    status, body, read = asgi(api, chunks(1000, 1), [AUTHORISED], pause=0.02)
    assert (status, json.loads(body)["reason"]) == (504, "deadline") and read < 20


def test_the_path_is_the_same_wherever_serve_puts_it(monkeypatch):
    assert asgi(echo(monkeypatch), chunks(1, 5), [AUTHORISED], root="/behind/a/proxy")[:2] == (
        200,
        b'{"bytes":5}',
    )


async def slow(request: Request):
    await asyncio.sleep(5)


@pytest.mark.parametrize("limit, asked", [(0.05, None), (60.0, "0.05"), (0.05, "60")])
def test_the_deadline_is_the_shorter_of_both(monkeypatch, limit, asked):
    headers = {} if asked is None else {DEADLINE_HEADER: asked}
    answer = client(echo(monkeypatch, handler=slow, deadline_seconds=limit)).post(ROUTE, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline")
    assert "0.05 s" in answer.json()["detail"]


@pytest.mark.parametrize("asked", ["soon", "0", "-1", "nan"])
def test_a_deadline_must_be_a_positive_number(monkeypatch, asked):
    answer = client(echo(monkeypatch)).post(ROUTE, headers={DEADLINE_HEADER: asked})
    assert (answer.status_code, answer.json()["reason"]) == (422, "bad_deadline")


class Told(BaseModel):
    number: int


@pytest.mark.parametrize(
    "error, status, reason",
    [
        (RuntimeError("password=1234"), 500, "internal"),
        (ValueError("password=1234"), 500, "internal"),  # a programmer's mistake, never the client's
        (KeyError("1234"), 500, "internal"),
        (TimeoutError("1234"), 500, "internal"),
        (None, 500, "internal"),  # pydantic's ValidationError, which is a ValueError
        (StoreRefused("https://endpoint:1234 refuses"), 502, "store_refuses"),
        (StoreUnavailable("https://endpoint:1234"), 503, "store_unavailable"),
        (CriticError("1234"), 502, "critic_failed"),
        (NonFiniteError("1234"), 500, "not_finite"),
    ],
)
def test_a_failure_is_a_problem_whose_details_are_in_the_log(monkeypatch, caplog, error, status, reason):
    async def broken(request: Request):
        if error is None:
            Told(number="1234x")
        raise error

    answer = client(echo(monkeypatch, handler=broken)).post(ROUTE)
    assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert "1234" not in answer.text and ("Retry-After" in answer.headers) == (status == 503)
    found = answer.json()["detail"].removesuffix(".").rsplit(" ", 1)[1]
    assert f"{found}: " in caplog.text and "1234" in caplog.text


@pytest.mark.parametrize(
    "error, reason", [(MediaError("silence", "silent."), "silence"), (UserError("no"), "not_possible")]
)
def test_what_the_client_can_mend_is_said(monkeypatch, error, reason):
    async def refusing(request: Request):
        raise error

    answer = client(echo(monkeypatch, handler=refusing)).post(ROUTE)
    assert answer.status_code == 422
    assert answer.json() == {"reason": reason, "detail": {"silence": "silent."}.get(reason, "no.")}


def test_a_body_below_the_least_rate_is_broken_off(monkeypatch):
    monkeypatch.setattr("ft2ray.serving.front.GRACE_SECONDS", 0.1)
    api = echo(monkeypatch, min_kb_per_second=1.0)
    status, body, read = asgi(api, chunks(1000, 1), [AUTHORISED], pause=0.02)
    assert (status, json.loads(body)["reason"]) == (408, "too_slow") and read < 10
    assert asgi(api, chunks(10, 1000), [AUTHORISED], pause=0.02)[0] == 200


def test_so_many_are_worked_on_so_many_wait_and_the_rest_comes_back():
    slots = Slots(FrontSettings(slots=2, waiting=1, retry_after_seconds=3.0))
    most = at_work = 0

    async def work():
        nonlocal most, at_work
        async with slots.one():
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.02)
            at_work -= 1

    async def all_at_once():
        return await asyncio.gather(*(work() for _ in range(5)), return_exceptions=True)

    ended = asyncio.run(all_at_once())
    refused = [end for end in ended if end is not None]
    assert most == 2 and [(r.status, r.retry_after) for r in refused] == [(503, 3.0)] * 2


def test_a_refusal_says_when_to_come_back(monkeypatch):
    async def busy(request: Request):
        raise Refusal(503, "busy", "too many.", retry_after=1.2)

    answer = client(echo(monkeypatch, handler=busy)).post(ROUTE)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.5"])
def test_no_service_for_other_machines_without_a_token(host):
    with pytest.raises(ValueError, match=f"Serve listens on {host}"):
        check_exposure(host, None)
    check_exposure(host, "secret")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", None])
def test_this_machine_may_go_without(host):
    check_exposure(host, None)


def test_a_token_from_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv("FT2RAY_TOKEN", raising=False)
    assert FrontSettings().token() is None
    (tmp_path / "token").write_text("secret\n")
    assert FrontSettings(token_file=str(tmp_path / "token")).token() == "secret"
    (tmp_path / "token").write_text("\n")
    for name in ("token", "none"):
        with pytest.raises(ValueError, match="token_file"):
            FrontSettings(token_file=str(tmp_path / name)).token()
