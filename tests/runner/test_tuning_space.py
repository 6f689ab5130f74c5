"""The space of ``run --tune``: its syntax, the keys of an experiment, the points to try."""

from pathlib import Path

import pytest

from cnnbench.errors import UsageError
from cnnbench.runner.tuning_space import (
    FACTORS,
    Axis,
    choose_points,
    flattened,
    parse_axes,
    resolve_key,
    settings_at,
)
from cnnbench.spec.experiment import Experiment
from cnnbench.spec.loader import load_experiment

SPEC = """\
name: net
task: classify
dataset: {name: mnist_5k}
model:
  layers:
    conv1: {op: conv, filters: 8, kernel: 5}
    drop1: {op: dropout, rate: 0.25}
    drop2: {op: dropout, rate: 0.5}
    out: {op: dense, units: 10}
train: {epochs: 2, batch_size: 100, optimizer: {name: adamw, learning_rate: 0.002}}
"""


@pytest.fixture(name="net")
def _net(tmp_path: Path) -> Experiment:
    path = tmp_path / "net.yaml"
    path.write_text(SPEC)
    return load_experiment(path).experiment


def message(call) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "--tune: a key is missing; write, for example, --tune learning_rate=x0.3:x1:x3."),
        (
            "=1:2",
            "--tune: a key is missing; write, for example, --tune learning_rate=x0.3:x1:x3.",
        ),
        (
            "a=x1:x3,x10",
            "--tune: 'x10' is not a key; write, for example, --tune learning_rate=x0.3:x1:x3.",
        ),
        (
            "a=0.1",
            "--tune a: '0.1' is not a list of values; write at least two with colons, such as"
            " learning_rate=x0.3:x1:x3.",
        ),
        (
            "a=0.1:",
            "--tune a: '0.1:' is not a list of values; write at least two with colons, such as"
            " learning_rate=x0.3:x1:x3.",
        ),
        (
            "a=x0.3:1",
            "--tune a: x0.3 is a factor, and 1 is a value; write all with x, or all without.",
        ),
        ("a=x1:x1", "--tune a: x1 is given twice; remove one of them."),
        (
            "a=x1:x0",
            "--tune a: 'x0' is not a factor; write a positive number after the x, such as x0.3.",
        ),
        (
            "a=x1:xy",
            "--tune a: 'xy' is not a factor; write a positive number after the x, such as x0.3.",
        ),
        ("a,b,a=1:2", "--tune: 'a' is given twice; remove one of them."),
    ],
)
def test_what_is_not_a_space(text: str, says: str) -> None:
    assert message(lambda: parse_axes([text])) == says


def test_an_axis_is_written_as_it_is_read() -> None:
    (axis,) = parse_axes(["learning_rate"])
    assert axis.factors == FACTORS
    assert parse_axes([axis.text]) == (axis,)
    assert parse_axes(["a", "b=sgd:adam"]) == (Axis("a", FACTORS), Axis("b", (), ("sgd", "adam")))


@pytest.mark.parametrize(
    ("key", "paths"),
    [
        ("learning_rate", ["train.optimizer.learning_rate"]),
        ("optimizer.learning_rate", ["train.optimizer.learning_rate"]),
        ("train.batch_size", ["train.batch_size"]),
        ("weight_decay", ["train.optimizer.weight_decay"]),
        ("drop1.rate", ["model.drop1.rate"]),
        ("model.layers.drop2.rate", ["model.drop2.rate"]),
        ("model.*.rate", ["model.drop1.rate", "model.drop2.rate"]),
    ],
)
def test_names_of_keys(net: Experiment, key: str, paths: list[str]) -> None:
    assert list(resolve_key(key, dict(flattened(net)), "net.yaml")) == paths


