import json
import subprocess
import sys

import pytest
import yaml
from scipy.io import wavfile

from ft2ray import storage
from ft2ray.cli import main
from ft2ray.config import load_config, to_dict
from ft2ray.errors import DataError
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.run import Run
from tests.conftest import ASSETS


def test_dry_run_prints_the_resolved_configuration(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tlpo: {batch: 4}\n")
    assert main(["align", str(file), "tlpo.steps=9", "--dry-run"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed == to_dict(load_config(file, ["tlpo.steps=9"]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["align", "tlpo.stepz=9", "--dry-run"], "did you mean tlpo.steps?"),
        (["align", "absent.yaml", "--dry-run"], "no file absent.yaml"),
        (["align", "a.yaml", "b.yaml", "--dry-run"], "give one YAML file"),
        (["report", "nowhere"], "not a run folder"),
        (["export-pairs", "nowhere", "out"], "not a run folder"),
        (["score", "nowhere.mp4"], "nowhere.mp4"),
        (["generate", "--portrait", "a", "--audio", "b", "--out", "c.avi"], "must end in .mp4"),
        (["generate", "--portrait", "a.jpg", "--audio", "b", "--out", "c.mp4"], "a.jpg"),
        (
            ["generate", "--portrait", "a", "--audio", "b", "--out", "c.mp4", "--run", "nowhere"],
            "not a run folder",
        ),
        (["generate", "--portrait", "a", "--audio", "b", "--out", "c.mp4", "--weights", "mn"], "--weights"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, says, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ft2ray: ") and says in error


def test_a_clip_is_made_and_scored_on_s3(s3, tmp_path, capsys):
    samples = read_audio(ASSETS / "speech" / "sense_and_sensibility_0870.flac")[: 2 * SAMPLE_RATE]
    wavfile.write(tmp_path / "speech.wav", SAMPLE_RATE, samples)
    storage.upload(tmp_path / "speech.wav", f"{s3}/speech.wav")
    storage.upload(ASSETS / "portraits" / "grace_hopper.jpg", f"{s3}/face.jpg")
    places = ["--portrait", f"{s3}/face.jpg", "--audio", f"{s3}/speech.wav", "--out", f"{s3}/out/clip.mp4"]
    assert main(["generate", *places, "generator.sampling.steps=2"]) == 0
    assert capsys.readouterr().out == f"{s3}/out/clip.mp4: 50 frames\n"
    assert main(["score", f"{s3}/out/clip.mp4"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["clip"] == f"{s3}/out/clip.mp4" and set(said["p_yes"]) == {"mn", "ls", "vq"}


def test_mistakes_on_s3_are_one_sentence_too(s3, capsys):
    for arguments, says in (
        (["report", f"{s3}/nowhere"], f"{s3}/nowhere is not a run folder"),
        (["export-pairs", f"{s3}/nowhere", f"{s3}/out"], "is not a run folder"),
        (["score", f"{s3}/nowhere.mp4"], f"{s3}/nowhere.mp4: there is no such file"),
        (["score", "s3://no-such-bucket/clip.mp4"], "there is no bucket no-such-bucket"),
        (["align", f"{s3}/absent.yaml", "--dry-run"], f"no file {s3}/absent.yaml"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("ft2ray: ") and says in error


def test_a_configuration_is_read_from_s3(s3, capsys):
    storage.write_atomically(f"{s3}/mine.yaml", b"tlpo: {batch: 4}")
    assert main(["align", f"{s3}/mine.yaml", "--dry-run"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["tlpo"]["batch"] == 4


CLIP = ["generate", "--portrait", "a", "--audio", "b", "--out", "c.mp4"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["align", "--dry-run", "prompts.portraits=nowhere"], "no folder"),
        (["align", "--dry-run", "dimensions=[ls]"], "dimensions ['ls'] are not the critic's"),
        (["align", "--dry-run", "run_dir=/dev/null/x"], "/dev/null is a file"),
        (["align", "--dry-run", "run_dir=" + "n" * 300], "more than 255 bytes"),
        (["align", "--dry-run", "tlpo.experts.targets=blocks.0.nothing"], "is the name of no linear layer"),
        (["align", "--dry-run", "run_dir=s3://"], "s3://"),
        (["align", "--dry-run", "run_dir=s3:///runs"], "s3:///runs"),
        (["align", "--dry-run", "run_dir=S3://bucket/runs"], "files cannot be kept at S3:/"),
        (["align", "--dry-run", "generator.weights=gs://b/x"], "files cannot be kept at gs:/"),
        (["align", "--dry-run", "critic.weights=hdfs://b/x", "resources.address=auto"], "kept at hdfs:/"),
        (["align", "--dry-run", "generator.weights=/nowhere"], "/nowhere holds no .safetensors file"),
        (["align", "--dry-run", "critic.weights=openai:m@gs://x"], "is not of the form openai:MODEL@URL"),
        (["align", "--dry-run", "evaluation.reference_clips=gs://b/x"], "files cannot be kept at gs:/"),
        (["align", "--dry-run", "evaluation.reference_clips=nowhere"], "neither a judge nor a folder"),
        (["align", "--dry-run", "seed=1", "seed=2"], "seed=1 and seed=2 are given"),
        ([*CLIP, "--weights", "mn=1,mn=2"], "names a dimension twice"),
        ([*CLIP[:-1], "nowhere/c.mp4"], "does not exist; make it first"),
        ([*CLIP[:-1], "n" * 300 + ".mp4"], "more than 255 bytes"),
        ([*CLIP[:-1], "s3://c.mp4"], "names a bucket only"),
        ([*CLIP[:-1], "gs://bucket/c.mp4"], "files cannot be kept at gs:/"),
        ([*CLIP, "--seed", "-1"], "--seed -1 is not from 0"),
        ([*CLIP, "--seed", "99999999999999999999"], "is not from 0 to"),
        (["align", "--dry-run", "resources.may_add=[many]"], "resources.may_add: 'many' is not of the form"),
        ([*CLIP, "--weights", "mn=9", "generator.weights=embedded"], "the folder of a run as --run"),
        ([*CLIP, "--system", "tlpo", "generator.weights=embedded"], "the folder of a run as --run"),
        (["score", "absent.mp4"], "absent.mp4"),
        (["score", "/tmp"], "it is a folder or a device, not a file"),
        (["score", "n" * 300 + ".mp4"], "File name too long; check the path"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_one_sentence_before_anything_starts(arguments, says, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_places_that_cannot_be_written_to_are_said_before_the_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "c.mp4").mkdir()
    assert main([*CLIP[:-1], str(tmp_path / "c.mp4")]) == 2
    assert "is a folder; give the path of a file in it" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert main([*CLIP[:-1], str(tmp_path / "d.mp4")]) == 2
    assert f"{tmp_path} cannot be written to" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    command = f"{sys.executable} -m ft2ray.cli align --dry-run | true"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert "Traceback" not in ended.stderr and "BrokenPipe" not in ended.stderr
    assert ended.returncode in (0, 141)  # 0 where everything was written before the reader went


def test_the_settings_of_a_run_are_those_of_its_folder(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("run_dir: /another/place\ngenerator: {sampling: {steps: 3}}")
    config = Run.open(tmp_path, ["generator.sampling.audio_scale=3"]).config
    assert config.run_dir == str(tmp_path)
    assert config.generator.sampling == SamplerSettings(steps=3, audio_scale=3.0)
    file.write_text("preference: {margin: 0.3}")
    with pytest.raises(DataError, match="written by another version .*unknown key preference"):
        Run.open(tmp_path)
