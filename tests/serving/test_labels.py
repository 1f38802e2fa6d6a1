"""GET and POST /v1/labels in this process."""

import pytest
from starlette.testclient import TestClient

from ft2ray.labels.answers import Answer, Task, answer_store
from ft2ray.serving.labels import LabelServeConfig, labels_api

TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def client(folder, monkeypatch):
    monkeypatch.setenv("FT2RAY_TOKEN", "secret")
    with TestClient(labels_api(LabelServeConfig(source=str(folder))), headers=TOKEN) as client:
        yield client


def sent(annotator="Anna", **more):
    one = {"clip": "a.mp4", "dimension": "ls", "answer": "yes"} | more
    return {"annotator": annotator, "answers": [one]}


def test_answers_are_kept_once_and_come_back_with_the_agreement(client, folder):
    assert client.post("/v1/labels", json=sent()).json() == {"new": 1, "current": 1}
    assert client.post("/v1/labels", json=sent()).json() == {"new": 0, "current": 1}
    assert client.post("/v1/labels", json=sent(clip="b.mp4", answer="no")).json()["current"] == 2
    client.post("/v1/labels", json=sent("Bob"))
    client.post("/v1/labels", json=sent("Bob", clip="b.mp4"))
    found = client.get("/v1/labels").json()
    assert [(a["annotator"], a["clip"], a["answer"]) for a in found["answers"]] == [
        ("Anna", "a.mp4", "yes"),
        ("Anna", "b.mp4", "no"),
        ("Bob", "a.mp4", "yes"),
        ("Bob", "b.mp4", "yes"),
    ]
    assert found["alpha"]["ls"] == pytest.approx(0.0)


def test_attention_checks_stay_in_the_house(client, folder):
    task = Task("question", "Anna", "ls", "a.mp4", sound="b.mp4", check="wrong_sound")
    answer_store(folder).commit_once([Answer(task, "no", 0, "id").to_row()])
    assert client.get("/v1/labels").json() == {"answers": [], "alpha": {}}


@pytest.mark.parametrize(
    "body, said",
    [
        (sent(clip="../etc/passwd"), "there is no such clip here"),
        (sent(dimension="smell"), "known are ls, mn, vq"),
        (sent(answer="maybe"), "answers.0.answer"),
        (sent(seconds=-1), "answers.0.seconds"),
        (sent("\n"), "annotator"),
        ({"annotator": "Anna", "answers": []}, "answers"),
        (sent() | {"extra": 1}, "extra"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_a_sentence_and_nothing_is_kept(client, body, said):
    answer = client.post("/v1/labels", json=body)
    assert answer.status_code == 422 and said in answer.json()["detail"]
    assert client.get("/v1/labels").json()["answers"] == []


def test_a_clip_that_is_gone_meanwhile_is_not_found(client, folder):
    (folder / "a.mp4").unlink()
    assert client.post("/v1/labels", json=sent()).json()["reason"] == "not_found"


def test_nobody_comes_in_without_the_token(client):
    for method in ("GET", "POST"):
        answer = client.request(method, "/v1/labels", json=sent(), headers={"Authorization": "Bearer wrong"})
        assert answer.status_code == 401
