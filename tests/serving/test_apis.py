"""Both applications without Ray: what they answer, and that their pages say so."""

import asyncio
import inspect
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
import yaml
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema
from starlette.testclient import TestClient

from ft2ray import storage
from ft2ray.media.audio import read_audio
from ft2ray.media.generated_clip import GeneratedClip
from ft2ray.pipeline.critic_service import CriticService
from ft2ray.serving import critic, generator, uploads
from ft2ray.serving.critic import critic_api
from ft2ray.serving.front import DEADLINE_HEADER, REFUSALS
from ft2ray.serving.generator import GenerateAnswer, GenerateRequest, generator_api
from ft2ray.serving.messages import State
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import CriticServeConfig, GeneratorServeConfig
from tests.critic.omni_toys import write_thinker
from tests.serving.conftest import PORTRAIT, ROOT, SPEECH

CLIP = GeneratedClip(b"a clip", 50, 2.0, "tlpo", "0123", "4567")


def made(*events):
    """A generator that yields `events`, and what it was asked."""
    asked = []

    async def generate(order):
        asked.append(order)
        for event in events:
            if isinstance(event, BaseException) and not isinstance(event, Refusal):
                raise event
            yield event

    return generate, asked


class InThisProcess:
    """Decoders without child processes, which tests/serving/test_decoding.py has."""

    def __init__(self, prepare, _settings):
        self.prepare, self.work = prepare, None

    async def __call__(self, *given):
        self.work = self.work or self.prepare()
        return self.work(*given)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    for module in (critic, generator):
        monkeypatch.setattr(module, "Decoders", InThisProcess)


async def state():
    return State(policy="base", refused=None)


async def fingerprint():
    return "critic"


def deaths():
    return ["TalkingCritic died once"]


def api(settings, generate):
    return generator_api(settings, 256, generate, state, deaths)


def scoring(settings, judge):
    return critic_api(settings, judge, fingerprint, deaths)


def client(settings, *events):
    generate, asked = made(*events)
    return TestClient(api(settings, generate), raise_server_exceptions=False), asked


def files():
    return {"portrait": PORTRAIT.read_bytes(), "audio": SPEECH.read_bytes()}


def test_everything_that_is_asked_reaches_the_generator(hopper):
    http, asked = client(GeneratorServeConfig(), CLIP)
    fields = {"seed": "3", "system": "uniform", "weights": '{"ls": 2}', "audio_scale": "4.5", "steps": "7"}
    answer = http.post("/v1/generate", files=files(), data=fields)
    assert answer.status_code == 200 and answer.content == b"a clip"
    (order,) = asked
    assert (order.seed, order.system, order.weights, order.audio_scale, order.steps) == (
        3,
        "uniform",
        {"ls": 2.0},
        4.5,
        7,
    )
    assert (
        order.portrait.image_HW3.shape == (256, 256, 3) and order.portrait.portrait_id == hopper.portrait_id
    )
    np.testing.assert_array_equal(order.wav_T, read_audio(SPEECH))


def test_a_clip_in_an_s3_store_comes_with_a_link_for_anybody(s3):
    stores = (storage.join(s3, "media"),)
    references = {"portrait": storage.join(stores[0], "a.jpg"), "audio": storage.join(stores[0], "b.flac")}
    for name, data in files().items():
        storage.write_atomically(references[name], data)
    settings = GeneratorServeConfig(stores=stores, result_store=storage.join(s3, "results"))
    http, asked = client(settings, ("encoding", 0.0), CLIP)
    answer = http.post("/v1/generate", json=references | {"result": "reference", "weights": {"mn": 1.5}})
    assert answer.status_code == 200, answer.text
    assert asked[0].wav_T.size == read_audio(SPEECH).size and asked[0].weights == {"mn": 1.5}
    kept = GenerateAnswer(**answer.json())
    assert storage.read_bytes(kept.url) == b"a clip" and kept.seconds == 2.0
    assert httpx2.get(kept.link).content == b"a clip"
    lines = http.post("/v1/generate", json=references | {"result": "progress"}).text.splitlines()
    assert json.loads(lines[0]) == {"state": "encoding", "share": 0.0}
    assert json.loads(lines[1])["url"] == kept.url  # the same clip is kept once


