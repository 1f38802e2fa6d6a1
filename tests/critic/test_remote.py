"""A critic behind an endpoint: what is sent there, what comes back, and where there is no score."""

import base64
import io
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from ft2ray.critic import remote
from ft2ray.critic.omni.whole_clip import WholeClip
from ft2ray.critic.remote import KEY, Client, RemoteCritic, endpoint, p_yes
from ft2ray.errors import ConfigurationError, MediaError
from ft2ray.loaders import critic_card, load_critic, load_viewer

ASKED = {"mn": "Is the motion natural?", "vq": "Is the visual quality good?"}


USED = {"usage": {"total_tokens": 100}}


def said(**words):
    """An answer whose first word has these probabilities."""
    likely = [{"token": word, "logprob": math.log(p)} for word, p in words.items()]
    content = [{"token": next(iter(words)), "top_logprobs": likely}]
    message = {"content": next(iter(words))}
    return {"choices": [{"message": message, "logprobs": {"content": content}}], **USED}


@pytest.fixture
def stub(monkeypatch):
    """An endpoint of this machine: `stub.answers` are given in turn, the last one again and again."""
    monkeypatch.delenv(KEY, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.seen.append((self.path, dict(self.headers), json.loads(body)))
            answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
            status, headers, content = answer if isinstance(answer, tuple) else (200, {}, answer)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.answers = [], [said(Yes=0.6, No=0.2)]
    server.at = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def named(stub, limits="per_minute=60000"):
    return f"openai:some-omni@{stub.at}?{limits}"


def clip(grey=100):
    return WholeClip(np.full((3, 28, 28, 3), grey, np.uint8), np.full(4800, 0.5, np.float32), 10.0)


def without_waiting(critic):
    pauses = []
    critic._client.sleep = pauses.append
    return pauses


def test_pictures_sound_and_question_go_there_and_a_probability_comes_back(stub, monkeypatch):
    monkeypatch.setenv(KEY, "a secret")
    critic = load_critic(named(stub), questions=ASKED)
    assert critic.score([clip()]) == pytest.approx(np.full((1, 2), 0.75))
    path, headers, body = stub.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer a secret"
    assert body["model"] == "some-omni" and body["logprobs"] and body["max_tokens"] == 1
    *pictures, sound, text = body["messages"][0]["content"]
    shown = [base64.b64decode(picture["image_url"]["url"].partition(",")[2]) for picture in pictures]
    assert [Image.open(io.BytesIO(data)).size for data in shown] == [(28, 28)] * 3
    assert base64.b64decode(sound["input_audio"]["data"])[:4] == b"RIFF"
    assert {seen[2]["messages"][0]["content"][-1]["text"].split("?")[0] + "?" for seen in stub.seen} == set(
        ASKED.values()
    )
    assert "a secret" not in text["text"] + critic.fingerprint + repr(vars(critic))


def test_what_was_asked_once_is_remembered_so_that_a_health_check_costs_nothing(stub):
    critic = load_critic(named(stub), questions=ASKED)
    first, second = critic.score([clip()]), critic.score([clip()])
    assert len(stub.seen) == 2 and (first == second).all()
    critic.score([clip(101)])
    assert len(stub.seen) == 4


def test_no_more_answers_are_kept_than_a_bound_and_those_asked_for_last_stay(stub, monkeypatch):
    monkeypatch.setattr(remote, "KEPT", 2)
    critic = load_critic(named(stub), questions={"mn": ASKED["mn"]})
    for grey in (1, 2, 1, 3, 1):  # 3 puts 2 out, since 1 was asked for again
        critic.score([clip(grey)])
    assert len(stub.seen) == 3 and len(critic._known) == 2
    critic.score([clip(2)])
    assert len(stub.seen) == 4


def test_card_and_viewer_need_no_endpoint_and_agree_with_the_critic(stub):
    critic = load_critic(named(stub), 8.0, 224, ASKED)
    card = critic_card(named(stub), 8.0, 224, ASKED)
    assert (card.dimensions, card.fingerprint) == (("mn", "vq"), critic.fingerprint)
    assert load_viewer(named(stub), 8.0, 224) == critic.viewer and stub.seen == []
    assert critic_card(named(stub, "tokens=5"), 8.0, 224, ASKED).fingerprint == card.fingerprint
    assert critic_card(named(stub, "sound=false"), 8.0, 224, ASKED).fingerprint != card.fingerprint
    assert critic_card(named(stub), 9.0, 224, ASKED).fingerprint != card.fingerprint


def test_a_model_that_only_sees_gets_no_sound(stub):
    load_critic(named(stub, "sound=false&per_minute=60000"), questions=ASKED).score([clip()])
    assert all(part["type"] != "input_audio" for part in stub.seen[0][2]["messages"][0]["content"])


def test_a_busy_endpoint_is_asked_again_after_the_time_that_it_names(stub):
    critic = RemoteCritic.load(named(stub), questions={"mn": ASKED["mn"]})
    pauses = without_waiting(critic)
    stub.answers = [(429, {"Retry-After": "7"}, {}), (503, {}, {}), said(Yes=0.5, No=0.5)]
    assert critic.score([clip()]) == pytest.approx(np.array([[0.5]]))
    assert [pause for pause in pauses if pause >= 1] == [7.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "asked", "reason"),
    [
        ((500, {}, {"error": "down"}), 3, "gave no answer (500"),
        ((401, {}, {"error": "no such key"}), 1, "no such key"),
        ((302, {"Location": "http://127.0.0.1:9/"}, {}), 1, "gave no answer (302"),
        ({"choices": [{"message": {"refusal": "I judge no faces"}}], **USED}, 1, "I judge no faces"),
        (said(Maybe=0.9), 1, "neither Yes nor No: 'Maybe'"),
        (
            {"choices": [{"message": {"content": "Yes"}, "logprobs": None}], **USED},
            1,
            "no log-probabilities: 'Yes'",
        ),
        ({"choices": [], **USED}, 1, "another form"),
        ({key: value for key, value in said(Yes=1.0).items() if key != "usage"}, 1, "how many tokens"),
        (said(Yes=1.0) | {"usage": {"total_tokens": None}}, 1, "how many tokens"),
        ("text", 1, "another form"),
        ("x" * 2_000_000, 3, "gave no answer"),
    ],
)
def test_without_an_answer_there_is_no_score_but_a_reason(stub, answer, asked, reason):
    critic = RemoteCritic.load(named(stub, "per_minute=60000&retries=2"), questions={"mn": ASKED["mn"]})
    without_waiting(critic)
    stub.answers = [answer]
    with pytest.raises(MediaError) as error:
        critic.score([clip()])
    assert reason in str(error.value) and len(stub.seen) == asked


