"""Nodes that the autoscaler adds on this machine: Ray's own provider of them launches none with memory."""

from typing import Any
from unittest import mock

import ray._private.parameter as parameter
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider


class SimulatedNodes(FakeMultiNodeProvider):
    def _create_node_with_resources_and_labels(self, *arguments: Any) -> None:
        params = parameter.RayParams

        def with_memory(*, resources: dict[str, float], **others: Any) -> Any:
            return params(memory=resources.pop("memory", None), resources=resources, **others)

        with mock.patch.object(parameter, "RayParams", with_memory):
            super()._create_node_with_resources_and_labels(*arguments)
