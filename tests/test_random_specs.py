"""The random networks of the benchmark: always valid, always the same, and of every kind."""

from pathlib import Path

import pytest

from benchmarks import random_specs
from cnnbench.benchmark import Ratio
from cnnbench.loader import Loaded, load_experiment
from cnnbench.stats import Interval

NUMBERS = range(40)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[Loaded]:
    folder: Path = tmp_path_factory.mktemp("specs")
    return [load_experiment(path) for path in random_specs.write_specs(folder, len(NUMBERS))]


def test_every_number_is_a_network_of_moderate_cost(loaded):
    for number, each in zip(NUMBERS, loaded, strict=True):
        assert each.experiment.name == f"random-{number:02d}"
        assert 1e6 <= each.plan.multiply_adds <= 3e7
        assert each.plan.num_params > 0


def test_a_number_is_always_the_same_network():
    assert [random_specs.spec_text(n) for n in range(5)] == [
        random_specs.spec_text(n) for n in range(5)
    ]
    assert len({random_specs.spec_text(n) for n in NUMBERS}) == len(NUMBERS)


def test_all_kinds_of_networks_occur(loaded):
    ops = [node.op for each in loaded for node in each.plan.nodes]
    assert {op.op for op in ops} >= {
        "conv",
        "conv_transpose",
        "max_pool",
        "avg_pool",
        "batch_norm",
        "concat",
        "add",
        "dropout",
        "global_avg_pool",
        "dense",
    }
    convs = [op for op in ops if op.op == "conv"]
    assert {op.kernel[0] for op in convs} == set(range(2, 8))
    assert {op.stride for op in convs} == {(1, 1), (2, 2)}
    assert {"valid", "same", (1, 1), (2, 2)} <= {op.padding for op in convs}
    assert {each.plan.input_shape for each in loaded} == {(28, 28, 1), (32, 32, 3)}
    assert {op.tie is None for op in ops if op.op == "conv_transpose"} == {True, False}


def test_images_fit_the_network(loaded):
    for each in loaded[:5]:
        train, test = random_specs.random_splits(each)
        assert train.images.shape[1:] == test.images.shape[1:] == each.plan.input_shape
        assert (len(train), len(test)) == (2_000, 500)
        assert train.labels.max() < each.info.num_classes


def test_losers_are_named():
    ratios = {
        "a": Ratio(0.99, Interval(0.9, 1.1)),
        "b": Ratio(1.0, Interval(0.9, 1.1)),
        "c": None,
    }
    assert random_specs.losers(ratios) == ["a", "c"]
