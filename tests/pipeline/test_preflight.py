"""What can never run is refused with its sum."""

import pytest

from ft2ray.config import AlignConfig, load_config
from ft2ray.pipeline.preflight import Node, Pool, check_resources, node_groups, refusals, stages
from ft2ray.resources import Pool as PoolSettings
from ft2ray.resources import Pools, ResourceSettings
from ft2ray.rounds.settings import ScheduleSettings

GPU_NODE = Node({"CPU": 8.0, "GPU": 4.0})


def test_together_the_pools_add_up_and_in_turns_they_do_not():
    config = AlignConfig(
        resources=ResourceSettings(
            pools=Pools(generators=PoolSettings(count=4, gpus=1.0), training=PoolSettings(count=2, gpus=1.0))
        )
    )
    (curation, training) = stages(config)
    assert refusals(curation, [GPU_NODE]) == refusals(training, [GPU_NODE]) == []
    (together,) = stages(config.replaced(schedule=ScheduleSettings(max_staleness=1)))
    (sentence,) = refusals(together, [GPU_NODE])
    assert "generators 4 x 0.5 CPU and 1 GPU = 4 + train workers 2 x 0.5 CPU and 1 GPU = 2: 6 GPU" in sentence
    assert "the cluster offers 4" in sentence
    assert refusals(together, [GPU_NODE] * 2) == []


def test_one_actor_must_fit_on_one_node():
    pool = Pool("generators", 1, {"CPU": 1.0, "GPU": 2.0})
    assert refusals([pool], [Node({"CPU": 4.0, "GPU": 1.0})] * 8) == [
        "no node is large enough for one of generators 1 x 1 CPU and 2 GPU"
    ]


def test_what_is_left_over_on_several_nodes_is_no_room_for_an_actor():
    pool, nodes = Pool("train workers", 4, {"CPU": 3.0, "GPU": 0.0}), [Node({"CPU": 4.0})] * 3
    (sentence,) = refusals([pool], nodes)
    assert sentence.startswith("the nodes have room for 3 of train workers 4 x 3 CPU")
    assert refusals([pool], [*nodes, Node({"CPU": 3.0})]) == []
    assert refusals([Pool("scorers", 10, {"CPU": 0.1})], [Node({"CPU": 1.0})]) == []


def test_pools_that_keep_to_nodes_are_added_up_there():
    resources = ResourceSettings(
        pools=Pools(
            generators=PoolSettings(count=4, gpus=1.0, on="pool=a"),
            training=PoolSettings(count=2, gpus=1.0, on="pool=b"),
        )
    )
    (pools,) = stages(AlignConfig(resources=resources, schedule=ScheduleSettings(max_staleness=1)))
    a, b = (Node(GPU_NODE.offers, {"pool": name, "ray.io/node-id": name}) for name in "ab")
    assert refusals(pools, [a, b]) == [], "the critic, which keeps to none, has room beside them"
    (sentence,) = refusals(pools, [a, Node({"CPU": 8.0, "GPU": 1.0}, b.labels), GPU_NODE])
    assert sentence == "train workers 2 x 0.5 CPU and 1 GPU = 2: 2 GPU in all, the nodes with pool=b offer 1"
    assert "no node with pool=b is large enough for one of train workers 2 x 0.5 CPU and 1 GPU" in refusals(
        pools, [a, a]
    )


def test_node_groups_are_read_and_nonsense_is_refused():
    assert node_groups(["4 x CPU=16 GPU=8 pool=training zone=z-1", "1 x CPU=2"]) == [
        (4, Node({"CPU": 16.0, "GPU": 8.0}, {"pool": "training", "zone": "z-1"})),
        (1, Node({"CPU": 2.0})),
    ]
    for text in ("CPU=16", "4xCPU", "4 x TPU=1", "x CPU=1", "4 x CPU=1 training", "4 x CPU=1 GPU=one"):
        with pytest.raises(ValueError, match="not of the form"):
            node_groups([text])


def test_what_an_autoscaler_may_add_is_what_the_configuration_says(monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [])
    check_resources(load_config(None, ["resources.may_add=[2 x CPU=1]"]))
    with pytest.raises(ValueError, match="1.3 CPU in all, the cluster offers 1.*resources.may_add"):
        check_resources(load_config(None, ["resources.may_add=[1 x CPU=1]"]))
    with pytest.raises(ValueError, match="the cluster offers 0"):
        check_resources(AlignConfig())


def test_a_label_that_is_none_is_refused():
    with pytest.raises(ValueError, match="resources.pools.training.on: must be of the form name=value"):
        load_config(None, ["resources.pools.training.on=training"])
