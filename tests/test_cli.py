import pytest
import yaml

from ft2ray.cli import main
from ft2ray.config import load_config, to_dict


def test_dry_run_prints_the_resolved_configuration(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("tlpo: {rank: 4}\n")
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
            "no trained policy",
        ),
        (["generate", "--portrait", "a", "--audio", "b", "--out", "c.mp4", "--weights", "mn"], "--weights"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, says, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ft2ray: ") and says in error
