"""A training is tried again where that may help, and ends at once where it cannot."""

from contextlib import nullcontext

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from ft2ray.config import AlignConfig
from ft2ray.errors import NonFiniteError, StoredDataError, StoreUnavailable, WeightsError
from ft2ray.pipeline import training
from ft2ray.run import Run

LASTING = [
    NonFiniteError("training: loss of the adapter mn at step 3 is NaN or infinite"),
    StoredDataError("/a", "is damaged", "it is made again"),
    WeightsError("the weights do not fit"),
]


class WorkersFailed(Exception):
    """As Ray Train raises it: with the error of every worker."""

    def __init__(self, inner: Exception) -> None:
        super().__init__("Training failed due to worker errors:\n...")
        self.worker_failures = {0: RayTaskError("train", "Traceback ...", inner), 1: ActorDiedError()}


@pytest.fixture
def attempts(tmp_path, monkeypatch):
    """Train with fits that end like this, one after the other."""
    made = []

    def train(*ends: Exception | None) -> str:
        run, left = Run(AlignConfig(run_dir=str(tmp_path))), list(ends)

        def fit(run, round):
            made.append(round)
            if (error := left.pop(0)) is not None:
                raise error

        monkeypatch.setattr(training, "_fit", fit)
        monkeypatch.setattr(training, "progress", lambda *_: nullcontext())
        monkeypatch.setattr(training, "is_published", lambda _: made[-1:] != [] and not left)
        monkeypatch.setattr(Run, "policy", lambda self, version: f"policy-{version}")
        try:
            return training.train(run, 0)
        finally:
            assert not left, "attempts that were not made"

    train.made = made
    return train


@pytest.mark.parametrize("error", LASTING, ids=lambda error: type(error).__name__)
def test_what_the_same_work_meets_again_ends_it_at_once(attempts, error):
    with pytest.raises(WorkersFailed):
        attempts(WorkersFailed(error))
    assert len(attempts.made) == 1


def test_a_worker_that_died_is_replaced_and_said(attempts, caplog):
    died = WorkersFailed(StoreUnavailable("no answer"))
    assert attempts(ActorDiedError(), died, None) == "policy-1"
    assert len(attempts.made) == 3
    assert caplog.text.count("goes on from its last checkpoint") == 2


def test_workers_that_always_die_end_the_run(attempts):
    with pytest.raises(ActorDiedError):
        attempts(*[ActorDiedError()] * (training.MOST_RETRIES + 1))
    assert len(attempts.made) == training.MOST_RETRIES + 1
