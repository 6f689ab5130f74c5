"""Schedules and optimizers against NumPy formulas and PyTorch."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnbench.nn.graph_net import GraphNet
from cnnbench.spec.experiment import TrainSpec
from cnnbench.spec.optimizers import OPTIMIZERS, SCHEDULES, depends_on_total
from cnnbench.training.optim.optimizer import build_optimizer, kernels
from cnnbench.training.optim.schedules import learning_rate
from cnnbench.training.state import TrainState, split_network
from tests.support.oracles import Array, make_plan


def train_spec(**train: Any) -> TrainSpec:
    return TrainSpec.model_validate(train)


# Learning rates.

EPOCHS, STEPS, BASE = 8, 10, 0.5


def _cosine(step: int) -> float:
    return BASE * (0.2 + 0.8 * (1 + math.cos(math.pi * step / 80)) / 2)


def _warm_cosine(step: int) -> float:
    if step < 20:
        return BASE * step / 20
    return BASE * (1 + math.cos(math.pi * (step - 20) / 60)) / 2


def _one_cycle(step: int) -> float:
    """The rise ends one step early, as in PyTorch."""
    first, top = BASE / 25, 0.3 * 80 - 1
    if step <= top:
        return BASE + (first - BASE) * (1 + math.cos(math.pi * step / top)) / 2
    final = first / 1e4
    return final + (BASE - final) * (1 + math.cos(math.pi * (step - top) / (79 - top))) / 2


RATES: Mapping[str, list[tuple[dict[str, Any], Callable[[int], float]]]] = {
    "constant": [({}, lambda _: BASE)],
    "cosine": [
        ({"final_fraction": 0.2}, _cosine),
        ({"warmup_epochs": 2.0}, _warm_cosine),
    ],
    "linear": [({"final_fraction": 0.2}, lambda step: BASE * (1 - 0.8 * step / 80))],
    "exponential": [({"rate": 0.5}, lambda step: BASE * 0.5 ** (step / 10))],
    "step": [({"every": 3, "factor": 0.1}, lambda step: BASE * 0.1 ** (step // 30))],
    "polynomial": [
        ({"power": 2.0, "final_fraction": 0.2}, lambda s: BASE * (0.2 + 0.8 * (1 - s / 80) ** 2)),
    ],
    "multi_step": [
        ({"milestones": [2, 6]}, lambda step: BASE * 0.1 ** ((step >= 20) + (step >= 60))),
    ],
    "one_cycle": [({}, _one_cycle)],
}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_learning_rate_at_known_steps(name: str) -> None:
    for options, formula in RATES[name]:
        schedule = train_spec(schedule={"name": name} | options).schedule
        rate = learning_rate(schedule, BASE, EPOCHS, STEPS)
        for step in (0, 1, 15, 20, 29, 30, 31, 59, 60, 79):
            got = rate(step) if callable(rate) else rate
            assert float(got) == pytest.approx(formula(step), rel=1e-5, abs=1e-7), (options, step)


@pytest.mark.parametrize("steps", [1, 10])
def test_a_warm_up_of_nearly_all_epochs_leaves_one_decay_step(steps: int) -> None:
    """Its number of steps is rounded, but is never all of them."""
    schedule = train_spec(schedule={"name": "cosine", "warmup_epochs": 7.99}).schedule
    rate = learning_rate(schedule, BASE, EPOCHS, steps)
    last = EPOCHS * steps - 1
    rates = [float(rate(step)) for step in range(last + 1)]
    assert rates == pytest.approx([BASE * step / last for step in range(last + 1)], rel=1e-5)


def _rates(options: dict[str, Any], epochs: int = EPOCHS) -> list[float]:
    """Learning rates of all steps."""
    rate = learning_rate(train_spec(schedule=options).schedule, BASE, epochs, STEPS)
    return [float(rate(step)) for step in range(epochs * STEPS)]


@pytest.mark.parametrize(
    ("options", "kind", "theirs"),
    [
        ({"name": "multi_step", "milestones": [2, 6], "factor": 0.3}, "MultiStepLR",
         {"milestones": [20, 60], "gamma": 0.3}),
        ({"name": "polynomial", "power": 3.0}, "PolynomialLR", {"total_iters": 80, "power": 3.0}),
        ({"name": "one_cycle"}, "OneCycleLR", {"max_lr": BASE, "total_steps": 80}),
        (
            {"name": "one_cycle", "pct_start": 0.11, "div_factor": 5, "final_div_factor": 20},
            "OneCycleLR",
            {"max_lr": BASE, "total_steps": 80, "pct_start": 0.11, "div_factor": 5,
             "final_div_factor": 20},
        ),
        ({"name": "one_cycle", "pct_start": 0}, "OneCycleLR",
         {"max_lr": BASE, "total_steps": 80, "pct_start": 0.0}),
    ],
)  # fmt: skip
def test_learning_rates_of_all_steps_are_pytorchs(
    options: dict[str, Any], kind: str, theirs: dict[str, Any]
) -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=BASE, momentum=0.9)
    schedule = getattr(torch.optim.lr_scheduler, kind)(optimizer, **theirs)
    want = []
    for _ in range(80):
        want.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert _rates(options) == pytest.approx(want, rel=2e-5, abs=1e-7)


AFTER_WARMUP: Mapping[str, list[tuple[dict[str, Any], Callable[[int], float]]]] = {
    # Warmup of two epochs, as a function of all steps.
    "constant": [({}, lambda _: BASE)],
    "linear": [({}, lambda step: BASE * (80 - step) / 60)],
    "polynomial": [({"power": 2.0}, lambda step: BASE * ((80 - step) / 60) ** 2)],
    "exponential": [({"rate": 0.5}, lambda step: BASE * 0.5 ** ((step - 20) / 10))],
    "step": [({"every": 3}, lambda step: BASE * 0.1 ** (step // 30))],
    "multi_step": [
        ({"milestones": [2, 6]}, lambda step: BASE * 0.1 ** (1 + (step >= 60))),
        ({"milestones": [1, 6]}, lambda step: BASE * 0.1 ** (1 + (step >= 60))),
    ],
    "cosine": [({}, _warm_cosine)],
}


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - {"one_cycle"}))
def test_every_schedule_has_a_warmup(name: str) -> None:
    for options, formula in AFTER_WARMUP[name]:
        rates = _rates({"name": name, "warmup_epochs": 2, **options})
        want = [BASE * s / 20 if s < 20 else formula(s) for s in range(80)]
        assert rates == pytest.approx(want, rel=2e-5, abs=1e-7)


def test_rates_that_do_not_depend_on_the_number_of_epochs() -> None:
    """As promised by `depends_on_total`, on which continued runs rely."""
    for name, found in AFTER_WARMUP.items():
        for options, _ in found:
            full: dict[str, Any] = {"name": name, "warmup_epochs": 1.99, **options}
            independent = _rates(full, 2) == _rates(full, 8)[:20]
            assert independent is not depends_on_total(train_spec(schedule=full).schedule)


def test_the_schedule_reaches_the_parameters() -> None:
    """Plain SGD steps by rate times gradient; the rate of the second epoch is a tenth."""
    options = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.0, "nesterov": False}
    spec = train_spec(epochs=2, optimizer=options, schedule={"name": "step", "every": 1})
    optimizer = build_optimizer(spec, steps=2)
    state, moves = optimizer.init(jnp.zeros(())), []
    for _ in range(4):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        moves.append(-float(update))
    assert moves == pytest.approx([0.5, 0.5, 0.05, 0.05])


# Optimizers.

FIRST_STEPS: Mapping[str, Callable[[Array, Array], Array]] = {
    # From gradient g and parameter p, both vectors: the papers' formulas for the first step.
    "sgd": lambda g, _: -0.01 * (g + 0.9 * g),
    "adam": lambda g, _: -0.001 * g / (np.abs(g) + 1e-8),
    "adamw": lambda g, p: -0.001 * (g / (np.abs(g) + 1e-8) + 1e-4 * p),
    "radam": lambda g, _: -0.001 * g,  # the second moment is not used yet
    "adamax": lambda g, _: -0.002 * g / (np.abs(g) + 1e-8),
    "rmsprop": lambda g, _: -0.001 * g / np.sqrt(0.1 * g**2 + 1e-8),
    "adagrad": lambda g, _: -0.001 * g / np.sqrt(0.1 + g**2 + 1e-7),
    "adadelta": lambda g, _: -np.sqrt(1e-6) / np.sqrt(0.1 * g**2 + 1e-6) * g,
    "lamb": lambda g, p: -0.001 * _trusted(g / (np.abs(g) + 1e-6), p),
    "lars": lambda g, p: -0.001 * _trusted(g, p),
    "lion": lambda g, p: -1e-4 * (np.sign(g) + 1e-3 * p),
    "muon": lambda g, _: -3e-4 * g / (np.abs(g) + 1e-10),  # AdamW, since it is a vector
}
L2 = {
    "sgd",
    "adam",
    "radam",
    "adamax",
    "rmsprop",
    "adagrad",
    "adadelta",
    "lars",
}  # the others have decoupled decay


def _trusted(update: Array, p: Array) -> Array:
    """You et al. 2017, 2020: the update has the norm of the parameter."""
    return update * np.linalg.norm(p) / np.linalg.norm(update)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_first_step_of_each_optimizer_matches_its_paper(name: str) -> None:
    rng = np.random.default_rng(0)
    g, p = rng.normal(size=5), rng.normal(size=5)
    optimizer = build_optimizer(train_spec(optimizer=name), steps=1)
    params = {"w": jnp.asarray(p, jnp.float32)}
    update = optimizer.update({"w": jnp.asarray(g, jnp.float32)}, optimizer.init(params), params)[0]
    np.testing.assert_allclose(update["w"], FIRST_STEPS[name](g, p), rtol=2e-5)


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"muon"}))
def test_options_and_defaults_are_optax(name: str) -> None:
    theirs = inspect.signature(getattr(optax, name)).parameters
    ours = {key: field.default for key, field in OPTIMIZERS[name].model_fields.items()}
    ours.pop("name")
    ours.pop("learning_rate")
    assert ours.pop("decay_on") == ("kernels" if name in L2 else "all")
    if name in L2:
        assert ours.pop("weight_decay") == 0
    if name == "sgd":
        assert ours == {"momentum": 0.9, "nesterov": True}  # the post's, not optax's
    else:
        assert ours == {key: theirs[key].default or 0.0 for key in ours}  # None: no momentum


def _gradient_of_bowl(p: Array) -> Array:
    return np.array([3.0, 0.5, -1.0]) * p + np.array([1.0, -2.0, 0.25])


def _bowl_path(steps: int) -> Array:
    """Parameters after each step of the post's optimizer on a quadratic bowl."""
    optimizer = build_optimizer(train_spec(), steps=1)
    with jax.enable_x64(True):
        p = jnp.array([1.0, -1.0, 2.0])
        state, path = optimizer.init(p), []
        for _ in range(steps):
            update, state = optimizer.update(jnp.asarray(_gradient_of_bowl(p)), state, p)
            p = optax.apply_updates(p, update)
            path.append(np.asarray(p))
    return np.array(path)


