"""The experiment as a value: what its fields take, its identity, its members."""

import inspect
from typing import Any

import optax
import pytest
from pydantic import TypeAdapter, ValidationError

from cnnbench.layers import OPERATIONS
from cnnbench.layers.fields import MAX_SEEDS, Inputs, Padding, Seeds, ShapeField, Size
from cnnbench.spec.experiment import LOSSES, Experiment, Task
from cnnbench.spec.loader import load_experiment
from cnnbench.spec.metrics import names_of
from cnnbench.spec.optimizers import OPTIMIZERS, SCHEDULES
from tests.support.paths import EXPERIMENTS

MINIMAL: dict[str, Any] = {
    "name": "idea",
    "task": "classify",
    "dataset": {"name": "mnist"},
    "model": {"layers": {"out": {"op": "dense", "units": 10}}},
}


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(MINIMAL | changes)


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (Size, 5, (5, 5)),
        (Size, [3, 5], (3, 5)),
        (Padding, "same", "same"),
        (Padding, "valid", "valid"),
        (Padding, 0, (0, 0)),
        (Padding, [0, 2], (0, 2)),
        (Inputs, None, None),
        (Inputs, "a", ("a",)),
        (Inputs, ["a", "b"], ("a", "b")),
        (ShapeField, [10], (10,)),
        (ShapeField, [4, 4, 32], (4, 4, 32)),
        (Seeds, 3, (0, 1, 2)),
        (Seeds, [7, 0], (7, 0)),
        (Seeds, [2**32 - 1], (2**32 - 1,)),
        (Seeds, MAX_SEEDS, tuple(range(MAX_SEEDS))),
    ],
)
def test_short_and_long_forms(kind: Any, given: Any, expected: Any) -> None:
    assert TypeAdapter(kind).validate_python(given) == expected


@pytest.mark.parametrize(
    ("kind", "given", "message", "remedy"),
    [
        (
            Size,
            True,
            "true is not a valid size",
            "use a positive integer, or a pair [height, width] such as [3, 5]",
        ),
        (
            Size,
            [3, 0],
            "[3, 0] is not a valid size",
            "use a positive integer, or a pair [height, width] such as [3, 5]",
        ),
        (Size, "5", "expected a number, got the string '5'", "remove the quotes"),
        (
            Padding,
            "full",
            "'full' is not a valid padding",
            "use valid, same, a non-negative integer, or a pair such as [1, 2]",
        ),
        (Padding, "1", "expected a number, got the string '1'", "remove the quotes"),
        (
            Padding,
            [1, 2, 3],
            "[1, 2, 3] is not a valid padding",
            "use valid, same, a non-negative integer, or a pair such as [1, 2]",
        ),
        (Inputs, [], "[] is not a layer name", "use a layer name or a list of names"),
        (Inputs, ["a", 1], "['a', 1] is not a layer name", "use a layer name or a list of names"),
        (
            ShapeField,
            [4, 4],
            "[4, 4] is not a valid shape",
            "use [height, width, channels] or [units]",
        ),
        (ShapeField, 512, "512 is not a valid shape", "use [height, width, channels] or [units]"),
        (Seeds, "3", "expected a number, got the string '3'", "remove the quotes"),
        (
            Seeds,
            True,
            "true is not a valid seeds value",
            "use a number of seeds (1 or more), or a list such as [0, 1, 2]",
        ),
        (
            Seeds,
            [],
            "[] is not a valid seeds value",
            "use a number of seeds (1 or more), or a list such as [0, 1, 2]",
        ),
        (Seeds, [4, 4], "duplicate seed 4", "list each seed once"),
        (Seeds, [2**32], "seed 4294967296 is too large", "use seeds below 4294967296"),
        (Seeds, 10**12, "1000000000000 seeds are too many", "use at most 1,000"),
        (Seeds, list(range(1001)), "1,001 seeds are too many", "use at most 1,000"),
    ],
)
def test_wrong_forms(kind: Any, given: Any, message: str, remedy: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(given)
    (detail,) = caught.value.errors()
    assert detail["msg"] == f"{message}; {remedy}"


def test_defaults_are_those_of_the_lasagne_example() -> None:
    train = experiment().train
    assert (train.epochs, train.batch_size) == (30, 500)
    assert train.optimizer.model_dump() == {
        "name": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.0,
        "decay_on": "kernels",
    }
    assert experiment().dataset.pixel_scale == 256
    assert experiment().seeds == (0,)
    assert experiment().type_title == "idea"
    assert experiment(title="An idea").type_title == "An idea"


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"muon"}))
def test_optimizer_options_are_arguments_of_optax_with_its_defaults(name: str) -> None:
    parameters = inspect.signature(getattr(optax, name)).parameters
    fields = OPTIMIZERS[name].model_fields
    own_defaults = {"sgd": {"momentum", "nesterov"}, "rmsprop": {"momentum"}, "adagrad": set()}
    for key, field in fields.items():
        if key in {"name", "learning_rate", "decay_on"}:
            continue
        if key == "weight_decay" and key not in parameters:
            assert field.default == 0
            continue
        assert key in parameters
        if key not in own_defaults.get(name, set()):
            assert field.default == parameters[key].default, key


