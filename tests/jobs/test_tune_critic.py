"""jobs/tune_critic.py on toy widths: one worker or two give the same critic; it goes on where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ft2ray.critic.omni.card import ADAPTER, CARD
from ft2ray.loaders import critic_card
from ft2ray.storage import list_files, upload_folder
from tests.critic.omni.test_tuning import table  # noqa: F401  # a fixture
from tests.critic.omni_toys import write_thinker

ROOT = Path(__file__).parents[2]
TOY = ["--cpu", "--fps=8", "--pixels=56", "--rank=4", "--alpha=8", "--learning-rate=2e-3", "--batch=4"]
TOY += ["--held-out-share=0.3", "--save-every=2"]


def tune(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "jobs" / "tune_critic.py", *TOY, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.cluster
def test_two_workers_give_the_critic_of_one_and_it_goes_on_where_it_stopped(table, tmp_path):  # noqa: F811
    base = write_thinker(tmp_path / "base")
    shared = ["--labels", table, "--base", base]
    one, two = tmp_path / "one", tmp_path / "two"
    done = tune(*shared, "--out", one, "--epochs", "3")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert (
        said["critic"]
        == critic_card(str(one)).fingerprint
        == json.loads((one / CARD).read_text())["fingerprint"]
    )
    assert set(said["accuracy"]) == {"mn", "ls", "vq"} and said["n"]["ls"] > 0

    done = tune(*shared, "--out", two, "--epochs", "3", "--workers", "2")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    theirs, ours = load_file(two / ADAPTER), load_file(one / ADAPTER)
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-4, rtol=1e-3, msg=name)

    (one / CARD).unlink()  # lost after the last step: nothing is trained again
    steps = (one / "tuning.jsonl").read_text()
    done = tune(*shared, "--out", one, "--epochs", "3")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (one / "tuning.jsonl").read_text() == steps
    assert critic_card(str(one)).fingerprint == said["critic"]


def test_labels_base_and_critic_may_all_be_on_s3(table, tmp_path, s3):  # noqa: F811
    upload_folder(write_thinker(tmp_path / "base"), f"{s3}/base", last="")
    upload_folder(table.parent, f"{s3}/clips", last="")
    given = ["--labels", f"{s3}/clips/labels.csv", "--base", f"{s3}/base", "--out", f"{s3}/critic"]
    done = tune(*given, "--epochs", "1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert set(list_files(f"{s3}/critic", recursive=True)) == {ADAPTER, CARD, "tuning.jsonl"}
    said = json.loads(done.stdout.splitlines()[-1])
    assert critic_card(f"{s3}/critic").fingerprint == said["critic"]


def test_what_can_not_be_tuned_is_one_sentence(tmp_path):
    missing = tune("--labels", tmp_path / "none.csv", "--base", tmp_path, "--out", tmp_path / "out")
    assert missing.returncode == 2 and missing.stderr.startswith("tune_critic: weights: no ")
    base = write_thinker(tmp_path / "base")
    slow = tune("--labels", tmp_path / "none.csv", "--base", base, "--out", tmp_path / "out", "--fps", "2")
    assert slow.returncode == 2 and "at 2 fps a clip of 3.5 s is 7 pictures" in slow.stderr
    share = tune("--labels", "x", "--base", base, "--out", tmp_path / "out", "--held-out-share", "nan")
    assert share.returncode == 2 and "--held-out-share from 0 to less than 1" in share.stderr
    none = tune("--labels", tmp_path / "none.csv", "--base", base, "--out", tmp_path / "out")
    assert none.returncode == 2 and "there is no file" in none.stderr
