"""What can never run is refused with its sum."""

import pytest

from ft2ray.config import AlignConfig, load_config
from ft2ray.errors import ConfigurationError
from ft2ray.pipeline.memory import EMBEDDED
from ft2ray.pipeline.preflight import Demand, Node, check_resources, node_groups, ray_node, refusals, stages
from ft2ray.resources import Pool as PoolSettings
from ft2ray.resources import Pools, ResourceSettings
from ft2ray.rounds.settings import ScheduleSettings

GPU_NODE = Node({"CPU": 8.0, "GPU": 4.0, "memory": 64.0})


def test_together_the_pools_add_up_and_in_turns_they_do_not():
    config = AlignConfig(
        resources=ResourceSettings(
            pools=Pools(generators=PoolSettings(count=4, gpus=1.0), training=PoolSettings(count=2, gpus=1.0))
        )
    )
    for pools in stages(config):
        assert refusals(pools, [GPU_NODE]) == []
    together, _ = stages(config.replaced(schedule=ScheduleSettings(max_staleness=1)))
    (sentence,) = refusals(together, [GPU_NODE])
    sum_ = "generators 4 x 1 GPU = 4 + train workers 2 x 1 GPU = 2: 6 GPU in all, the cluster offers 4"
    assert sentence == sum_, "what the others of its resources are is not part of this sum"
    assert refusals(together, [GPU_NODE] * 2) == []


def test_memory_is_added_up_and_refused_with_its_numbers():
    curating, training, evaluating = stages(AlignConfig())
    (sentence,) = refusals(curating, [Node({"CPU": 8.0, "memory": 3.0})])
    assert "generators 2 x 1.15 GB of memory = 2.3" in sentence
    assert "3.55 GB of memory in all, the cluster offers 3" in sentence
    assert refusals(training, [Node({"CPU": 8.0, "memory": 3.0})]) == []
    assert len(refusals(evaluating, [Node({"CPU": 8.0, "memory": 2.0})])) == 1


def test_the_memory_of_a_head_that_takes_no_work_does_not_count():
    curating, *_ = stages(AlignConfig())
    head, worker = Node({"memory": 8.0}), Node({"CPU": 8.0, "memory": 3.0})
    (sentence,) = refusals(curating, [head, worker])
    assert "3.55 GB of memory in all, the cluster offers 3" in sentence
    free = load_config(None, ["resources.pools.critic.cpus=0"])
    assert refusals(stages(free)[0], [head, worker]) == [], "a critic that needs no CPU has room there"


def test_one_actor_must_fit_on_one_node():
    pool = Demand("generators", 1, {"CPU": 1.0, "GPU": 2.0})
    assert refusals([pool], [Node({"CPU": 4.0, "GPU": 1.0})] * 8) == [
        "no node is large enough for one of generators 1 x 1 CPU and 2 GPU, "
        "the largest offers 4 CPU and 1 GPU"
    ]
    large = Demand("generators", 1, {"CPU": 1.0, "memory": 28.0})
    (sentence,) = refusals([large], [Node({"CPU": 4.0, "memory": 16.0})] * 8)
    assert sentence.endswith("1 x 1 CPU and 28 GB of memory, the largest offers 4 CPU and 16 GB of memory")


def test_what_is_left_over_on_several_nodes_is_no_room_for_an_actor():
    pool, nodes = Demand("train workers", 4, {"CPU": 3.0, "GPU": 0.0}), [Node({"CPU": 4.0})] * 3
    (sentence,) = refusals([pool], nodes)
    assert sentence.startswith("the nodes have room for 3 of train workers 4 x 3 CPU")
    assert refusals([pool], [*nodes, Node({"CPU": 3.0})]) == []
    assert refusals([Demand("scorers", 10, {"CPU": 0.1})], [Node({"CPU": 1.0})]) == []


def test_pools_that_keep_to_nodes_are_added_up_there():
    resources = ResourceSettings(
        pools=Pools(
            generators=PoolSettings(count=4, gpus=1.0, on="pool=a"),
            training=PoolSettings(count=2, gpus=1.0, on="pool=b", memory=2.0),
        )
    )
    pools, _ = stages(AlignConfig(resources=resources, schedule=ScheduleSettings(max_staleness=1)))
    a, b = (Node(GPU_NODE.offers, {"pool": name, "ray.io/node-id": name}) for name in "ab")
    assert refusals(pools, [a, b]) == [], "the critic, which keeps to none, has room beside them"
    (sentence,) = refusals(pools, [a, Node({"CPU": 8.0, "GPU": 1.0, "memory": 64.0}, b.labels), GPU_NODE])
    assert sentence == "train workers 2 x 1 GPU = 2: 2 GPU in all, the nodes with pool=b offer 1"
    workers = "train workers 2 x 0.5 CPU and 1 GPU and 2 GB of memory"
    assert f"no node with pool=b is large enough for one of {workers}" in refusals(pools, [a, a])


def test_a_setting_takes_the_place_of_the_estimate():
    def curating(*settings: str) -> dict[str, float]:
        return {pool.name: pool.each["memory"] for pool in stages(load_config(None, settings))[0]}

    assert curating()["generators"] == EMBEDDED["generators"]
    assert curating("resources.pools.generators.memory=20")["generators"] == 20.0
    assert curating("resources.pools.generators.memory=20")["critic replicas"] == EMBEDDED["critic"]


def test_node_groups_are_read_and_nonsense_is_refused():
    assert node_groups(["4 x CPU=16 GPU=8 memory=200 pool=training zone=z-1", "1 x CPU=2 memory=1.5"]) == [
        (4, Node({"CPU": 16.0, "GPU": 8.0, "memory": 200.0}, {"pool": "training", "zone": "z-1"})),
        (1, Node({"CPU": 2.0, "memory": 1.5})),
    ]
    nonsense = ["CPU=16 memory=1", "4xCPU", "4 x TPU=1", "x CPU=1 memory=1", "4 x CPU=1 memory=1 training"]
    nonsense += ["4 x CPU=1 GPU=one memory=1", "4 x CPU=16", "4 x memory=16", "4 x CPU=1 memory=12Gi"]
    for text in nonsense:
        with pytest.raises(ConfigurationError, match="not of the form"):
            load_config(None, [f"resources.may_add=[{text}]"])


def test_what_an_autoscaler_may_add_is_what_the_configuration_says(monkeypatch):
    monkeypatch.setattr("ray.nodes", lambda: [])
    check_resources(load_config(None, ["resources.may_add=[2 x CPU=1 memory=4]"]))
    with pytest.raises(ConfigurationError, match="1.3 CPU in all, the cluster offers 1.*resources.may_add"):
        check_resources(load_config(None, ["resources.may_add=[1 x CPU=1 memory=8]"]))
    with pytest.raises(ConfigurationError, match="GB of memory in all, the cluster offers 2"):
        check_resources(load_config(None, ["resources.may_add=[2 x CPU=4 memory=1]"]))
    with pytest.raises(ConfigurationError, match="the cluster offers 0"):
        check_resources(AlignConfig())


def test_a_node_of_ray_counts_its_memory_in_bytes():
    offers = {"CPU": 4.0, "memory": 1.9e9, "object_store_memory": 3e8, "node:192.0.2.2": 1.0}
    assert ray_node(offers, {"pool": "a"}) == Node({"CPU": 4.0, "memory": 1.9}, {"pool": "a"})


def test_a_label_that_is_none_is_refused():
    with pytest.raises(
        ConfigurationError, match="resources.pools.training.on: must be of the form name=value"
    ):
        load_config(None, ["resources.pools.training.on=training"])
