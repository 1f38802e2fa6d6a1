"""Scores over HTTP: real replicas, real sockets."""

import contextlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import numpy as np
import pytest

from ft2ray.critic.talking.view import TalkingViewer
from ft2ray.errors import CriticError
from ft2ray.loaders import load_critic
from ft2ray.media.video import FPS, read_video
from ft2ray.pipeline.critic_service import score_views
from ft2ray.serving.front import DEADLINE_HEADER
from tests.serving import stubs
from tests.serving.conftest import TOKEN

pytestmark = pytest.mark.ray

ROUTE = "/v1/score"


def upload(client, path, **headers):
    with open(path, "rb") as file:
        return client.post(ROUTE, files={"video": (path.name, file, "video/mp4")}, headers=headers)


@pytest.fixture(autouse=True)
def quick_again(platform):
    """Whatever a test tells the critic ends with it."""
    stubs.tell(platform.told, 0.0)


def test_an_uploaded_clip_gets_what_the_critic_says_of_it(platform, media, mesher):
    with platform.client() as client:
        answer = upload(client, media / "clip.mp4")
    assert answer.status_code == 200, answer.text
    frames_FHW3, wav_T = read_video(media / "clip.mp4")
    critic = load_critic("embedded")
    (p_K,) = critic.score([TalkingViewer().view(frames_FHW3, wav_T, FPS, mesher)])
    body = answer.json()
    np.testing.assert_allclose([body["p_yes"][name] for name in critic.dimensions], p_K, atol=1e-5)
    assert body["answers"] == {name: "Yes" if p > 0.5 else "No" for name, p in body["p_yes"].items()}
    assert (body["critic"], body["seconds"]) == (critic.fingerprint, 1.2)


def test_a_reference_is_the_same_as_its_file(platform, media):
    with platform.client() as client:
        by_file = upload(client, media / "clip.mp4")
        by_reference = client.post(ROUTE, json={"video": str(media / "clip.mp4")})
    assert by_reference.status_code == 200 and by_reference.json() == by_file.json()


def test_nothing_outside_the_stores_can_be_referred_to(platform, media, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_bytes((media / "clip.mp4").read_bytes())
    link = media / "link.mp4"
    link.symlink_to(secret)
    refused = [
        f"{media}/../{secret.parent.name}/secret.mp4",
        str(secret),
        str(link),
        f"file://{media}/clip.mp4",
        "http://127.0.0.1:80/clip.mp4",
        f"{media}\x00/clip.mp4",
        "s3://bucket/clip.mp4",
        "clip.mp4",
    ]
    with platform.client() as client:
        answers = [client.post(ROUTE, json={"video": url}) for url in refused]
    assert [a.status_code for a in answers] == [422] * len(refused)
    assert {a.json()["reason"] for a in answers} == {"bad_reference", "store_not_allowed"}


@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x"])
def test_without_the_token_there_is_no_answer(platform, media, token):
    with platform.client(token) as client:
        answer = upload(client, media / "clip.mp4")
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.get("/v1/score/docs").status_code == 200


def test_unusable_media_is_named_and_never_scored(platform, media, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("no video at all " * 100)
    playlist = tmp_path / "playlist.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\nfile://{media}/clip.mp4\n")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((media / "clip.mp4").read_bytes()[:20000])
    with platform.client() as client:
        answers = {path.name: upload(client, path) for path in (text, playlist, cut, media / "long.mp4")}
    reasons = {name: (a.status_code, a.json()["reason"]) for name, a in answers.items()}
    assert reasons == {
        "text.mp4": (422, "unreadable"),
        "playlist.mp4": (422, "unreadable"),
        "cut.mp4": (422, "unreadable"),
        "long.mp4": (422, "too_long"),
    }
    assert not any("p_yes" in a.text for a in answers.values())


def test_a_body_that_says_it_is_too_large_is_refused_unread(platform, tmp_path):
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(1_200_000))
    with platform.client() as client:
        answer = upload(client, large)
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")


def test_reading_stops_at_the_limit(platform):
    """A body without an end: the answer comes while it is still being sent."""
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    sent, answered = 0, threading.Event()

    def send_for_ever(link):
        nonlocal sent
        with contextlib.suppress(OSError):  # closed at the other end
            link.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
            while not answered.is_set():
                link.sendall(b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16)))
                sent += 1 << 16

    with socket.create_connection(("127.0.0.1", platform.port), timeout=30) as link:
        sender = threading.Thread(target=send_for_ever, args=[link])
        sender.start()
        answer = link.recv(4096)
        answered.set()
        sender.join()
    assert answer.startswith(b"HTTP/1.1 413"), answer
    assert 1e6 < sent < 500e6


def many_tiny_frames(path, frames):
    """A second of VP9 in which `frames` packets say that nothing has changed."""
    with av.open(str(path), "w", format="webm") as out:
        stream = out.add_stream("libvpx-vp9", rate=25, options={"deadline": "realtime", "lag-in-frames": "0"})
        stream.width, stream.height, stream.pix_fmt = 2048, 1152, "yuv420p"
        packets = []
        for index in range(4):
            picture = av.VideoFrame(2048, 1152, "yuv420p")
            for plane in picture.planes:
                plane.update(bytes(plane.buffer_size))
            picture.pts = index
            packets += stream.encode(picture)
        for packet in packets[:-1]:
            out.mux(packet)
        for index in range(frames):
            packet = av.Packet(bytes(packets[-1]))
            packet.stream, packet.time_base = stream, Fraction(1, 100_000)
            packet.pts = packet.dts = 16_000 + index
            out.mux(packet)
    return path


