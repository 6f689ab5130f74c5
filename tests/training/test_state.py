"""The state of training."""

from typing import Any

from flax import nnx

from cnnbench.nn.graph_net import GraphNet
from cnnbench.training.state import Network, split_network
from tests.support.oracles import make_plan


def test_batch_statistics_are_distinguished_from_other_state() -> None:
    def network(layers: dict[str, dict[str, Any]]) -> Network:
        plan = make_plan(layers, (5, 5, 1), (5, 5, 1))
        return split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))

    assert network({"norm": {"op": "batch_norm"}}).uses_batch_statistics
    assert not network({"drop": {"op": "dropout", "rate": 0.5}}).uses_batch_statistics