def test_the_posts_optimizer_is_lasagnes_nesterov_momentum() -> None:
    """lasagne.updates.nesterov_momentum: v = m v - lr g; p += m v - lr g."""
    p, velocity, path = np.array([1.0, -1.0, 2.0]), np.zeros(3), []
    for _ in range(20):
        gradient = _gradient_of_bowl(p)
        velocity = 0.9 * velocity - 0.01 * gradient
        p = p + 0.9 * velocity - 0.01 * gradient
        path.append(p)
    np.testing.assert_allclose(_bowl_path(20), path, rtol=1e-12)


def test_the_posts_optimizer_is_pytorchs_nesterov_sgd() -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    p = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.01, momentum=0.9, nesterov=True)
    path = []
    for _ in range(20):
        p.grad = torch.tensor(_gradient_of_bowl(p.detach().numpy()))
        optimizer.step()
        path.append(p.detach().numpy().copy())
    np.testing.assert_allclose(_bowl_path(20), path, rtol=1e-12)


def _path(optimizer: Any, params: dict[str, Array], steps: int) -> dict[str, Array]:
    """Parameters after a number of steps on a quadratic bowl."""
    result: dict[str, Array] = _trained(optimizer, params, steps).params
    return result


def _trained(optimizer: Any, params: dict[str, Array], steps: int) -> TrainState:
    """State after a number of steps on a quadratic bowl."""
    with jax.enable_x64(True):
        p = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(p)
        for _ in range(steps):
            update, state = optimizer.update(jax.tree.map(_bowl, p), state, p)
            p = optax.apply_updates(p, update)
    return TrainState(*jax.tree.map(np.asarray, (p, {}, state)))


