"""Parameter groups against PyTorch's, and with every optimizer and schedule."""

from itertools import cycle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnbench.nn.graph_net import GraphNet
from cnnbench.report.layer_table import group_lines
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.optimizers import OPTIMIZERS, SCHEDULES
from cnnbench.training.optim.optimizer import build_optimizer
from cnnbench.training.state import split_network, weights_of
from tests.support.oracles import Array, make_plan
from tests.support.training import bowl, descend

LAYERS: dict[str, dict[str, Any]] = {
    "stem": {"op": "conv", "filters": 2, "kernel": 3},
    "stage1.0.conv": {"op": "conv", "filters": 3, "kernel": 2},
    "stage1.0.norm": {"op": "batch_norm"},
    "head": {"op": "dense", "units": 3},
}
PLAN = make_plan(LAYERS, (5, 5, 1), (3,))
GROUPS: list[dict[str, Any]] = [
    {"layers": "*.norm", "learning_rate": {"times": 64}, "weight_decay": 0},
    {"layers": ["stage1.*", "absent"], "learning_rate": 0.005},
    {"layers": "h?ad", "weight_decay": 0.7},
]
# Of the optimizers below: learning rate 0.05, weight decay 0.3.
WANT = {"stem": (0.05, 0.3), "stage1.0.conv": (0.005, 0.3), "stage1.0.norm": (3.2, 0.0)}
WANT["head"] = (0.05, 0.7)


def weights() -> dict[str, dict[str, dict[str, Array]]]:
    """Random parameters, as `GraphNet` holds them: convolutions apart from submodules."""
    rng = np.random.default_rng(3)
    params = {n.name: n.layout.params for n in PLAN.nodes if n.layout.params}
    drawn = {
        layer: {name: rng.normal(size=shape) for name, shape in named.items()}
        for layer, named in params.items()
    }
    parts = {"stage1.0.norm": drawn.pop("stage1.0.norm")}
    return {"parts": parts, "weights": drawn}


def ours(steps: int, **train: Any) -> dict[str, dict[str, Any]]:
    """Parameters by layer after a number of steps, two per epoch."""
    values = descend(TrainSpec.model_validate(train), PLAN, weights(), steps)
    return {**values["weights"], **values["parts"]}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_are_pytorchs(name: str) -> None:
    """Rates, decay of kernels only, and gradients clipped over all groups together."""
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    everything = {**weights()["weights"], **weights()["parts"]}
    tensors = {
        (layer, key): torch.tensor(value)
        for layer, named in everything.items()
        for key, value in named.items()
    }
    groups = [
        {
            "params": [tensor],
            "lr": WANT[layer][0],
            "weight_decay": WANT[layer][1] if key == "kernel" else 0.0,
        }
        for (layer, key), tensor in tensors.items()
    ]
    sgd, adamw = torch.optim.SGD, torch.optim.AdamW
    rule = sgd(groups, momentum=0.9, nesterov=True) if name == "sgd" else adamw(groups)
    if name == "sgd":
        highest = [group["lr"] for group in groups]
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            rule, highest, total_steps=8, cycle_momentum=False
        )
    else:
        schedule = torch.optim.lr_scheduler.StepLR(rule, 2, 0.1)
    for _ in range(8):
        for tensor in tensors.values():
            tensor.grad = bowl(tensor)
        torch.nn.utils.clip_grad_norm_(tensors.values(), 5.0)
        rule.step()
        schedule.step()
    optimizer = {"name": name, "learning_rate": 0.05, "weight_decay": 0.3, "decay_on": "kernels"}
    by_name: dict[str, Any] = {"sgd": "one_cycle", "adamw": {"name": "step", "every": 1}}
    got = ours(
        8,
        epochs=4,
        optimizer=optimizer,
        schedule=by_name[name],
        groups=GROUPS,
        clip={"norm": 5.0},
    )
    for (layer, key), tensor in tensors.items():
        np.testing.assert_allclose(got[layer][key], tensor, rtol=2e-5, err_msg=f"{layer}.{key}")


OF_SCHEDULES: dict[str, dict[str, Any]] = {
    "step": {"every": 1},
    "multi_step": {"milestones": [1, 2]},
}
QUICK = {"lars", "muon", "adam"}
PAIRS = [
    pytest.param(one, schedule, marks=[] if one in QUICK else pytest.mark.slow)
    for one, schedule in zip(sorted(OPTIMIZERS), cycle(sorted(SCHEDULES)), strict=False)
]


@pytest.mark.parametrize(("optimizer", "schedule"), PAIRS)
def test_a_group_trains_as_a_network_of_its_own(optimizer: str, schedule: str) -> None:
    """With the rates and the decay of the group; Muon multiplies that of AdamW, too."""
    common: dict[str, Any] = {"epochs": 3}
    common["schedule"] = {"name": schedule, **OF_SCHEDULES.get(schedule, {})}
    options: dict[str, Any] = {"name": optimizer, "learning_rate": 0.01, "weight_decay": 0.25}
    groups = [{"layers": "stage1.*", "learning_rate": {"times": 0.5}, "weight_decay": 0.125}]
    got = ours(4, optimizer=options, groups=groups, **common)
    rest = ours(4, optimizer=options, **common)
    own = options | {"learning_rate": 0.005, "weight_decay": 0.125}
    own |= {"adam_learning_rate": 1.5e-4} if optimizer == "muon" else {}
    alone = ours(4, optimizer=own, **common)
    for layer, named in got.items():
        want = alone if layer.startswith("stage1.") else rest
        for key, value in named.items():
            np.testing.assert_allclose(value, want[layer][key], rtol=1e-12)
            assert np.abs(value - (rest if want is alone else alone)[layer][key]).max() > 0


@pytest.mark.parametrize("form", ["plain", "direct"])
def test_the_layers_of_a_network_are_found(form: Any) -> None:
    """Plain SGD with a learning rate of 1: the first update is the rate of each layer."""
    params = split_network(GraphNet(PLAN, form=form, rngs=nnx.Rngs(0))).params
    options = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    spec = TrainSpec.model_validate({"optimizer": options, "groups": GROUPS})
    rule = build_optimizer(spec, 1, PLAN)
    moves, _ = rule.update(jax.tree.map(jnp.ones_like, params), rule.init(params), params)
    found = weights_of(moves, nnx.State({}), layers=True)
    rates = {name: -value.mean() for name, value in found.items() if name.endswith("bias")}
    want = {"head.bias": 1, "stem.bias": 1, "stage1.0.conv.bias": 0.005, "stage1.0.norm.bias": 64}
    assert rates == pytest.approx(want)


def test_groups_are_described() -> None:
    """Parameters by hand: 2 for each of scale and bias; 2 x 2 x 2 x 3 + 3; 2 x 2 x 3 x 3 + 3."""
    options = {"name": "muon", "weight_decay": 0.25}
    spec = TrainSpec.model_validate({"optimizer": options, "groups": GROUPS})
    assert group_lines(spec, PLAN) == [
        "*.norm: learning rate 1.28 (AdamW 0.0192), weight decay 0 (1 layer, 6 parameters)",
        "stage1.*, absent: learning rate 0.005 (AdamW 7.5e-05), weight decay 0.25"
        " (1 layer, 27 parameters)",
        "h?ad: learning rate 0.02 (AdamW 0.0003), weight decay 0.7 (1 layer, 39 parameters)",
    ]
