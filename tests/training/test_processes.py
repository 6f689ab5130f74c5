"""What several processes train, on two devices of one: the numbers of one device, few exchanges."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnnbench.data.batches import batches
from cnnbench.spec.optimizers import Optimizer
from cnnbench.training.executables import Executables, Job, compile_train, lower_train, set_up
from cnnbench.training.strategy import Strategy, candidates, requested_strategy, spread
from tests.support.processes import as_processes
from tests.support.streams import streamed
from tests.training.test_trainer import CLASSES, Layers, make_dataset, make_job

NORM = {"op": "batch_norm"}
CONV: Layers = {"conv": {"op": "conv", "filters": 4, "kernel": 2, "use_bias": False}}
TANH: Layers = {"tanh": {"op": "activation", "activation": "tanh"}}
DENSE: Layers = {"dense": {"op": "dense", "units": CLASSES}}
BATCH = 8
NUM_STEPS = 4
AUGMENT: dict[str, Any] = {
    "random_translation": {"pixels": 1},
    "random_flip": "horizontal",
    "random_erasing": {},
    "mixup": {},
    "cutmix": {},
}


def strategy_of(job: Job, form: str) -> Strategy:
    """The strategy that the devices of a job would have in several processes."""
    number, precision = len(job.devices), job.experiment.train.precision
    counts = (job.batch_size, 1, number)
    found = candidates(job.plan, *counts, accelerator=False, precision=precision)
    found = spread(found, job.batch_size, number) if number > 1 else found
    chosen = requested_strategy(form, found)
    assert chosen
    return chosen


def job_of(layers: Layers, num_devices: int, **options: Any) -> Job:
    dataset = make_dataset(BATCH * NUM_STEPS, 0, 4)
    return make_job(layers, dataset, num_devices=num_devices, batch_size=BATCH, epochs=1, **options)


# Exchanges.

EXCHANGE = re.compile(r" = (.*) (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(")
ARRAY = re.compile(r"\w+\[")  # in the type of a result, which may be a tuple


def exchanges(setup: Executables) -> Counter[str]:
    """Arrays that processes exchange in a compiled step, by kind."""
    network = setup.network(0)
    lowered, _ = lower_train(setup, network, setup.state(network))
    counts: Counter[str] = Counter()
    for result, kind in EXCHANGE.findall(str(lowered.compile().as_text())):
        counts[kind] += len(ARRAY.findall(result))
    return counts


@pytest.mark.parametrize(
    ("layers", "sums"),
    [
        ({**CONV, **TANH, **DENSE}, 1),  # all gradients and the loss
        ({**CONV, "norm": NORM, **DENSE}, 3),  # statistics, their gradients with the loss; the rest
        ({**CONV, "norm": NORM, **TANH, "hidden": {"op": "dense", "units": 5}, "norm2": NORM,
          **DENSE}, 5),
        ({"a": CONV["conv"], "na": NORM, "b": {**CONV["conv"], "inputs": "input"}, "nb": NORM,
          "sum": {"op": "add", "inputs": ["na", "nb"]}, **DENSE}, 3),  # both at once
    ],
)  # fmt: skip
@pytest.mark.sampled(2)
def test_a_step_exchanges_few_arrays(layers: Layers, sums: int) -> None:
    """Two for each batch norm that needs another one before it, and one for all gradients."""
    job = job_of(layers, 2)
    with as_processes():
        assert exchanges(set_up(job, strategy_of(job, "direct"))) == {"all-reduce": sums}


def test_a_streamed_step_also_exchanges_its_images() -> None:
    job = job_of({**CONV, **TANH, **DENSE}, 2)
    job = replace(job, dataset=streamed(job.dataset))
    with as_processes():
        found = exchanges(set_up(job, strategy_of(job, "direct")))
    assert found == {"all-reduce": 1, "all-gather": 1}


# Any recipe.

OPTIMIZERS = tuple(
    get_args(get_type_hints(rule)["name"])[0] for rule in get_args(get_args(Optimizer)[0])
)
SCHEDULES: tuple[dict[str, Any], ...] = (
    {"name": "constant"},
    {"name": "cosine", "warmup_epochs": 0.5},
    {"name": "linear"},
    {"name": "polynomial", "power": 2.0},
    {"name": "exponential", "rate": 0.5},
    {"name": "one_cycle"},
)
PARTS: Mapping[str, Layers] = {
    "norm": {"norm": NORM},
    "drop": {"drop": {"op": "dropout", "rate": 0.4}},
    "hidden": {"hidden": {"op": "dense", "units": 5, "use_bias": False}, "norm2": NORM},
    "maps": {"maps": {"op": "spatial_dropout", "rate": 0.3, "inputs": "tanh"}},
}


@dataclass(frozen=True)
class Recipe:
    """A network and its training."""

    layers: Layers
    form: str
    options: Mapping[str, Any]


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    def some(names: Iterable[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(sorted(names)), unique=True, max_size=3))

    def maybe(*values: Any) -> Any:
        return draw(st.none() | st.sampled_from(values))

    chosen = some(PARTS)
    layers = {
        **CONV,
        **(PARTS["norm"] if "norm" in chosen else {}),
        **TANH,
        **(PARTS["maps"] if "maps" in chosen else {}),
        **(PARTS["hidden"] if "hidden" in chosen else {}),
        **(PARTS["drop"] if "drop" in chosen else {}),
        **DENSE,
    }
    options = {
        "optimizer": {"name": draw(st.sampled_from(OPTIMIZERS)), "learning_rate": 0.01},
        "schedule": draw(st.sampled_from(SCHEDULES)),
        "precision": draw(st.sampled_from(["float32", "float32", "bfloat16"])),
        "clip": maybe({"norm": 0.5}, {"value": 0.01}),
        "ema": maybe({"decay": 0.8}),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1])),
        "class_weights": maybe([1.0 + label for label in range(CLASSES)]),
        "augment": {name: AUGMENT[name] for name in some(AUGMENT)} or None,
    }
    return Recipe(layers, draw(st.sampled_from(["direct", "plain"])), options)


def trained(recipe: Recipe, num_devices: int) -> tuple[Any, Any, list[float]]:
    """What is evaluated before and after some steps, and the loss of each."""
    job = job_of(recipe.layers, num_devices, **recipe.options)
    setup = set_up(job, strategy_of(job, recipe.form))
    network = setup.network(0)
    state, losses = setup.state(network), []
    before = jax.tree.map(np.asarray, jax.tree.leaves(state.model[0]))
    step = compile_train(setup, network, state)
    for indices in batches(0, 1, job.num_train, BATCH):
        state, loss = step(state, setup.arrays, indices[None])
        losses.append(float(loss[0]))
    return before, jax.tree.map(np.asarray, jax.tree.leaves(state.model[0])), losses


def check_same(recipe: Recipe) -> None:
    before, one, losses = trained(recipe, 1)
    with as_processes():
        _, two, got = trained(recipe, 2)
    # Eight bits of bfloat16; otherwise rounding, which optimizers divide by small gradients.
    error = 2e-2 if recipe.options["precision"] == "bfloat16" else 1e-4
    moved = max(np.abs(b - a).max() for a, b in zip(before, one, strict=True))
    assert moved > 0
    np.testing.assert_allclose(got, losses, rtol=error)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=error, atol=10 * error * moved)


def test_two_processes_train_what_one_trains() -> None:
    options = {
        "optimizer": "adam",
        "schedule": SCHEDULES[1],
        "precision": "float32",
        "clip": {"norm": 0.5},
        "ema": {"decay": 0.8},
        "augment": {"random_flip": "horizontal"},
    }
    check_same(
        Recipe({**CONV, **PARTS["norm"], **TANH, **PARTS["drop"], **DENSE}, "direct", options)
    )


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(recipe=recipes())
def test_any_recipe_is_the_same_in_two_processes(recipe: Recipe) -> None:
    check_same(recipe)
