"""Networks side by side: values, differences from the baseline, and which of them are settled."""

import dataclasses
import math

from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.verdict import Criteria
from cnnbench.report.side_by_side import SideCell, side_by_side
from cnnbench.runs.records import RunResult
from tests.support.samples import make_run, without_validation

SEEDS = tuple(range(6))


def modified(start: float = 0.92, slower: float = 1.0) -> RunResult:
    """A run whose epochs take `slower` times as long, a little more or less from seed to seed."""
    run = make_run("modified", "Modified CNN", seeds=SEEDS, start=start, run_id="b")
    epochs = tuple(
        dataclasses.replace(e, train_s=slower * (1 + e.seed / 1000) * e.train_s) for e in run.epochs
    )
    assert run.summary is not None
    summary = dataclasses.replace(run.summary, num_params=166_474)
    return dataclasses.replace(run, epochs=epochs, summary=summary)


def lines(comparison: Comparison) -> dict[str, list[SideCell]]:
    return {line.name: list(line.cells) for line in side_by_side(comparison)}


def test_every_quantity_has_its_difference() -> None:
    found = lines(compare([make_run(seeds=SEEDS), modified(slower=1.5)]))
    value = found["Accuracy"]
    assert value == [SideCell("97.12 ± 0.09%"), SideCell("98.12 ± 0.09%", "+1.00 points", "better")]
    assert found["Test accuracy"][1] == SideCell("99.25%", "+1.00 points", "")
    assert found["Time per epoch"][1] == SideCell("10.28 s", "1.50x", "worse")
    changed = [cells[1] for cells in found.values() if cells[0].text == "160,362"]
    assert changed == [SideCell("166,474", "1.04x", "")]
    assert [cells[1] for cells in found.values() if cells[0].text == "4.52 M"] == [
        SideCell("4.52 M", "same", "same")
    ]
    assert not {"Type", "Epoch", "Seeds"} & set(found)


def test_differences_are_from_the_baseline_that_was_asked_for() -> None:
    runs = [make_run(seeds=SEEDS), modified()]
    found = lines(compare(runs, Criteria(baseline="modified")))
    assert found["Accuracy"] == [
        SideCell("97.12 ± 0.09%", "-1.00 points", "worse"),
        SideCell("98.12 ± 0.09%"),
    ]


def test_without_a_verdict_nothing_is_better() -> None:
    few = [make_run(seeds=(0, 1)), make_run("b", "B", seeds=(0, 1), start=0.92, run_id="b")]
    assert lines(compare(few))["Accuracy"][1].tone == ""
    assert lines(compare([make_run()]))["Accuracy"] == [SideCell("97.00%")]


def test_what_is_unknown_has_no_difference() -> None:
    lost = modified()
    epochs = tuple(
        dataclasses.replace(e, metrics={"accuracy": math.nan}, train_loss=math.nan)
        for e in lost.epochs
    )
    older = dataclasses.replace(lost, epochs=epochs)
    assert older.summary is not None
    older = dataclasses.replace(older, summary=dataclasses.replace(older.summary, cost=None))
    found = lines(compare([make_run(seeds=SEEDS), older]))
    assert (found["Accuracy"][1].change, found["Memory of a training step"][1].change) == ("", "")


def test_without_validation_the_verdict_is_by_the_test_images() -> None:
    found = lines(compare([without_validation(run) for run in (make_run(seeds=SEEDS), modified())]))
    assert found["Test accuracy"][1].tone == "better"