@pytest.mark.parametrize("result", ["mp4", "reference", "progress"])
def test_a_failure_is_never_a_clip(tmp_path, result):
    settings = GeneratorServeConfig(result_store=str(tmp_path))
    refusal = Refusal(422, "no_face", "no face.")
    for events, status, reason in (
        ([refusal], 422, "no_face"),
        ([RuntimeError("broken")], 500, "internal"),
    ):
        answer = client(settings, *events)[0].post("/v1/generate", files=files(), data={"result": result})
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_ends_the_lines(tmp_path):
    settings = GeneratorServeConfig(result_store=str(tmp_path))
    for failure, reason in (
        (Refusal(503, "replica_died", "gone."), "replica_died"),
        (OSError("full"), "internal"),
    ):
        http, _ = client(settings, ("sampling", 0.5), failure)
        answer = http.post("/v1/generate", files=files(), data={"result": "progress"})
        *_, last = map(json.loads, answer.text.splitlines())
        assert (last["state"], last["reason"]) == ("failed", reason) and "full" not in answer.text


@pytest.mark.parametrize("result", ["reference", "progress"])
def test_a_store_that_takes_no_clip_is_no_mystery(s3, monkeypatch, caplog, result):
    """Its owner finds in the log, under the id of the answer, what to check; the client reads no endpoint."""
    http, _ = client(GeneratorServeConfig(result_store=storage.join(s3, "results")), ("encoding", 0.0), CLIP)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    answer = http.post("/v1/generate", files=files(), data={"result": result})
    problem = json.loads(answer.text.splitlines()[-1])
    assert answer.status_code == (502 if result == "reference" else 200)
    assert problem["reason"] == "store_refuses" and "s3" not in problem["detail"]
    found = problem["detail"].removesuffix(".").rsplit(" ", 1)[1]
    assert f"{found}: " in caplog.text and "credentials" in caplog.text


def test_lines_of_progress_keep_the_deadline_and_name_it(tmp_path):
    async def generate(order):
        yield "sampling", 0.0
        await asyncio.sleep(5)

    settings = GeneratorServeConfig(result_store=str(tmp_path))
    http = TestClient(api(settings, generate))
    answer = http.post(
        "/v1/generate", files=files(), data={"result": "progress"}, headers={DEADLINE_HEADER: "0.5"}
    )
    first, last = map(json.loads, answer.text.splitlines())
    assert first["state"] == "sampling" and last["reason"] == "deadline" and "0.5 s" in last["detail"]


def test_a_store_that_does_not_answer_keeps_nobody_elses_clip(media, monkeypatch):
    """Threads wait for stores; the one that looks at clips does not."""
    released = threading.Event()
    here = uploads.references.fetch

    def fetch(url, *limits):
        if url.startswith("s3://"):
            assert released.wait(60)
        return here(url, *limits)

    monkeypatch.setattr(uploads.references, "fetch", fetch)

    async def judge(view):
        return {"mn": 0.5}, "critic"

    api = scoring(CriticServeConfig(stores=(str(media), "s3://silent")), judge)
    with TestClient(api) as http, ThreadPoolExecutor(1) as pool:  # both in one event loop
        silent = pool.submit(http.post, "/v1/score", json={"video": "s3://silent/clip.mp4"})
        time.sleep(0.5)
        answer = http.post("/v1/score", json={"video": str(media / "clip.mp4")})
        assert answer.status_code == 200 and not silent.done()
        released.set()


