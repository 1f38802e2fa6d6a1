"""What can never run is refused with its sum."""

import pytest

from ft2ray.config import AlignConfig, ClusterConfig, ScheduleConfig
from ft2ray.pipeline.preflight import Pool, node_groups, refusals, stages

GPU_NODE = {"CPU": 8.0, "GPU": 4.0}


def test_together_the_pools_add_up_and_in_turns_they_do_not():
    config = AlignConfig(cluster=ClusterConfig(generators=4, generator_gpus=1.0, train_gpus=1.0))
    (curation, training) = stages(config)
    assert refusals(curation, [GPU_NODE], GPU_NODE) == refusals(training, [GPU_NODE], GPU_NODE) == []
    (together,) = stages(AlignConfig(cluster=config.cluster, schedule=ScheduleConfig(max_staleness=1)))
    (sentence,) = refusals(together, [GPU_NODE], GPU_NODE)
    assert "generators 4 x 0.5 CPU and 1 GPU = 4 + train workers 2 x 0.5 CPU and 1 GPU = 2: 6 GPU" in sentence
    assert "the cluster offers 4" in sentence
    assert refusals(together, [GPU_NODE], {"CPU": 16.0, "GPU": 8.0}) == []


def test_one_actor_must_fit_on_one_node():
    pool = Pool("generators", 1, {"CPU": 1.0, "GPU": 2.0})
    many_small = [{"CPU": 4.0, "GPU": 1.0}] * 8
    assert refusals([pool], many_small, {"CPU": 32.0, "GPU": 8.0}) == [
        "no node is large enough for one of generators 1 x 1 CPU and 2 GPU"
    ]


def test_node_groups_are_read_and_nonsense_is_refused():
    assert node_groups(["4 x CPU=16 GPU=8", "1 x CPU=2"]) == [
        (4, {"CPU": 16.0, "GPU": 8.0}),
        (1, {"CPU": 2.0}),
    ]
    for text in ("CPU=16", "4xCPU", "4 x TPU=1", "x CPU=1"):
        with pytest.raises(ValueError, match="not of the form"):
            node_groups([text])
