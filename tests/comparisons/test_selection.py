"""Comparisons of runs whose epochs were chosen by the validation images."""

import dataclasses
from typing import Any

import pytest

from cnnbench.api.frames import _records
from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.learning_curves import curves
from cnnbench.errors import IncomparableError
from cnnbench.runs.records import RunResult
from cnnbench.runs.summary import summarize_seed
from tests.support.samples import make_run


def choosing(
    name: str, ends: dict[int, tuple[int, int]], *, epochs: int = 3, **record: Any
) -> RunResult:
    """A run of which each seed trained and kept some epochs."""
    run = make_run(name, name.title(), seeds=tuple(ends))
    assert run.summary is not None
    kept = tuple(e for e in run.epochs if e.epoch <= ends[e.seed][0])
    seeds = tuple(
        summarize_seed(
            [e for e in kept if e.seed == seed.seed],
            metrics=run.summary.metrics,
            test=seed.test,
            compile_s=0.0,
            chosen=ends[seed.seed][1],
        )
        for seed in run.summary.seeds
    )
    changed = dataclasses.replace(run.record, epochs=epochs, **record)
    summary = dataclasses.replace(run.summary, seeds=seeds)
    return dataclasses.replace(run, record=changed, summary=summary, epochs=kept)


def stopped() -> RunResult:
    ends = {1: (2, 1), 4: (3, 2)}
    return choosing("stopped", ends, epochs=50, stop_metric="loss", best_metric="accuracy")


def test_values_are_those_of_the_chosen_epochs() -> None:
    run = stopped()
    records = {(e.seed, e.epoch): e for e in run.epochs}
    first, last = compare([run]).rows
    assert (first.epoch_text, last.epoch_text, last.epoch) == ("1", "1-2", 50)
    chosen = [records[1, 1], records[4, 2]]
    assert last.value.values == tuple(e.metrics["accuracy"] for e in chosen)
    assert last.train_s.values == tuple(e.train_s for e in chosen if e.at_once == 1)
    assert run.summary is not None
    assert last.test is not None
    assert last.test.values == tuple(s.test["accuracy"] for s in run.summary.seeds)


def test_an_epoch_has_one_row() -> None:
    """Two equal rows looked like a mistake if the first epoch was the best of all seeds."""
    run = choosing("stopped", {1: (2, 1), 4: (3, 1)}, epochs=50, best_metric="accuracy")
    (only,) = compare([run]).rows
    assert (only.epoch_text, only.epoch) == ("1", 50)
    assert only.test is not None


def test_a_run_that_stops_early_is_comparable_with_any_number_of_epochs() -> None:
    fixed = make_run()
    for runs in ([fixed, stopped()], [stopped(), fixed]):
        remarks = [r for r in compare(runs).remarks if "A/A" not in r]
        assert remarks == [
            "Stopped stops early by validation loss: it trained 2 to 3 (mean 2.5) of 50 epochs.",
            "Stopped keeps the epoch with the best validation accuracy of each seed, 1 to 2 (mean"
            " 1.5), so its validation accuracy is optimistic; judge it by --metric test_accuracy.",
            remarks[-1],
        ]
        assert remarks[-1].startswith("Training time of all epochs, mean over seeds: ")
        assert len(compare(runs).verdicts) == 1
    longer = dataclasses.replace(fixed, record=dataclasses.replace(fixed.record, batch_size=100))
    with pytest.raises(IncomparableError, match="takes 300 steps"):
        compare([fixed, longer])


def test_learning_curves_continue_with_the_last_values() -> None:
    run = stopped()
    (curve,) = curves(compare([run]), [run])
    ends = tuple(max(e.epoch for e in run.epochs if e.seed == seed) for seed in (1, 4))
    records = {(e.seed, e.epoch): e.metrics["accuracy"] for e in run.epochs}
    assert curve.values[-1].values == (records[1, ends[0]], records[4, ends[1]])
    assert len(curve.values) == 50


def test_a_data_frame_has_the_test_values_at_the_chosen_epochs() -> None:
    rows = [row for row in _records(stopped()) if "test_accuracy" in row]
    assert [(row["seed"], row["epoch"]) for row in rows] == [(1, 1), (4, 2)]


def test_epochs_that_are_missing_are_still_noticed() -> None:
    run = stopped()
    cut = dataclasses.replace(run, epochs=tuple(e for e in run.epochs if e.epoch < 2))
    with pytest.raises(IncomparableError, match=r"seed 1, epoch 2 in epochs\.jsonl"):
        compare([cut])
