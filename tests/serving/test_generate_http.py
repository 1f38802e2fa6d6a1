"""Clips over HTTP: real replicas, real sockets."""

import contextlib
import hashlib
import json
import shutil
import threading
import time

import httpx2
import numpy as np
import pytest

from ft2ray.media.audio import read_audio
from ft2ray.media.video import read_video
from ft2ray.run import Run
from ft2ray.serving.front import DEADLINE_HEADER
from ft2ray.tlpo.policy import save_policy
from tests.serving.conftest import PORTRAIT, SPEECH, random_policy

pytestmark = pytest.mark.ray

ROUTE = "/v1/generate"


def ask(client, media, audio="one.wav", headers=None, **fields):
    with open(PORTRAIT, "rb") as portrait, open(media / audio, "rb") as sound:
        files = {"portrait": ("a.jpg", portrait), "audio": ("b.wav", sound)}
        return client.post(ROUTE, files=files, data=fields, headers=headers)


def test_a_clip_comes_back_with_its_sound(platform, media, animator, tmp_path):
    with platform.client() as client:
        answer = ask(client, media, seed="7")
    assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4", answer.text
    made = {name: answer.headers[f"X-FT2Ray-{name}"] for name in ("Frames", "Seed", "System", "Policy")}
    assert made == {"Frames": "25", "Seed": "7", "System": "base", "Policy": "base"}
    assert answer.headers["X-FT2Ray-Generator"] == animator.generator.fingerprint
    (tmp_path / "clip.mp4").write_bytes(answer.content)
    frames_FHW3, wav_T = read_video(tmp_path / "clip.mp4")
    assert frames_FHW3.shape == (25, 256, 256, 3)
    said_T = read_audio(media / "one.wav")
    assert np.corrcoef(wav_T[: len(said_T)], said_T)[0, 1] > 0.95


def test_a_long_job_tells_its_progress_and_then_where_the_clip_is(platform, media):
    with platform.client() as client:
        answer = ask(client, media, result="progress", seed="3")
        same = ask(client, media, result="reference", seed="3")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["state"] for line in lines] == ["encoding", *["sampling"] * 3, "decoding", "done"]
    assert [line["share"] for line in lines if line["state"] == "sampling"] == [0.0, 0.5, 1.0]
    assert same.json() == {name: value for name, value in lines[-1].items() if name != "state"}
    (kept,) = platform.results.glob("*.mp4")
    assert same.json()["url"] == str(kept)
    frames_FHW3, wav_T = read_video(kept)
    assert len(frames_FHW3) == 25 and wav_T is not None


def test_health_says_which_policy_is_at_work(platform):
    with platform.client() as client:
        answer = client.get(f"{ROUTE}/health")
    assert answer.status_code == 200 and answer.json() == {"policy": "base", "refused": None, "deaths": []}
    with platform.client(None) as client:
        assert client.get(f"{ROUTE}/health").status_code == 401


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"system": "tlpo"}, "not_possible"),
        ({"weights": '{"mn": 9}'}, "bad_field"),
        ({"weights": "{"}, "bad_field"),
        ({"weights": '{"mn": NaN}'}, "bad_field"),
        ({"seed": "-1"}, "bad_field"),
        ({"seed": str(2**32)}, "bad_field"),
        ({"steps": "1000"}, "too_many_steps"),
        ({"audio": "one.wav", "result": "gif"}, "bad_field"),
    ],
)
def test_what_can_not_be_done_is_refused_with_its_reason(platform, media, fields, reason):
    with platform.client() as client:
        answer = ask(client, media, **fields)
    assert (answer.status_code, answer.json()["reason"]) == (422, reason), answer.text


def test_a_refused_portrait_is_no_clip(platform, media):
    with platform.client() as client, open(media / "one.wav", "rb") as sound:
        answer = client.post(ROUTE, files={"portrait": sound, "audio": sound})
    assert (answer.status_code, answer.json()["reason"]) == (422, "unreadable")


