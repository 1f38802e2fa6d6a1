"""A run that something outside stopped says so in one sentence, wherever in the cluster it happened."""

import errno

import pytest
from ray.exceptions import RayTaskError

from ft2ray import cli
from ft2ray.errors import CriticError, RunEnded, StoreRefused, StoreUnavailable
from ft2ray.pipeline.endings import in_one_sentence

REFUSED = StoreRefused("s3://b/run: the store at http://s3 refuses these credentials (403)")
SILENT = StoreUnavailable("s3://b/run: no answer from http://s3")
CRITIC = CriticError("the critic failed on 8 of 8 clips of a group: TimeoutError")
FULL = OSError(errno.ENOSPC, "No space left on device", "/runs/one/store/a.parquet")


def of_an_actor(error: Exception) -> Exception:
    """As Ray hands it on: its text, without the errors that caused it."""
    try:
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("UDF failed to process a data block.") from cause
    except RuntimeError as wrapped:
        import traceback

        return RayTaskError("map", traceback.format_exc(), RuntimeError(str(wrapped)))


@pytest.mark.parametrize("come_by", [lambda error: error, of_an_actor], ids=["driver", "actor"])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (REFUSED, "refuses these credentials (403)"),
        (SILENT, "no answer from http://s3"),
        (CRITIC, "failed on 8 of 8 clips"),
        (FULL, "a disk is full (OSError: [Errno 28] No space left on device: '/runs/one/store/a.parquet')"),
    ],
    ids=["refused", "silent", "critic", "full disk"],
)
def test_one_sentence_and_the_exit_code_of_a_run_to_be_continued(error, says, come_by, monkeypatch, capsys):
    def align(config):
        with in_one_sentence("/runs/one"):
            raise come_by(error)

    monkeypatch.setattr("ft2ray.pipeline.align.align", align)
    assert cli.main(["align"]) == RunEnded.exit_code
    said = capsys.readouterr().err
    assert said.startswith("ft2ray: ") and said.count("\n") == 1 and says in said
    assert said.strip().endswith("the same command goes on from there")


def test_whatever_else_happens_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), in_one_sentence("/runs/one"):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="a mistake") as mistake, in_one_sentence("/runs/one"):
        raise ValueError("a mistake")
    assert not isinstance(mistake.value, RunEnded)