@pytest.mark.parametrize(
    ("key", "says"),
    [
        (
            "lr",
            "--tune: net.yaml has no 'lr' (did you mean 'learning_rate'?); write, for example,"
            " train.optimizer.learning_rate, train.optimizer.b1, train.optimizer.b2 or"
            " train.optimizer.eps.",
        ),
        (
            "rate",
            "--tune: 'rate' may be model.drop1.rate, model.drop2.rate in net.yaml; write one, or"
            " '*.rate' for all of them.",
        ),
        (
            "train.rate",
            "--tune: net.yaml has no 'train.rate'; write, for example, model.drop1.rate or"
            " model.drop2.rate.",
        ),
        (
            "epochs",
            "--tune: epochs is part of the budget, which is equal for all; set it with --epochs.",
        ),
        (
            "train.epochs",
            "--tune: epochs is part of the budget, which is equal for all; set it with --epochs.",
        ),
        (
            "seeds",
            "--tune: seeds is part of the budget, which is equal for all; set it with --seeds.",
        ),
        (
            "title",
            "--tune: title is not a setting of the network or its training; tune a key of train,"
            " model or dataset.augment.",
        ),
    ],
)
def test_keys_that_cannot_be_tuned(net: Experiment, key: str, says: str) -> None:
    flat = dict(flattened(net))
    assert message(lambda: resolve_key(key, flat, "net.yaml")) == says


@pytest.mark.parametrize(
    ("text", "point", "found"),
    [
        ("learning_rate=x0.1:x1", 0, [("train.optimizer.learning_rate=0.0002", False)]),
        ("learning_rate=x0.1:x1", 1, [("train.optimizer.learning_rate=0.002", True)]),
        ("learning_rate=0.001:2e-3", 1, [("train.optimizer.learning_rate=2e-3", True)]),
        ("batch_size=x0.333:x1", 0, [("train.batch_size=33", False)]),
        ("filters=x0.01:x1", 0, [("model.conv1.filters=1", False)]),
        (
            "*.rate=x0.5:x1",
            0,
            [("model.drop1.rate=0.125", False), ("model.drop2.rate=0.25", False)],
        ),
        ("train.optimizer=adamw:sgd", 0, [("train.optimizer=adamw", True)]),
        ("train.ema.decay=0.9:0.99", 0, [("train.ema.decay=0.9", False)]),
    ],
)
def test_settings(net: Experiment, text: str, point: int, found: list[tuple[str, bool]]) -> None:
    (axis,) = parse_axes([text])
    settings = settings_at(axis, point, net, "net.yaml")
    assert [(s.override, s.written) for s in settings] == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "label_smoothing",
            "--tune label_smoothing: in net.yaml train.label_smoothing is 0, and so is every"
            " multiple of it; write values, such as label_smoothing=1e-4:1e-3.",
        ),
        (
            "train.clip",
            "--tune train.clip: in net.yaml train.clip is not set; write values, such as"
            " train.clip=1e-4:1e-3.",
        ),
        (
            "train.drop_last",
            "--tune train.drop_last: in net.yaml train.drop_last is not a number; write values,"
            " such as train.drop_last=1e-4:1e-3.",
        ),
    ],
)
def test_values_without_multiples(net: Experiment, text: str, says: str) -> None:
    (axis,) = parse_axes([text])
    assert message(lambda: settings_at(axis, 0, net, "net.yaml")) == says


AXES = parse_axes(["learning_rate,batch_size=x0.5:x1:x2"])


def test_all_combinations_without_a_budget() -> None:
    assert choose_points(AXES, None) == tuple((i, j) for i in range(5) for j in range(3))


@pytest.mark.parametrize("trials", [1, 2, 7, 14, 15])
def test_a_budget_is_met_with_different_points_and_that_as_written(trials: int) -> None:
    points = choose_points(AXES, trials)
    assert len(set(points)) == len(points) == trials
    assert (2, 1) in points
    assert set(points) <= set(choose_points(AXES, None))
    assert list(points) == sorted(points)


def test_a_budget_fills_the_space_better_than_the_first_combinations() -> None:
    axes = parse_axes(["a", "b"])
    rows, columns = map(set, zip(*choose_points(axes, 8), strict=True))
    assert (len(rows), len(columns)) == (5, 4)  # the first eight are of two rows


@pytest.mark.parametrize(
    ("texts", "trials", "says"),
    [
        (
            ["a"],
            6,
            "--trials: 6 is more than the 5 combinations; omit it to try all, or add values.",
        ),
        (
            ["a,b,c"],
            None,
            "--tune: 125 combinations for each experiment; state a budget with --trials N, or try"
            " fewer values.",
        ),
    ],
)
def test_budgets_that_do_not_fit(texts: list[str], trials: int | None, says: str) -> None:
    assert message(lambda: choose_points(parse_axes(texts), trials)) == says
