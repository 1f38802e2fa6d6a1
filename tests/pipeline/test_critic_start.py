"""A critic that no replica can load ends the start with the error of the replica, not with a text of it."""

import os

import pytest
import ray

from ft2ray.critic.settings import CriticSettings
from ft2ray.errors import WeightsError
from ft2ray.pipeline.critic_service import start_critic
from ft2ray.resources import Pool

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_what_a_replica_refuses_is_raised_as_it_was(tmp_path):
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        with pytest.raises(WeightsError, match=f"{tmp_path} holds no critic") as refused:
            start_critic(CriticSettings(weights=str(tmp_path)), Pool(cpus=0.1, memory=0.1), {}, lambda: None)
        assert refused.value.exit_code == 2 and "Traceback" not in str(refused.value)
    finally:
        ray.shutdown()
        os.environ.pop("RAY_ADDRESS", None)
