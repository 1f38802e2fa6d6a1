"""A run that something outside stopped says so in one sentence, wherever in the cluster it happened."""

import errno
import pickle

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError

from ft2ray import cli
from ft2ray.errors import CriticError, RunEnded, StoredDataError, StoreRefused, StoreUnavailable
from ft2ray.pipeline.failures import as_user_error

REFUSED = StoreRefused("s3://b/run: the store at http://s3 refuses these credentials (403)")
SILENT = StoreUnavailable("s3://b/run: no answer from http://s3")
CRITIC = CriticError("the critic failed on 8 of 8 clips of a group: TimeoutError")
FULL = OSError(errno.ENOSPC, "No space left on device", "/runs/one/store/a.parquet")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")
DAMAGED = StoredDataError("/runs/one/x.parquet", "a prompt group is damaged", "delete it")


def of_an_actor(error: Exception) -> Exception:
    """As Ray hands it on: its traceback and, pickled, the error itself."""
    return RayTaskError("map", "Traceback ...", error)


def of_a_train_worker(error: Exception) -> Exception:
    failure = UserExceptionWithTraceback(error, "Traceback ...")
    return WorkerGroupError("Traceback ...", {0: failure, 1: failure})


def as_pickled(error: Exception) -> Exception:
    return pickle.loads(pickle.dumps(error))


def of_an_actor_as_its_cause(error: Exception) -> Exception:
    return of_an_actor(error).as_instanceof_cause()


WAYS = [as_pickled, of_an_actor, of_an_actor_as_its_cause, of_a_train_worker]


@pytest.mark.parametrize("come_by", WAYS, ids=["driver", "actor", "actor's cause", "train worker"])
@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (REFUSED, "refuses these credentials (403)", 2),
        (SILENT, "no answer from http://s3", 75),
        (CRITIC, "failed on 8 of 8 clips", 75),
        (FULL, "/runs/one/store/a.parquet: the disk is full", 75),
        (READ_ONLY, "/runs/one: the file system is read-only", 2),
        (DAMAGED, "/runs/one/x.parquet: a prompt group is damaged; delete it", 2),
    ],
    ids=["refused", "silent", "critic", "full disk", "read-only disk", "damaged"],
)
def test_one_sentence_and_its_exit_code(error, says, code, come_by, monkeypatch, capsys):
    def align(config):
        with as_user_error("/runs/one"):
            raise come_by(error)

    monkeypatch.setattr("ft2ray.pipeline.align.align", align)
    assert cli.main(["align"]) == code
    said = capsys.readouterr().err
    assert said.startswith("ft2ray: ") and said.count("\n") == 1 and says in said
    assert said.strip().endswith("the same command goes on from there") == (code == RunEnded.exit_code)


def test_a_process_that_ray_lost_ends_the_run_for_now():
    with pytest.raises(RunEnded, match="Ray lost a process.*the same command"), as_user_error("/runs/one"):
        raise ActorDiedError()


def test_whatever_else_happens_keeps_its_traceback():
    for come_by in WAYS:
        bug = come_by(ZeroDivisionError())
        with pytest.raises(type(bug)) as raised, as_user_error("/runs/one"):
            raise bug
        assert raised.value is bug
    with pytest.raises(ValueError, match="a mistake") as mistake, as_user_error("/runs/one"):
        raise ValueError("a mistake")
    assert not isinstance(mistake.value, RunEnded)