def _bowl(p: Any) -> Any:
    return 3 * p + 0.25


def _weights() -> dict[str, Array]:
    rng = np.random.default_rng(4)
    return {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}


@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize(
    "name", sorted({*OPTIMIZERS} - {"rmsprop", "lamb", "lars", "lion", "muon"})
)
def test_weight_decay_is_pytorchs(name: str, everything: bool) -> None:
    """L2 in all of them but AdamW; PyTorch has no LAMB, LARS and Lion, and another RMSProp."""
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    kinds = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "radam": "RAdam"}
    others = {"adagrad": {"eps": 1e-7, "initial_accumulator_value": 0.1}}
    others |= {"sgd": {"momentum": 0.9, "nesterov": True}}
    tensors = {key: torch.tensor(value) for key, value in _weights().items()}
    decays = {"kernel": 0.3, "bias": 0.3 if everything else 0.0}
    groups = [{"params": [tensors[key]], "weight_decay": decays[key]} for key in decays]
    kind = getattr(torch.optim, kinds.get(name, name.capitalize()))
    optimizer = kind(groups, lr=0.05, **others.get(name, {}))
    for _ in range(20):
        for tensor in tensors.values():
            tensor.grad = _bowl(tensor)
        optimizer.step()
    options = {"name": name, "learning_rate": 0.05, "weight_decay": 0.3}
    options["decay_on"] = "all" if everything else "kernels"
    got = _path(build_optimizer(train_spec(optimizer=options), 1), _weights(), 20)
    for key, tensor in tensors.items():
        np.testing.assert_allclose(got[key], tensor.numpy(), rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["rmsprop", "lars"])
