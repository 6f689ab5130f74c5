"""Muon against PyTorch's, in float64, and what it does to singular values."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from cnnbench.graph.plan import Plan
from cnnbench.spec.experiment import TrainSpec
from cnnbench.training.optim.muon import orthogonalized
from cnnbench.training.optim.optimizer import last_kernel_layer
from tests.support.oracles import Array, make_plan
from tests.support.training import bowl, descend

LAYERS: Mapping[str, dict[str, Any]] = {
    "conv": {"op": "conv", "filters": 5, "kernel": [3, 2]},
    "depthwise": {"op": "conv", "filters": 10, "kernel": 2, "groups": "depthwise"},
    "up": {"op": "conv_transpose", "filters": 4, "kernel": 2, "stride": 2},
    "mix": {"op": "attention", "heads": 2},
    "norm": {"op": "batch_norm"},
    "place": {"op": "position_embedding"},
    "out": {"op": "dense", "units": 3},
}


def network() -> tuple[Plan, dict[str, dict[str, Array]]]:
    """A network, and random parameters by layer."""
    plan = make_plan({name: dict(layer) for name, layer in LAYERS.items()}, (5, 4, 2), (3,))
    rng = np.random.default_rng(3)
    params = {
        node.name: {key: rng.normal(size=shape) for key, shape in node.layout.params.items()}
        for node in plan.nodes
        if node.layout.params
    }
    return plan, params


def ours(spec: TrainSpec, steps: int) -> Any:
    plan, params = network()
    return descend(spec, plan, params, steps)


def is_muons(layer: str, name: str, last_layer: str) -> bool:
    return name.endswith("kernel") and (layer != "out" or last_layer == "muon")


def as_matrix(kernel: Array) -> Array:
    """A kernel as Jordan's code flattens PyTorch's: `weight.view(len(weight), -1)`."""
    axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    return np.ascontiguousarray(kernel.transpose(axes).reshape(kernel.shape[-1], -1))


@pytest.mark.parametrize(
    ("nesterov", "last_layer", "decay_on"),
    [(True, "adamw", "kernels"), (False, "muon", "kernels"), (True, "muon", "all")],
)
def test_muon_is_pytorchs(
    nesterov: bool, last_layer: str, decay_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels as matrices by `torch.optim.Muon`, the rest by AdamW, both on one schedule."""
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    # PyTorch iterates in bfloat16, and in place.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    tensors: dict[tuple[str, str], Any] = {}
    groups: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for layer, named in network()[1].items():
        for name, value in named.items():
            muon = is_muons(layer, name, last_layer)
            decay = 0.2 * (name.endswith("kernel") or decay_on == "all")
            tensor = torch.tensor(as_matrix(value) if muon else value)
            tensors[layer, name] = tensor
            groups[muon].append({"params": [tensor], "weight_decay": decay})
    rules = [
        torch.optim.Muon(groups[True], lr=0.05, momentum=0.9, nesterov=nesterov, ns_steps=4),
        torch.optim.AdamW(groups[False], lr=0.03, betas=(0.9, 0.95), eps=1e-10),
    ]
    schedules = [torch.optim.lr_scheduler.StepLR(rule, 2, 0.1) for rule in rules]
    for _ in range(6):
        for tensor in tensors.values():
            tensor.grad = bowl(tensor)
        for each in (*rules, *schedules):
            each.step()
    options = {"name": "muon", "learning_rate": 0.05, "momentum": 0.9, "nesterov": nesterov}
    options |= {"ns_steps": 4, "last_layer": last_layer, "adam_learning_rate": 0.03}
    options |= {"weight_decay": 0.2, "decay_on": decay_on}
    train = {"epochs": 3, "optimizer": options, "schedule": {"name": "step", "every": 1}}
    got = ours(TrainSpec.model_validate(train), 6)
    for (layer, name), tensor in tensors.items():
        found = np.asarray(got[layer][name])
        found = as_matrix(found) if is_muons(layer, name, last_layer) else found
        np.testing.assert_allclose(found, tensor, rtol=1e-6, err_msg=f"{layer}.{name}")


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (1, 5)])
def test_orthogonalized_singular_values_are_near_one(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    assert min(s) > 0.02 * np.linalg.norm(s)
    got = np.asarray(orthogonalized(jnp.asarray(matrix, jnp.float32), 5))
    inner = u.T @ got @ vt.T
    assert np.all((np.diag(inner) > 0.6) & (np.diag(inner) < 1.3))
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-4)


def test_a_gradient_of_zero_moves_nothing() -> None:
    np.testing.assert_array_equal(orthogonalized(jnp.zeros((3, 2)), 5), np.zeros((3, 2)))


def test_the_last_layer_is_the_last_with_a_kernel_of_its_own() -> None:
    assert last_kernel_layer(network()[0]) == "out"
    tied: dict[str, dict[str, Any]] = {
        "conv": {"op": "conv", "filters": 4, "kernel": 3},
        "back": {"op": "conv_transpose", "tie": "conv"},
    }
    assert last_kernel_layer(make_plan(tied, (5, 5, 1), (5, 5, 1))) == "conv"
    pool: dict[str, dict[str, Any]] = {
        "pool": {"op": "max_pool", "size": 1},
        "norm": {"op": "batch_norm"},
    }
    assert last_kernel_layer(make_plan(pool, (5, 5, 1), (5, 5, 1))) is None
