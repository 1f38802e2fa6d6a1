"""A user's own generator and critic are loaded where they will work, never beside the driver."""

import os
from pathlib import Path

import pytest
import ray

from bench.fakes import BriefCritic, SleepingGenerator
from ft2ray.config import load_config
from ft2ray.loaders import critic_card, generator_fingerprint
from ft2ray.pipeline.align import identities

pytestmark = pytest.mark.ray


class OwnGenerator(SleepingGenerator):
    """Says where it was loaded."""

    def __init__(self) -> None:
        self.fingerprint = str(os.getpid())


class OwnCritic(BriefCritic):
    """Says where it was loaded."""

    dimensions = ("mn",)

    def __init__(self) -> None:
        self.fingerprint = str(os.getpid())


def broken() -> OwnCritic:
    raise ValueError("no weights here")


def test_the_drivers_process_loads_neither():
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env={"env_vars": environment})
    try:
        own = [f"generator.weights={__name__}:OwnGenerator", f"critic.weights={__name__}:OwnCritic"]
        generator, card = identities(load_config(None, own))
        assert str(os.getpid()) not in (generator, card.fingerprint) and card.dimensions == ("mn",)
        with pytest.raises(ValueError, match="no weights here"):
            identities(load_config(None, [f"critic.weights={__name__}:broken"]))
    finally:
        ray.shutdown()


def test_the_packaged_ones_need_no_ray():
    packaged = identities(load_config(None, []))
    assert packaged == (generator_fingerprint("embedded"), critic_card("embedded"))
    assert not ray.is_initialized()