def test_weight_decay_is_added_to_the_gradient(name: str) -> None:
    options = {"name": name, "weight_decay": 0.3}
    rule = build_optimizer(train_spec(optimizer=options), 1)
    plain = build_optimizer(train_spec(optimizer=name), 1)
    params = jax.tree.map(jnp.asarray, _weights())
    gradient = {"kernel": 2 * params["kernel"], "bias": 2 * params["bias"]}
    more = {"kernel": 2.3 * params["kernel"], "bias": 2 * params["bias"]}
    got = rule.update(gradient, rule.init(params), params)[0]
    want = plain.update(more, plain.init(params), params)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_decoupled_decay_can_be_limited_to_kernels(name: str) -> None:
    moved = {}
    for decay, decayed in ((0.0, "all"), (0.3, "kernels"), (0.3, "all")):
        options = {"name": name, "weight_decay": decay, "decay_on": decayed}
        moved[decay, decayed] = _path(
            build_optimizer(train_spec(optimizer=options), 1), _weights(), 2
        )
    none, some, everything = moved.values()
    np.testing.assert_array_equal(some["bias"], none["bias"])
    np.testing.assert_array_equal(some["kernel"], everything["kernel"])
    assert np.abs(everything["bias"] - none["bias"]).min() > 0
    assert np.abs(some["kernel"] - none["kernel"]).min() > 0


