"""`ray job submit` on a cluster with token authentication: what arrives, what is refused, what is told."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from ft2ray.pipeline.memory import EMBEDDED
from tests.ray_head import RAY, RayHead
from tests.runs import changed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-that-only-these-tests-know"
SETTINGS = [
    "generator.sampling.steps=2",
    "prompts.curation_prompts=3",
    "prompts.evaluation_prompts=1",
    "curation.candidates=2",
    "pairs.margin=0.0",
    "tlpo.experts.rank=2",
    "tlpo.batch=2",
    "tlpo.steps=2",
    "tlpo.gate_steps=1",
    "resources.pools.training.count=1",
    "resources.pools.generators.count=1",
    "evaluation.seeds=[0]",
    "evaluation.systems=[base,tlpo]",
    "evaluation.report_videos=1",
    "evaluation.bootstrap=100",
]
PACKAGE_LIMIT = 25e6  # bytes; the embedded weights are 14e6 of them


@pytest.fixture(scope="module")
def head():
    with RayHead(["--num-cpus=4"], token=TOKEN) as head:
        yield head


def submit(
    head: RayHead, name: str, *settings: str, options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess:
    command = [RAY, "job", "submit", "--working-dir", str(ROOT), "--submission-id", name, *options]
    return head.run(*command, "--", "python", "jobs/align.py", *settings, **environment)


def job(head: RayHead, name: str) -> dict:
    return head.get(f"/api/jobs/{name}")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["run_dir=/tmp/never", "tlpo.stepz=3"],
            "ft2ray: configuration: unknown key tlpo.stepz; did you mean tlpo.steps?",
        ),
        (["run_dir=runs/demo"], "ft2ray: run_dir 'runs/demo' would lie in a folder that is deleted"),
    ],
    ids=["wrong setting", "folder of the job"],
)
def test_a_user_mistake_fails_the_job_with_one_sentence(head, settings, sentence):
    name = settings[-1].partition("=")[0]
    submitted = submit(head, name, *settings)
    assert submitted.returncode == 1
    assert sentence in submitted.stdout and "Traceback" not in submitted.stdout
    assert job(head, name)["status"] == "FAILED" and job(head, name)["driver_exit_code"] == 2
    logs = head.get(f"/api/jobs/{name}/logs")["logs"]
    assert sentence in logs and "Traceback" not in logs


def test_what_would_wait_for_ever_fails_the_job_with_a_sum_of_each_resource(head, tmp_path):
    settings = [f"run_dir={tmp_path}", *changed(SETTINGS, "resources.pools.generators.count=200")]
    submitted = submit(head, "too-large", *settings)
    cpus = "generators 200 x 0.5 CPU = 100 + scorers 1 x 0.1 CPU = 0.1 + critic replicas 1 x 0.2 CPU = 0.2"
    assert f"ft2ray: cluster: {cpus}: 100.3 CPU in all, the cluster offers 4; " in submitted.stdout
    memory = f"generators 200 x {EMBEDDED['generators']:g} GB of memory = {200 * EMBEDDED['generators']:g} + "
    assert f"offers 4; {memory}" in submitted.stdout, "this machine's memory does not hold them either"
    assert job(head, "too-large")["driver_exit_code"] == 2 and "Traceback" not in submitted.stdout


def test_what_arrives_is_small_and_complete(head):
    submitted = head.run(
        RAY, "job", "submit", "--working-dir", str(ROOT), "--", "python", "-c",
        "import ft2ray; print('package', ft2ray.__file__)",
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stdout
    (path,) = (line.split()[1] for line in submitted.stdout.splitlines() if line.startswith("package "))
    package = Path(path).parents[1]
    assert package.is_relative_to(head.folder), "the job runs the submitted code, not an installed one"
    arrived = {str(p.relative_to(package)): p.stat().st_size for p in package.rglob("*") if p.is_file()}
    assert sum(arrived.values()) < PACKAGE_LIMIT
    committed = subprocess.run(
        ["git", "ls-files", "ft2ray", "jobs", "serve", "cluster"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(committed.stdout.split()) <= set(arrived)
    assert not {name for name in arrived if name.split("/")[0] in ("tests", "bench", "runs", ".git", ".venv")}


def test_strangers_are_refused(head):
    wrong = submit(head, "stranger", "run_dir=/tmp/never", RAY_AUTH_TOKEN="another-token")
    assert wrong.returncode != 0 and "Authentication failed" in wrong.stdout
    without = submit(head, "stranger", "run_dir=/tmp/never", RAY_AUTH_MODE="disabled")
    assert without.returncode != 0 and "token authentication" in without.stdout
    assert "stranger" not in {found["submission_id"] for found in head.get("/api/jobs/")}


def test_the_probes_of_the_pods_need_no_token(head):
    group = yaml.safe_load((ROOT / "cluster" / "base" / "raycluster.yaml").read_text())["spec"][
        "headGroupSpec"
    ]
    probe = group["template"]["spec"]["containers"][0]["livenessProbe"]["httpGet"]
    assert probe["port"] == 52365, "the port that Ray's agent listens on where nobody says otherwise"
    session = head.folder / "session_latest"
    (port,) = (path.read_text() for path in session.glob("dashboard_agent_listen_port_*"))
    ip, _, _ = (head.folder / "ray_current_cluster").read_text().partition(":")
    with urllib.request.urlopen(f"http://{ip}:{port}{probe['path']}", timeout=30) as answer:
        assert answer.status == 200


def test_stopped_it_goes_on_and_finished_it_makes_nothing_again(head, tmp_path):
    settings = [f"run_dir={tmp_path}/run", *SETTINGS]
    groups = tmp_path / "run" / "store" / "groups"

    assert submit(head, "first", *settings, options=("--no-wait",)).returncode == 0
    deadline = time.monotonic() + 300
    while not list(groups.glob("*.parquet")):
        assert job(head, "first")["status"] in ("PENDING", "RUNNING"), head.get("/api/jobs/first/logs")[
            "logs"
        ]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    stopped = head.run(RAY, "job", "stop", "first")
    assert stopped.returncode == 0 and job(head, "first")["status"] == "STOPPED"
    before = files(groups)
    assert not (tmp_path / "run" / "report.json").exists()

    again = submit(head, "second", *settings)
    assert again.returncode == 0, again.stdout[-3000:]
    assert job(head, "second")["status"] == "SUCCEEDED"
    assert job(head, "second")["driver_info"], (
        "the driver joined another Ray than the one it was submitted to"
    )
    assert f"Done. Open {tmp_path}/run/report.html" in again.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report["systems"]) == {"base", "tlpo"} and report["prompts"] == 1
    after = files(groups)
    assert len(after) == 3 and {path: after[path] for path in before} == before

    made = files(tmp_path / "run" / "store") | files(tmp_path / "run" / "policies")
    assert submit(head, "third", *settings).returncode == 0
    assert files(tmp_path / "run" / "store") | files(tmp_path / "run" / "policies") == made
    same = submit(head, "third", *settings)
    assert same.returncode != 0 and "already exists" in same.stdout

    applications = head.get("/api/serve/applications/")["applications"]
    assert applications == {}, "a finished job leaves no critic behind"