def test_nobody_there_is_a_reason_too(stub):
    at = endpoint("openai:m@http://127.0.0.1:9/v1?retries=0")
    with pytest.raises(MediaError, match="gave no answer"):
        Client(at, sleep=lambda _: None).ask([])


def test_beyond_its_tokens_nothing_more_is_asked(stub):
    critic = RemoteCritic.load(named(stub, "tokens=150&per_minute=60000"), questions={"mn": ASKED["mn"]})
    critic.score([clip(1)])
    critic.score([clip(2)])
    with pytest.raises(MediaError, match="used up its 150 tokens"):
        critic.score([clip(3)])
    assert len(stub.seen) == 2


def test_requests_keep_their_distance():
    pauses = []
    client = Client(endpoint("openai:m@http://127.0.0.1:9/v1?per_minute=30&retries=2"), sleep=pauses.append)
    with pytest.raises(MediaError):
        client.ask([])
    turns = pauses[1::2]  # after each failure the pause, then the wait for the turn
    assert turns == pytest.approx([2.0, 4.0], abs=0.5)


def test_words_are_found_as_tokenizers_leave_them():
    assert p_yes(said(**{"\u2581Yes": 0.2, " yes": 0.1, "No.": 0.1})) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("openai:model", "openai:MODEL@URL"),
        ("openai:model@ftp://host/v1", "openai:MODEL@URL"),
        ("openai:model@https://me:secret@host/v1", "give the key in FT2RAY_CRITIC_KEY"),
        ("openai:model@https://host/v1?tokens=0", "tokens after the question mark"),
        ("openai:model@https://host/v1?tokens=5&tokens=6", "a limit occurs twice"),
        ("openai:model@https://host/v1?speed=9", "there are per_minute, tokens"),
    ],
)
def test_a_name_that_cannot_be_is_one_sentence(weights, reason):
    with pytest.raises(ConfigurationError) as error:
        load_critic(weights)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_key_does_not_travel_unencrypted(monkeypatch):
    monkeypatch.setenv(KEY, "a secret")
    with pytest.raises(ConfigurationError, match="give an https:// URL"):
        endpoint("openai:model@http://elsewhere.example/v1")
    endpoint("openai:model@http://localhost:8000/v1")
    endpoint("openai:model@https://elsewhere.example/v1")