def test_a_missed_deadline_stops_the_work(platform, media):
    began = time.monotonic()
    with platform.client() as client:
        late = ask(client, media, headers={DEADLINE_HEADER: "0.4"}, steps="50")
        assert late.status_code == 504 and time.monotonic() - began < 10.0
        stream = ask(
            client,
            media,
            headers={DEADLINE_HEADER: "1.0"},
            steps="50",
            audio_scale="3",
            result="progress",
        )
        last = json.loads(stream.text.splitlines()[-1])
        # On a busy machine the deadline may pass before the first line, and then there is no stream.
        assert last["reason"] == "deadline" and (stream.status_code == 504 or last["state"] == "failed")


@pytest.mark.parametrize("result", ["mp4", "progress"])
def test_a_client_that_leaves_stops_the_work(platform, media, result):
    """Its clip would keep the only worker for many times as long."""
    slow = {"steps": "50", "result": result, "audio_scale": "3"}
    began = time.monotonic()
    with platform.client() as client:
        assert ask(client, media, SPEECH, **slow).status_code == 200
        undisturbed = time.monotonic() - began
    with platform.client() as client, contextlib.suppress(httpx2.ReadTimeout):
        client.timeout = 0.2 * undisturbed
        files = {"portrait": PORTRAIT.read_bytes(), "audio": SPEECH.read_bytes()}
        with client.stream("POST", ROUTE, files=files, data=slow) as answer:
            next(answer.iter_lines())  # only progress has begun by now
    began = time.monotonic()
    with platform.client() as client:
        assert ask(client, media).status_code == 200
    assert time.monotonic() - began < 0.5 * undisturbed


def test_a_new_policy_is_taken_in_without_losing_a_request(platform, media, animator):
    run = platform.run_dir
    policies = [random_policy(animator, seed) for seed in (1, 2)]
    old, new = (save_policy(run / "policies" / f"p{n}", policy) for n, policy in enumerate(policies, 1))
    Run.open(run).publish(run / "policies" / "p1")
    answers, lock, stop = [], threading.Lock(), threading.Event()

    def keep_asking():
        with platform.client() as client:
            while not stop.is_set():
                answer = ask(client, media, seed="5")
                with lock:
                    answers.append(answer)

    def wait_for(policy, count):
        until = time.monotonic() + 120
        while sum(a.headers.get("X-FT2Ray-Policy") == policy for a in list(answers)) < count:
            assert time.monotonic() < until, [a.headers.get("X-FT2Ray-Policy") for a in answers]
            time.sleep(0.05)

    threads = [threading.Thread(target=keep_asking) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_for(old, 2)
        shutil.copytree(run / "policies" / "p2", run / "policies" / "half")
        weights = next((run / "policies" / "half").rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
        Run.open(run).publish(run / "policies" / "half")  # no policy: the one at work stays
        wait_for(old, sum(a.headers["X-FT2Ray-Policy"] == old for a in list(answers)) + 4)
        with platform.client() as client:
            until = time.monotonic() + 120
            while (health := client.get(f"{ROUTE}/health")).status_code == 503:
                assert time.monotonic() < until  # all replicas are at work
        assert health.json()["policy"] == old and health.json()["refused"].startswith("half: ")
        Run.open(run).publish(run / "policies" / "p2")
        wait_for(new, 3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [a.status_code for a in answers] == [200] * len(answers)
    seen = {(a.headers["X-FT2Ray-Policy"], hashlib.sha256(a.content).hexdigest()) for a in answers}
    assert {policy for policy, _ in seen} - {"base"} == {old, new}
    with platform.client() as client:
        unknown = ask(client, media, weights='{"xx": 1}')
    assert (unknown.status_code, unknown.json()["reason"]) == (422, "not_possible")
    # one portrait, recording and seed: each policy makes one clip, never a mixture of two
    assert len({digest for _, digest in seen}) == len(seen) == len({policy for policy, _ in seen})