@pytest.mark.parametrize("scale", [0.01, 10.0])
@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipping_is_pytorchs(kind: str, scale: float) -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    gradients = {key: scale * value for key, value in _weights().items()}
    parameters = [torch.zeros(value.shape, dtype=torch.float64) for value in gradients.values()]
    for parameter, value in zip(parameters, gradients.values(), strict=True):
        parameter.grad = torch.tensor(value)
    clip = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}[kind]
    clip(parameters, 0.5)
    plain = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    rule = build_optimizer(train_spec(optimizer=plain, clip={kind: 0.5}), 1)
    with jax.enable_x64(True):
        moves, _ = rule.update(jax.tree.map(jnp.asarray, gradients), rule.init(_weights()))
    for key, parameter in zip(gradients, parameters, strict=True):
        np.testing.assert_allclose(-moves[key], parameter.grad.numpy(), rtol=3e-6)


def test_gradients_are_clipped_before_weight_decay() -> None:
    plain = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.5}
    rule = build_optimizer(train_spec(optimizer=plain, clip={"value": 0.25}), 1)
    params = {"kernel": jnp.full((1, 2), 4.0)}
    moves, _ = rule.update({"kernel": jnp.array([[3.0, -0.125]])}, rule.init(params), params)
    np.testing.assert_allclose(moves["kernel"], [[-2.25, -1.875]])


def test_the_moving_average_is_pytorchs() -> None:
    torch: Any = pytest.importorskip("torch", reason="needs the peers extra")
    network = torch.nn.Linear(3, 2).double()
    with torch.no_grad():
        network.weight.copy_(torch.tensor(_weights()["kernel"].T))
        network.bias.copy_(torch.tensor(_weights()["bias"]))
    rule = torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    averaged = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=rule)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for _ in range(20):
        for parameter in network.parameters():
            parameter.grad = _bowl(parameter.detach())
        optimizer.step()
        averaged.update_parameters(network)
    ours = train_spec(optimizer={"name": "sgd", "learning_rate": 0.05}, ema={"decay": 0.9})
    state = _trained(build_optimizer(ours, 1), _weights(), 20)
    np.testing.assert_allclose(state.model[0]["kernel"].T, averaged.module.weight.detach())
    np.testing.assert_allclose(state.model[0]["bias"], averaged.module.bias.detach())
    np.testing.assert_allclose(state.params["bias"], network.bias.detach())


def test_kernels_of_a_network_and_of_a_python_model() -> None:
    layers: dict[str, dict[str, Any]] = {
        "conv": {"op": "conv", "filters": 4, "kernel": 1},
        "norm": {"op": "batch_norm"},
        "mix": {"op": "attention", "heads": 2},
        "out": {"op": "dense", "units": 3},
    }
    plan = make_plan(layers, (2, 2, 1), (3,))
    network = split_network(GraphNet(plan, form="direct", rngs=nnx.Rngs(0)))

    def chosen(params: Any) -> list[str]:
        flat = jax.tree_util.tree_flatten_with_path(kernels(params))[0]
        keys = [([str(k.key) for k in path if hasattr(k, "key")], found) for path, found in flat]
        return [".".join(names[-2:]) for names, found in keys if found]

    want = ["conv.kernel", "mix.kernel", "mix.out_kernel", "out.kernel"]
    assert chosen(network.params) == want
    heads = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))  # biases have two axes
    model = nnx.Dict(a=heads, b=nnx.Embed(5, 2, rngs=nnx.Rngs(0)), c=nnx.Param(jnp.ones((2, 2))))
    want = ["key.kernel", "out.kernel", "query.kernel", "value.kernel", "c"]
    assert chosen(split_network(model).params) == want