def test_a_clip_of_thousands_of_tiny_frames_holds_up_nobody(platform, media, tmp_path):
    bomb = many_tiny_frames(tmp_path / "bomb.webm", 12_000)
    assert bomb.stat().st_size < 1e6
    with platform.client() as client, ThreadPoolExecutor(2) as pool:
        bombs = [pool.submit(upload, client, bomb, **{DEADLINE_HEADER: "4"}) for _ in range(2)]
        time.sleep(0.3)
        answers = [upload(client, media / "clip.mp4", **{DEADLINE_HEADER: "40"}) for _ in range(3)]
        ended = [(b.result().status_code, b.result().json()["reason"]) for b in bombs]
    assert [a.status_code for a in answers] == [200] * 3, [a.text for a in answers]
    assert all(status in (422, 503, 504) for status, _ in ended), ended


def test_slow_senders_hold_up_nobody(platform, media):
    """30 connections, of which only two could have been worked on and one could have waited."""
    head = (
        f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 900000\r\n\r\n--b"
    )
    with contextlib.ExitStack() as links, platform.client() as client:
        slow = [
            links.enter_context(socket.create_connection(("127.0.0.1", platform.port), timeout=60))
            for _ in range(30)
        ]
        for link in slow:
            link.sendall(head.encode())
        answers = []
        for _ in range(3):
            for link in slow:
                link.sendall(b"-")
            answers.append(upload(client, media / "clip.mp4"))
        assert [a.status_code for a in answers] == [200] * 3, [a.text for a in answers]
        assert slow[0].recv(4096).startswith(b"HTTP/1.1 408")  # broken off by then, or soon


def test_a_json_body_of_many_megabytes_is_not_read(platform, media):
    """References need some kB; this one is refused by its own limit, not by that of files."""
    body = b'{"video":[' + b"{}," * 300_000 + b"{}]}"
    assert len(body) < 1e6
    headers = {"Content-Type": "application/json"}
    with platform.client() as client:
        answer = client.post(ROUTE, content=body, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (413, "too_large")


def test_a_missed_deadline_is_said_in_time(platform, media):
    stubs.tell(platform.told, 3.0)
    began = time.monotonic()
    with platform.client() as client:
        answer = upload(client, media / "clip.mp4", **{DEADLINE_HEADER: "1.5"})
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline")
    assert time.monotonic() - began < 2.5


def test_when_too_many_wait_the_rest_is_told_to_come_back(platform, media):
    stubs.tell(platform.told, 1.0)
    with platform.client() as client, ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: upload(client, media / "clip.mp4"), range(10)))
    busy = [a for a in answers if a.status_code == 503]
    assert sorted({a.status_code for a in answers}) == [200, 503]
    assert len(busy) >= 5 and all(a.headers["Retry-After"] == "3" for a in busy)


def test_clips_are_scored_in_batches_of_bounded_frames(platform, media, mesher):
    from ray import serve

    frames_FHW3, wav_T = read_video(media / "clip.mp4")
    view = TalkingViewer().view(frames_FHW3, wav_T, FPS, mesher)
    stubs.tell(platform.told, 0.3)
    handle = serve.get_deployment_handle("TalkingCritic", app_name="critic")
    calls = [handle.score.remote(view) for _ in range(12)]
    one_p_K = load_critic("embedded").score([view])[0]
    for call in calls:
        np.testing.assert_allclose(call.result(timeout_s=30), one_p_K, atol=1e-5)
    batches = [(batch["clips"], batch["frames"]) for batch in stubs.asked(platform.told)]
    # 100 frames at most: three clips of 30
    assert max(batches) == (3, 90) and sum(clips for clips, _ in batches) == 12 and len(batches) <= 6


def test_a_critic_that_is_not_the_runs_ends_the_curation(platform, media, mesher):
    from ray import serve

    frames_FHW3, wav_T = read_video(media / "clip.mp4")
    view = TalkingViewer().view(frames_FHW3, wav_T, FPS, mesher)
    handle = serve.get_deployment_handle("TalkingCritic", app_name="critic")
    ((p_K, error),) = score_views(handle, [view], 30.0, 0, load_critic("embedded").fingerprint)
    assert len(p_K) == 3 and error is None
    with pytest.raises(CriticError, match="weights have changed"):
        score_views(handle, [view], 30.0, 0, "another")


def test_a_killed_critic_costs_time_and_no_answer(platform, media):
    stubs.tell(platform.told, 2.0)
    with platform.client() as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(upload, client, media / "clip.mp4")
        until = time.monotonic() + 20
        while not (asked := stubs.asked(platform.told)) and time.monotonic() < until:
            time.sleep(0.05)
        stubs.tell(platform.told, 0.0)
        os.kill(asked[0]["pid"], signal.SIGKILL)
        answer = waiting.result()
        again = upload(client, media / "clip.mp4")
    assert (answer.status_code, again.status_code) == (200, 200), answer.text
    assert answer.json() == again.json()
    assert asked[0]["pid"] not in {batch["pid"] for batch in stubs.asked(platform.told)}