@pytest.mark.parametrize("short", [*OPTIMIZERS, *sorted({*SCHEDULES} - {"step", "multi_step"})])
def test_a_name_is_short_for_an_optimizer_or_schedule_of_that_name(short: str) -> None:
    key = "optimizer" if short in OPTIMIZERS else "schedule"
    assert experiment(train={key: short}) == experiment(train={key: {"name": short}})


def test_experiments_are_frozen_all_the_way_down() -> None:
    value = experiment()
    with pytest.raises(ValidationError, match="frozen"):
        value.train.epochs = 3  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        value.model.layers["more"] = value.model.layers["out"]


def test_every_task_has_losses_and_metrics() -> None:
    assert set(LOSSES) == set(Task)
    assert all(names_of(task) for task in Task)


def test_operations_are_those_of_the_language() -> None:
    assert list(OPERATIONS) == [
        "conv",
        "conv_transpose",
        "max_pool",
        "avg_pool",
        "upscale",
        "dense",
        "dropout",
        "spatial_dropout",
        "drop_path",
        "gaussian_noise",
        "masking_noise",
        "sample",
        "vector_quantizer",
        "slice",
        "zero_pad",
        "crop",
        "channel_shuffle",
        "space_to_depth",
        "depth_to_space",
        "flatten",
        "reshape",
        "permute",
        "concat",
        "add",
        "multiply",
        "activation",
        "prelu",
        "softmax",
        "attention",
        "position_embedding",
        "class_token",
        "batch_norm",
        "layer_norm",
        "group_norm",
        "scale",
        "global_avg_pool",
        "global_max_pool",
    ]


class TestDigest:
    def test_of_older_versions_is_the_same(self) -> None:
        """A key that was added later is left out while it has its default."""
        path = EXPERIMENTS / "standard.yaml"
        old = "sha256:fa999172670f1f2b906467b3b03fcf01f4b338303a9cbc763a05719b99dbf8a5"
        assert load_experiment(path).experiment.digest() == old
        for override in ("model.conv1.groups=1", "model.conv1.dilation=1"):
            assert load_experiment(path, [override]).experiment.digest() == old
        assert load_experiment(path, ["train.label_smoothing=0"]).experiment.digest() == old
        assert load_experiment(path, ["train.label_smoothing=0.1"]).experiment.digest() != old
        for override in ("model.conv2.groups=2", "model.conv1.dilation=2"):
            assert load_experiment(path, [override]).experiment.digest() != old

    def test_ignores_what_does_not_affect_training(self) -> None:
        digest = experiment().digest()
        assert digest.startswith("sha256:")
        assert len(digest) == 7 + 64
        for same in (
            {"name": "other"},
            {"title": "Other"},
            {"seeds": 5},
            {"train": {"epochs": 30}},
        ):
            assert experiment(**same).digest() == digest

    @pytest.mark.parametrize(
        "change",
        [
            {"task": "reconstruct"},
            {"dataset": {"name": "kmnist"}},
            {"dataset": {"name": "mnist", "offline": "mnist_5k"}},
            {"dataset": {"name": "mnist", "pixel_scale": 255}},
            {"dataset": {"name": "mnist", "train_examples": 100}},
            {"dataset": {"name": "mnist", "splits": {"test": 100}}},
            {"model": {"layers": {"out": {"op": "dense", "units": 11}}}},
            {"model": {"layers": {"end": {"op": "dense", "units": 10}}}},
            {"model": {"layers": {"out": {"op": "dense", "units": 10, "init": "zeros"}}}},
            {"model": {"python": "a.b:C"}},
            {"model": {"python": "a.b:C", "args": {"x": 1}}},
            {"train": {"epochs": 29}},
            {"train": {"batch_size": 499}},
            {"train": {"optimizer": "adam"}},
            {"train": {"optimizer": {"name": "sgd", "momentum": 0.8}}},
            {"train": {"schedule": "cosine"}},
            {"train": {"metrics": ["top5_accuracy"]}},
        ],
        ids=str,
    )
    def test_changes_with_everything_else(self, change: dict[str, Any]) -> None:
        assert experiment(**change).digest() != experiment().digest()

    def test_tells_the_order_of_layers_apart(self) -> None:
        """A layer reads the previous one, so the order is part of the network."""
        first, second = {"op": "dense", "units": 10}, {"op": "dropout", "rate": 0.5}
        one = experiment(model={"layers": {"a": first, "b": second}})
        other = experiment(model={"layers": {"b": second, "a": first}})
        assert one.digest() != other.digest()

    def test_is_the_same_for_short_and_long_forms(self) -> None:
        short = {"op": "conv", "filters": 3, "kernel": 5, "inputs": "input"}
        long = {"op": "conv", "filters": 3, "kernel": [5, 5], "inputs": ["input"], "stride": 1}
        one = experiment(model={"layers": {"a": short}})
        other = experiment(model={"layers": {"a": long}})
        assert one.digest() == other.digest()
