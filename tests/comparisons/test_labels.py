"""Labels of compared runs: unique, with the overrides that differ."""

import dataclasses

import pytest

from cnnbench.comparisons.labels import overrides, run_labels
from cnnbench.runs.records import Extension, RunRecord
from tests.support.samples import make_run


def run(words: str = "", **changes: object) -> RunRecord:
    """A run of `cnnbench run standard`, with further words in its command line."""
    record = make_run().record
    command = ("cnnbench", "run", "standard", *words.split())
    environment = dataclasses.replace(record.environment, command=command)
    return dataclasses.replace(record, environment=environment, **changes)  # type: ignore[arg-type]


def test_other_titles_and_tags_are_enough() -> None:
    records = [run("train.epochs=2"), run("seeds=3", title="Modified"), run(tags=("a", "b"))]
    assert run_labels(records) == ["Standard CNN", "Modified", "Standard CNN @a @b"]


def test_runs_of_one_title_are_told_apart_by_what_was_overridden() -> None:
    rates = [f"train.optimizer.learning_rate={rate} train.epochs=3" for rate in ("0.1", "0.2")]
    assert run_labels([run("train.epochs=3"), *map(run, rates)]) == [
        "Standard CNN",
        "Standard CNN (learning_rate=0.1)",
        "Standard CNN (learning_rate=0.2)",
    ]


def test_runs_without_a_difference_are_numbered() -> None:
    assert run_labels([run("seeds=3"), run("seeds=3")]) == ["Standard CNN #1", "Standard CNN #2"]
    assert run_labels([run("--seeds 3"), run("--seeds=3"), run("seeds=4")]) == [
        "Standard CNN (seeds=3) #1",
        "Standard CNN (seeds=3) #2",
        "Standard CNN (seeds=4)",
    ]


def test_keys_are_as_short_as_their_meaning_allows() -> None:
    words = "model.layers.drop1.rate=0.1 model.layers.drop2.rate=0.2 train.batch_size=5"
    assert run_labels([run(), run(words)])[1] == (
        "Standard CNN (drop1.rate=0.1, drop2.rate=0.2, batch_size=5)"
    )
    words = "train.optimizer.name=adam train.schedule.name=cosine"
    assert run_labels([run(), run(words)])[1] == (
        "Standard CNN (optimizer.name=adam, schedule.name=cosine)"
    )


@pytest.mark.parametrize("words", ["--epochs 3", "--epochs=3", "train.epochs=3", ""])
def test_an_extended_run_is_labeled_with_its_present_epochs(words: str) -> None:
    first = run("--epochs 3", epochs=3)
    extension = Extension(first.started_at, 3, ("cnnbench", "run", "--resume", "standard"))
    extended = run(words, epochs=10, extended=(extension,))
    labels = ["Standard CNN (epochs=3)", "Standard CNN (epochs=10)"]
    assert run_labels([first, extended]) == labels


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", {}),
        ("--tag seeds-3 --data-dir a=b/c", {}),
        ("--tag seeds=3 --tag=seeds=4 --results-dir title=a --seeds 2", {"seeds": "2"}),
        ("--engine plain --dataset=mnist_5k", {"engine": "plain", "dataset.name": "mnist_5k"}),
        ("title=a=b", {"title": "a=b"}),
        ("seeds=1 seeds=2", {"seeds": "2"}),
    ],
)
def test_overrides_of_a_command_line(words: str, found: dict[str, str]) -> None:
    assert {each.key: each.value for each in overrides(run(words))} == found


def test_a_run_without_a_command_has_no_overrides() -> None:
    record = make_run().record
    environment = dataclasses.replace(record.environment, command=())
    assert list(overrides(dataclasses.replace(record, environment=environment))) == []