def test_a_full_size_critic_sees_what_the_settings_say(media, tmp_path):
    """The front, which makes the view, and the critic, which is told the same."""
    settings = CriticServeConfig(
        weights=str(write_thinker(tmp_path / "base")), fps=8.0, pixels=56, stores=(str(media),)
    )
    seen = []

    async def judge(view):
        seen.append(view)
        return {"mn": 0.5}, "critic"

    http = TestClient(scoring(settings, judge))
    assert http.post("/v1/score", json={"video": str(media / "clip.mp4")}).status_code == 200
    assert seen[0].frames == round(1.2 * 8.0) and seen[0].frames_FHW3.shape[1:3] == (56, 56)
    _, behind = critic.build(settings)._bound_deployment.init_args
    told = inspect.signature(CriticService.func_or_class).bind(*behind._bound_deployment.init_args)
    assert (told.arguments["fps"], told.arguments["pixels"]) == (8.0, 56)


def test_without_a_store_only_the_clip_itself_can_be_had():
    for result in ("reference", "progress"):
        http, asked = client(GeneratorServeConfig(), CLIP)
        answer = http.post("/v1/generate", files=files(), data={"result": result})
        assert (answer.status_code, answer.json()["reason"]) == (422, "no_result_store") and not asked


def pages():
    async def judge(view):
        raise AssertionError

    yield TestClient(scoring(CriticServeConfig(), judge)), "/v1/score"
    yield client(GeneratorServeConfig())[0], "/v1/generate"


def test_the_health_pages_say_what_is_at_work_and_which_replicas_died(monkeypatch):
    said = [http.get(f"{route}/health").json() for http, route in pages()]
    assert said[0] == {"critic": "critic", "deaths": deaths()}
    assert said[1] == {"policy": "base", "refused": None, "deaths": deaths()}


def test_a_health_page_without_a_replica_says_which_have_died(monkeypatch):
    async def silence():
        await asyncio.sleep(60)

    monkeypatch.setattr("ft2ray.serving.deaths.HEALTH_SECONDS", 0.05)
    answer = TestClient(critic_api(CriticServeConfig(), None, silence, deaths)).get("/v1/score/health")
    assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
    assert answer.json()["detail"].endswith("none is ready; ask again later. TalkingCritic died once.")


def test_the_pages_describe_both_bodies_with_examples_that_are_valid():
    for http, route in pages():
        page = http.get(f"{route}/openapi.json").json()
        post = page["paths"][route]["post"]
        content = post["requestBody"]["content"]
        assert set(content) == {"multipart/form-data", "application/json"}
        binary = [
            n
            for n, p in content["multipart/form-data"]["schema"]["properties"].items()
            if p.get("format") == "binary"
        ]
        assert binary == (["video"] if route == "/v1/score" else ["portrait", "audio"])
        assert set(post["responses"]) == {"200", *map(str, REFUSALS)}
        assert post["security"] == [{"HTTPBearer": []}]
        for example in content["application/json"]["examples"].values():
            assert set(example["value"]) <= set(content["application/json"]["schema"]["properties"])
    GenerateRequest(**example["value"])


def test_the_config_file_fits_the_applications():
    tree = yaml.safe_load((ROOT / "serve" / "platform.yaml").read_text())
    schema = ServeDeploySchema.model_validate(tree)
    assert schema.http_options.host == "127.0.0.1"
    assert {a.name: a.route_prefix for a in schema.applications} == {
        "critic": "/v1/score",
        "generator": "/v1/generate",
    }
    for application in tree["applications"]:
        module, _, name = application["import_path"].partition(":")
        build = getattr(__import__(module, fromlist=[name]), name)
        app = call_user_app_builder_with_args_if_necessary(
            build, application["args"]
        )  # as `serve deploy` does
        built = build_app(app, name=application["name"])
        there = {deployment.name for deployment in built.deployments}
        assert {deployment["name"] for deployment in application.get("deployments", ())} <= there


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="max_second"):
        CriticServeConfig(max_second=3)
