"""The README's serving commands as they stand there, beside another service and a run."""

import json
import re
import shlex
import time
import urllib.request

import pytest
import ray
import yaml

from ft2ray.pipeline.cluster import ray_cluster
from tests.ray_head import RayHead
from tests.serving.conftest import PORTRAIT, ROOT, SPEECH, free_port

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]
SECONDS = 600


def commands() -> list[str]:
    """Those of the section that reach a running head; the test starts heads itself, on free ports."""
    section = (ROOT / "docs" / "serving.md").read_text()
    return re.findall(r"^    (.+?)(?:\s{2,}#.*)?$", section, re.M)


def test_the_section_starts_ray_with_a_token():
    first, token, start, deploy, *_ = commands()
    assert "RAY_AUTH_MODE=token" in first and "get-auth-token --generate" in token
    assert start == "ray start --head" and deploy == "serve deploy serve/platform.yaml"


def deployed(head: RayHead, folder) -> int:
    """Run `serve deploy` against the head, as the README does; returns the HTTP port once all is running."""
    tree = yaml.safe_load((ROOT / "serve" / "platform.yaml").read_text())
    tree["http_options"]["port"] = port = free_port()
    (folder / "platform.yaml").write_text(yaml.safe_dump(tree))
    (command,) = (c for c in commands() if c.startswith("serve deploy"))
    command = command.replace("serve/platform.yaml", str(folder / "platform.yaml"))
    done = head.run(*shlex.split(command), RAY_DASHBOARD_ADDRESS=head.dashboard)
    assert done.returncode == 0, done.stdout
    until = time.monotonic() + SECONDS
    while set(states(head).values()) != {"RUNNING"}:
        assert time.monotonic() < until, head.get("/api/serve/applications/")
        time.sleep(1)
    return port


def states(head: RayHead) -> dict[str, str]:
    found = head.get("/api/serve/applications/")["applications"]
    return {name: application["status"] for name, application in found.items()} or {"none": "absent"}


def test_two_services_a_run_and_their_heads_do_not_meet(tmp_path):
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with (
        RayHead(["--num-cpus=4"], environment, token="one") as one,
        RayHead(["--num-cpus=4"], environment, token="two") as two,
        ray_cluster(),
    ):
        ports = [deployed(head, folder) for head, folder in zip((one, two), folders, strict=True)]
        assert len(ray.nodes()) == 1 and not ray.util.list_named_actors(all_namespaces=True)
        for port in ports:
            page = f"http://127.0.0.1:{port}/v1/generate/openapi.json"
            with urllib.request.urlopen(page, timeout=60) as answer:
                assert json.load(answer)["info"]["title"] == "Portrait generator"
        (curl,) = (c for c in commands() if c.startswith("curl") and "/v1/generate" in c)
        for given, meant in (("ada.jpg", PORTRAIT), ("one.wav", SPEECH), ("clip.mp4", tmp_path / "clip.mp4")):
            curl = curl.replace(given, str(meant))
        made = one.run(*shlex.split(curl.replace(":8000", f":{ports[0]}")))
        assert made.returncode == 0 and (tmp_path / "clip.mp4").stat().st_size > 10_000, made.stdout
