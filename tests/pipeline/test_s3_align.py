"""A whole align with its media, its run folder and its report on S3, while the server goes and comes back."""

import html
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import pytest

from ft2ray.observe.status import read_status
from ft2ray.run import Run, read_groups
from ft2ray.storage import join, list_files, read_bytes, upload_folder, versions
from tests.conftest import ASSETS
from tests.observe.test_tensorboard import read as read_events
from tests.pipeline.whole_run import GROUPS, SETTINGS, SYSTEMS, TWO_ROUNDS
from tests.runs import changed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

STEPS = 8  # of the experts, in two rounds
OUTAGE_SECONDS = 8.0
WAIT = 1500.0  # seconds, on a machine that is busy with other things


def start(run_dir: str, media: str) -> subprocess.Popen:
    places = [f"run_dir={run_dir}", f"prompts.portraits={media}/portraits", f"prompts.speech={media}/speech"]
    command = [
        sys.executable,
        "-m",
        "ft2ray.cli",
        "align",
        *places,
        *changed(SETTINGS, *TWO_ROUNDS, f"tlpo.steps={STEPS}"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, output[-3000:]
    return output


def outage_when(process: subprocess.Popen, server, reached: Callable[[], bool]) -> None:
    """The server stops at once as soon as `reached` holds, and comes back after a while."""
    deadline = time.monotonic() + WAIT
    while not reached():
        assert process.poll() is None, process.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    server.stop()
    try:
        time.sleep(OUTAGE_SECONDS)
    finally:
        server.start()
    assert process.poll() is None, "the run ended with the outage"


def test_an_align_on_s3_outlives_outages_and_ends_in_a_report_that_opens(s3, s3_server, tmp_path):
    run_dir, media = f"{s3}/run", f"{s3}/media"
    for kind in ("portraits", "speech"):
        upload_folder(ASSETS / kind, join(media, kind), last="")

    def groups() -> list[str]:
        return list_files(join(run_dir, "store", "groups"), ".parquet")

    def trained() -> bool:
        (progress,) = list_files(join(run_dir, "train"), ".progress.json") or [None]
        return progress is not None and json.loads(read_bytes(join(run_dir, "train", progress)))["step"] >= 2

    process = start(run_dir, media)
    outage_when(process, s3_server, lambda: len(groups()) >= 1)
    assert len(groups()) < GROUPS, "the outage came after the curation"
    outage_when(process, s3_server, trained)
    last = list_files(join(run_dir, "policies"), "-2/policy.json", recursive=True)
    assert not last, "the outage came after the training"
    output = finish(process)
    assert f"{run_dir}/report.html" in output.splitlines()[-1]

    found = read_groups(run_dir)
    wanted = {prompt.prompt_id for prompt in Run.open(run_dir).plan.curation}
    assert {(group.round, group.prompt_id) for group in found} == {(r, p) for r in (0, 1) for p in wanted}
    assert len(groups()) == len(found) == GROUPS, "a gap, or a group twice"
    assert all(c.scores is not None for group in found for c in group.candidates)

    status = read_status(run_dir)
    assert status.finished and status.step == status.last_step and status.policies == 2
    report = json.loads(read_bytes(join(run_dir, "report.json")))
    assert set(report["systems"]) == SYSTEMS
    page = read_bytes(join(run_dir, "report.html")).decode()
    links = {html.unescape(link) for link in re.findall(r'href="(http[^"]*X-Amz[^"]*)"', page)}
    names = {link.partition("?")[0].rpartition("/")[2] for link in links}
    assert {"policy.json", "config.yaml"} <= names
    for link in links:
        with urllib.request.urlopen(link, timeout=60) as answer:
            assert answer.status == 200 and answer.read(1)

    scalars = read_events(join(run_dir, "tensorboard"), tmp_path)
    steps = [event.step for event in scalars.Scalars("mn/loss")]
    tlpo = Run.open(run_dir).config.tlpo
    expected = [step for step in range(status.last_step) if not tlpo.gate_learns(step, rounds=2)]
    assert steps == expected and len(steps) == STEPS, "a step is missing, or there twice"
    ends = [tlpo.last_step(round, rounds=2) for round in range(2)]
    assert [event.step for event in scalars.Images("gate/mn")] == ends
    clips = read_events(join(run_dir, "tensorboard", "clips"), tmp_path).Tags()["images"]
    assert {clip.partition("/")[0] for clip in clips} == SYSTEMS

    made = {place: versions(join(run_dir, place)) for place in ("store", "policies", "train")}
    policy = Run.open(run_dir).current_policy
    finish(start(run_dir, media))
    again = {place: versions(join(run_dir, place)) for place in made}
    assert again == made and Run.open(run_dir).current_policy == policy, "a finished run made something again"
