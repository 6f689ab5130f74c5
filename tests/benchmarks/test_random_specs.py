"""The random networks of the benchmark: valid, reproducible and diverse."""

import argparse
import dataclasses
from pathlib import Path

import pytest

from benchmarks import random_specs, run
from cnnbench.bench import session
from cnnbench.bench.measurements import Benchmark, Measurement, Ratio
from cnnbench.bench.scheduler import BenchError, Settings
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.statistics.estimates import Interval

NUMBERS = range(40)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> list[Loaded]:
    folder: Path = tmp_path_factory.mktemp("specs")
    return [load_experiment(path) for path in random_specs.write_specs(folder, len(NUMBERS))]


def test_every_number_gives_a_network_of_moderate_cost(loaded):
    for number, each in zip(NUMBERS, loaded, strict=True):
        assert each.experiment.name == f"random-{number:02d}"
        assert 1e6 <= each.plan.multiply_adds <= 3e7
        assert each.plan.num_params > 0


def test_a_number_always_gives_the_same_network():
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


def test_slower_networks_are_named():
    ratios = {
        "a": Ratio(0.99, Interval(0.9, 1.1)),
        "b": Ratio(1.0, Interval(0.9, 1.1)),
        "c": None,
    }
    assert random_specs.slower(ratios) == ["a", "c"]


def network(theirs: float) -> Benchmark:
    """A network that takes one second in ours and `theirs` seconds in PyTorch."""
    ours = Measurement("cnnbench", "cnnbench", seconds=(1.0, 1.0), images=100)
    torch = Measurement("torch-eager-nchw", "torch", seconds=(theirs, theirs), images=100)
    return Benchmark("a", "A", "random images", 100, 10, 1, None, (ours, torch))


def test_the_target_of_random_networks():
    won: dict[str, Benchmark | None] = {f"random-{n:02d}": network(1.5) for n in range(8)}
    one_lost, middle = run.random_checks(won | {"b": network(0.8), "c": network(1.0)})
    assert (one_lost.measured, one_lost.holds) == (0.9, False)
    assert one_lost.note == "slower: b"
    assert middle.measured == pytest.approx(1.5)
    assert middle.holds
    two_lost, _ = run.random_checks(won | {"b": network(0.8), "broken": None})
    assert (two_lost.measured, two_lost.holds) == (0.8, False)
    assert two_lost.note == "slower: b, broken"
    none_lost, _ = run.random_checks(won)
    assert (none_lost.holds, none_lost.note) == (True, "slower: none")
    _, low = run.random_checks({"a": network(1.2), "b": network(1.3), "broken": None})
    assert low.measured == pytest.approx(1.2)
    assert low.holds is False


def test_the_headline_is_the_fastest_pytorch_and_default_settings_are_the_second_number():
    base = network(3.0)
    tuned = Measurement("torch-tuned-eager-nchw", "torch", seconds=(2.0, 2.0), images=100)
    low = Measurement("torch-bfloat16-eager-nchw", "torch", seconds=(1.0, 1.0), images=100)
    measurements = (*base.measurements, tuned, low)
    found = dataclasses.replace(base, name="standard", measurements=measurements)
    first, second, *_ = run.speed_checks(found)
    assert first.target.name == "standard: tuned PyTorch / ours"
    assert first.measured == pytest.approx(2.0)
    assert first.note.startswith("torch-tuned-eager-nchw 2.00")
    assert second.target.name == "standard: default PyTorch / ours"
    assert second.measured == pytest.approx(3.0)
    assert (first.holds, second.holds) == (False, True)


def test_a_failing_network_does_not_stop_the_others(monkeypatch):
    def measure(task, *_):
        if task.loaded.experiment.name == "random-01":
            raise BenchError("random-01: cnnbench itself could not be measured: why")
        return network(1.5)

    monkeypatch.setattr(session, "measure", measure)
    notes: list[str] = []
    done = dict(random_specs.race(3, Settings(3, 1), notes.append))
    assert [name for name, each in done.items() if each is None] == ["random-01"]
    assert list(done) == ["random-00", "random-01", "random-02"]
    assert notes == ["random-01: cnnbench itself could not be measured: why"]


def test_unknown_sections_are_refused(capsys):
    with pytest.raises(SystemExit):
        run.sections(argparse.ArgumentParser(), "start,thoughput")
    assert "--only: unknown section 'thoughput'" in capsys.readouterr().err
    assert run.sections(argparse.ArgumentParser(), "start, random") == ["start", "random"]
