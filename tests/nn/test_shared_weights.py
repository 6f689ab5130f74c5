"""Repetitions with shared weights against a PyTorch module that is called several times."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.nn.graph_net import GraphNet
from cnnbench.nn.microbatch import Microbatching
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.state import Arrays, init_state, split_network
from cnnbench.training.step import make_rules, train_step

torch: Any = pytest.importorskip("torch")
Base: Any = torch.nn.Module
NUM_IMAGES, MOMENTUM, DECAY, RATE = 12, 0.7, 0.3, 0.05
RECURRENT = f"""
name: recurrent
task: classify
dataset: {{name: random/9x8x1/5}}
train:
  batch_size: {NUM_IMAGES}
  optimizer:
    {{name: sgd, learning_rate: {RATE}, momentum: 0.9, nesterov: false, weight_decay: {DECAY}}}
model:
  blocks:
    body:
      layers:
        conv: {{op: conv, filters: 4, kernel: 3, padding: same}}
        norm: {{op: batch_norm, momentum: {MOMENTUM}}}
        act: {{op: prelu}}
        sum: {{op: add, inputs: [input, act]}}
  layers:
    stem: {{op: conv, filters: 4, kernel: 3, padding: same}}
    stage: {{block: body, repeat: 3, weights: shared}}
    pool: {{op: global_avg_pool}}
    out: {{op: dense, units: 5}}
"""


class Recurrent(Base):  # type: ignore[misc]
    """The network above; `variances` are the biased ones of the normalized batches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4, momentum=1 - MOMENTUM)
        self.act = torch.nn.PReLU()
        self.out = torch.nn.Linear(4, 5)
        self.variances: list[Any] = []

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for _ in range(3):
            z = self.conv(x)
            self.variances.append(z.detach().var(dim=(0, 2, 3), unbiased=False))
            x = x + self.act(self.norm(z))
        return self.out(x.mean(dim=(2, 3)))

    def in_our_layout(self, *, gradients: bool = False) -> dict[str, Any]:
        """Parameters or their gradients by our names."""

        def value(parameter: Any) -> Any:
            return (parameter.grad if gradients else parameter.detach()).numpy()

        found = {}
        for name, conv in (("stem", self.stem), ("stage.0.conv", self.conv)):
            found[f"{name}.kernel"] = value(conv.weight).transpose(2, 3, 1, 0)
            found[f"{name}.bias"] = value(conv.bias)
        found["stage.0.norm.scale"] = value(self.norm.weight)
        found["stage.0.norm.bias"] = value(self.norm.bias)
        found["stage.0.act.slope"] = value(self.act.weight)
        found |= {"out.kernel": value(self.out.weight).T, "out.bias": value(self.out.bias)}
        return found


@functools.cache
def pytorchs() -> tuple[dict[str, Any], dict[str, Any], Any, dict[str, Any]]:
    """Parameters before a step, gradients, outputs in training, and everything after the step."""
    torch.manual_seed(0)
    net = Recurrent()
    images, labels = batch()
    before = {name: np.array(value) for name, value in net.in_our_layout().items()}
    outputs = net(torch.tensor(images / 256, dtype=torch.float32).permute(0, 3, 1, 2))
    loss = torch.nn.functional.cross_entropy(outputs, torch.tensor(labels, dtype=torch.long))
    kernels = [net.stem.weight, net.conv.weight, net.out.weight]
    others = [p for p in net.parameters() if not any(p is kernel for kernel in kernels)]
    groups = [{"params": kernels, "weight_decay": DECAY}, {"params": others}]
    optimizer = torch.optim.SGD(groups, RATE, momentum=0.9)
    loss.backward()
    gradients = net.in_our_layout(gradients=True)
    optimizer.step()
    variance = np.ones(4)
    for batch_variance in net.variances:
        variance = MOMENTUM * variance + (1 - MOMENTUM) * batch_variance.numpy()
    statistics = {"stage.0.norm.mean": net.norm.running_mean.numpy(), "stage.0.norm.var": variance}
    return before, gradients, outputs.detach().numpy(), net.in_our_layout() | statistics


def batch() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 9, 8, 1), np.uint8)
    return images, rng.integers(0, 5, NUM_IMAGES, np.int32)


def recurrent(folder: Path) -> Loaded:
    path = folder / "a.yaml"
    path.write_text(RECURRENT)
    return load_experiment(path)


def set_weights(net: GraphNet, values: dict[str, Any]) -> None:
    for name, value in values.items():
        layer, _, key = name.rpartition(".")
        owner: Any = net.parts if layer in net.parts else net.weights
        part = owner[layer]
        (getattr(part, key) if layer in net.parts else part[key])[...] = jnp.asarray(value)


def by_name(tree: Any) -> dict[str, Any]:
    pure = nnx.to_pure_dict(tree)
    roots = (pure.get("weights", {}), pure.get("parts", {}))
    pairs = [pair for root in roots for pair in root.items()]
    return {f"{layer}.{key}": np.asarray(v) for layer, own in pairs for key, v in own.items()}


def near(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        # The bias before a batch norm has gradient zero, and rounding is all that shows.
        np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-6, err_msg=name)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Reduce XLA's compile time, which dominates these tests."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("way", ["direct", "rows", pytest.param("fast", marks=pytest.mark.slow)])
def test_a_step_is_that_of_a_module_called_three_times(way: Any, tmp_path: Path) -> None:
    """Outputs, gradients, weight decay, momentum and running statistics."""
    loaded, (before, gradients, outputs, after) = recurrent(tmp_path), pytorchs()
    assert loaded.plan is not None
    cut = Microbatching(4, None) if way == "rows" else None
    net = GraphNet(loaded.plan, form="direct" if cut else way, rngs=nnx.Rngs(0), cut=cut)
    set_weights(net, before)
    network, rules = split_network(net), make_rules(loaded.experiment, None)
    optimizer = build_optimizer(loaded.experiment.train, 1)
    images, labels = batch()
    arrays, everything = Arrays(jnp.asarray(images), jnp.asarray(labels)), jnp.arange(NUM_IMAGES)
    state = init_state(network, optimizer)

    def loss_of(params: Any) -> Any:
        model = nnx.merge(network.training, params, network.rest, copy=True)
        logits = model(images / jnp.float32(256))
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean(), logits

    if not cut:
        slopes, logits = jax.jit(jax.grad(loss_of, has_aux=True))(state.params)
        np.testing.assert_allclose(logits, outputs, rtol=1e-4, atol=1e-5)
        near(by_name(slopes), gradients)
    step = functools.partial(
        train_step, graphdef=network.training, optimizer=optimizer, rules=rules
    )
    moved, _ = jax.jit(step)(state, arrays, everything)
    statistics, _ = nnx.split_state(moved.rest, nnx.BatchStat, ...)
    near(by_name(moved.params) | by_name(statistics), after)


def test_parameters_count_once_and_multiplications_each_time(tmp_path: Path) -> None:
    plan = recurrent(tmp_path).plan
    assert plan is not None
    before = pytorchs()[0]
    assert plan.num_params == sum(value.size for value in before.values())
    names = {f"{node.name}.{key}" for node in plan.nodes for key in node.params}
    assert names == before.keys()
    costs = {node.name: node.layout.multiply_adds for node in plan.nodes}
    assert [costs[f"stage.{i}.conv"] for i in range(3)] == [9 * 8 * 4 * 4 * 9] * 3
