"""Columns: what they say with costs and without, the order they give, what is left out."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.verdict import Criteria
from cnnbench.errors import UsageError
from cnnbench.formatting import bytes_text, flops_text, seconds_text
from cnnbench.report import csv_json
from cnnbench.report.columns import TableOptions, cost_columns, epoch_columns, sort_runs
from cnnbench.report.comparison import markdown, terminal_table
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import RunResult
from cnnbench.runs.summary import summarize_seed
from cnnbench.statistics.estimates import Estimate
from tests.report.test_comparison import shown
from tests.support.golden import approved
from tests.support.samples import COST, make_run


def with_cost(run: RunResult, **changes: Any) -> RunResult:
    assert run.summary is not None
    cost = dataclasses.replace(COST, **changes)
    return dataclasses.replace(run, summary=dataclasses.replace(run.summary, cost=cost))


def without_cost(run: RunResult) -> RunResult:
    assert run.summary is not None
    return dataclasses.replace(run, summary=dataclasses.replace(run.summary, cost=None))


def three(**rules: Any) -> Comparison:
    """A cheap one, a better one that costs more, and one of an older version."""
    cheap = make_run(seeds=(0, 1))
    better = make_run("modified", "Modified CNN", seeds=(0, 1), start=0.9213)
    dear: dict[str, Any] = {
        "forward_flops": 6_870_253.0,
        "backward_flops": 1.05e10,
        "memory_bytes": 3 * 2**30,
    }
    dear |= {"latency_p90_s": None, "training_flops": None, "latency_p50_s": 0.0123}
    older = without_cost(make_run("older", "Older CNN", seeds=(0, 1), start=0.9))
    return compare([cheap, with_cost(better, **dear), older], Criteria(**rules))


def labels(comparison: Comparison) -> list[str]:
    assert list(dict.fromkeys(row.label for row in comparison.rows)) == [
        row.label for row in comparison.costs
    ]
    return [row.label.split()[0] for row in comparison.costs]


def costs(comparison: Comparison, look: TableOptions = TableOptions()) -> list[list[str]]:  # noqa: B008
    columns = cost_columns(comparison, look)
    return [[c.header for c in columns], *([c.cell(r) for c in columns] for r in comparison.costs)]


def test_groups_are_sorted_by_headers_of_their_own() -> None:
    """The header of the target is 96% in one group and would be a loss in another."""
    comparison = three(target="0.96")
    other = three(target="93.1%")
    first, second = sort_runs([comparison, other], "target")
    assert labels(first) == labels(second) == ["Modified", "Standard", "Older"]


def test_costs_in_cells() -> None:
    assert costs(three()) == [
        ["Type", "Forward", "Backward", "Memory", "Latency p50", "Latency p90", "MFU"],
        ["Standard CNN", "4.52 M", "8.24 M", "17.9 MiB", "0.182 ms", "1.98 ms", "46%"],
        ["Modified CNN", "6.87 M", "10,500 M", "3,072 MiB", "12.3 ms", "–", "–"],  # noqa: RUF001
        ["Older CNN", *["–"] * 6],  # noqa: RUF001
    ]


@given(st.lists(st.floats(1e-6, 1e15), min_size=1, max_size=6))
def test_a_column_has_one_unit_and_three_right_digits(values: list[float]) -> None:
    sizes = {"ms": 1e-3, "s": 1, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "B": 1}
    sizes |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
    for text in (seconds_text, flops_text, bytes_text):
        cells = [text(value, None, values) for value in values]
        assert len({cell.partition(" ")[2] for cell in cells}) == 1
        for cell, value in zip(cells, values, strict=True):
            number, _, unit = cell.partition(" ")
            found = float(number.replace(",", "")) * sizes[unit]
            least = 1 if unit in ("", "B") else 0
            assert found == pytest.approx(value, rel=6e-3, abs=least)
        # No unit is so small that a number gets long, or so large that all begin with zeros.
        numbers = [float(cell.partition(" ")[0].replace(",", "")) for cell in cells]
        assert max(numbers) <= 100_000 or cells[0].endswith((" s", " T", " TiB"))


def test_an_epoch_of_milliseconds_stands_beside_seconds_in_their_unit() -> None:
    """8 ms beside 6.8 s: both in milliseconds; beside minutes: both in seconds."""
    quick = make_run("quick", "Quick")
    epochs = tuple(dataclasses.replace(e, train_s=0.008) for e in quick.epochs)
    comparison = compare([make_run(), dataclasses.replace(quick, epochs=epochs)])
    (time,) = (c for c in epoch_columns(comparison, wide=False) if c.name == "time")
    assert [time.cell(row) for row in comparison.rows] == ["6,770 ms", "6,810 ms"] + ["8.00 ms"] * 2
    assert seconds_text(0.008, others=[600.0]) == "0.00800 s"


def test_the_share_of_the_peak_is_that_of_bench() -> None:
    """12,475,392 operations an image, 7,351 images a second, of 200 GFLOP/s."""
    (row, *_) = three().costs
    assert row.product_share == pytest.approx(12_475_392 * row.images_per_s / 2e11)


def test_what_was_not_measured_has_no_share_of_the_peak() -> None:
    """A file of results can say anything; the division by 0 was found by fuzzing."""
    cost = Cost(1_000, None, None, None, 0.1, None, 20, product_flops=0)
    assert cost.product_share(100.0) is None
    assert dataclasses.replace(cost, training_flops=None).product_share(100.0) is None


def test_without_costs_there_is_no_second_table() -> None:
    text = shown(terminal_table([compare([without_cost(make_run())])], wide=True))
    assert "Latency" not in text
    assert "Forward" not in text


@pytest.mark.parametrize(
    ("target", "cells"),
    [
        ("93.1%", ["To 93.1%", "13.56 s", "6.77 s", "13.56 s"]),
        ("0.97", ["To 97%", "20.37 s", "20.37 s", "> 20.40 s, 0/2"]),
    ],
)
def test_time_to_a_target_is_a_column(target: str, cells: list[str]) -> None:
    """Epochs take 6.77, 6.79 and 6.81 s with seed 0, 0.01 s more with seed 1.

    By Kaplan and Meier the median of two times is the first.
    """
    assert [row[-1] for row in costs(three(target=target))] == cells


def test_a_part_of_the_seeds_reaches_the_target() -> None:
    comparison = compare([make_run(seeds=(0, 1, 2))], Criteria(target="0.9704"))
    # 0.97, 0.9705 and 0.971 at the end; seed 0 stopped before the others were there.
    assert costs(comparison)[1][-1] == "20.40 s, 2/3"


def with_curves(run: RunResult, curves: Sequence[Sequence[float]]) -> RunResult:
    """A run whose seeds have these accuracies after each epoch."""
    assert run.summary is not None
    epochs = tuple(
        dataclasses.replace(e, metrics={"accuracy": curves[e.seed][e.epoch - 1]})
        for e in run.epochs
    )
    seeds = tuple(
        summarize_seed(
            [epoch for epoch in epochs if epoch.seed == seed.seed],
            metrics=run.summary.metrics,
            test=seed.test,
            compile_s=1.5,
        )
        for seed in run.summary.seeds
    )
    return dataclasses.replace(
        run, epochs=epochs, summary=dataclasses.replace(run.summary, seeds=seeds)
    )


PEAKS = [[0.9, 0.96, 0.95], [0.97, 0.93, 0.97], [0.9, 0.91, 0.92]]


def overfitted() -> Comparison:
    """One that is best at its end, and one that is best before, in the mean of its seeds."""
    run = with_curves(make_run(seeds=(0, 1, 2)), PEAKS)
    return compare([make_run("b", "B", seeds=(0, 1, 2)), run])


def test_the_best_epoch_is_shown_where_it_is_not_the_last() -> None:
    best = np.argmax(PEAKS, axis=1) + 1  # the first of equals
    comparison = overfitted()
    assert comparison.costs[1].best_epoch == Estimate((2, 1, 3), best.mean(), best.std(ddof=1))
    assert [line[-1] for line in costs(comparison)] == ["Best epoch", "3.0", "2.0"]
    assert costs(comparison, TableOptions(precision=2))[2][-1] == "2.00"
    assert "Best epoch" not in costs(three())[0]
    text = shown(terminal_table([comparison], wide=True))
    assert "\nBest epoch: epoch with the best validation accuracy; mean over seeds.\n" in text
    assert max(map(len, text.splitlines())) <= 80
    assert labels(sort_runs([comparison], "Best epoch")[0]) == ["Standard", "B"]


def test_runs_are_sorted_by_the_best_epoch_also_if_no_table_shows_it() -> None:
    comparison = compare([make_run(seeds=(0, 1))])
    assert sort_runs([comparison], "best") == [comparison]
    with pytest.raises(UsageError, match="there is no column 'target'"):
        sort_runs([comparison], "target")


def test_one_seed_has_a_best_epoch_without_decimals() -> None:
    comparison = compare([with_curves(make_run(), PEAKS)])
    assert [line[-1] for line in costs(comparison)] == ["Best epoch", "2"]


def test_a_seed_without_a_value_has_no_best_epoch() -> None:
    lost = [[math.nan] * 3, *PEAKS[1:]]
    comparison = compare(
        [with_curves(make_run(seeds=(0, 1, 2)), lost), with_curves(make_run("b", "B"), PEAKS)]
    )
    assert [line[-1] for line in costs(comparison)] == ["Best epoch", "–", "2.0"]  # noqa: RUF001


def test_files_have_the_best_epoch_whether_or_not_tables_show_it() -> None:
    for comparison in (overfitted(), compare([make_run()])):
        line = next(csv.DictReader(io.StringIO(csv_json.csv_text([comparison]))))
        assert line["best_epoch_mean"] == "3.0"
    document = json.loads(csv_json.json_text([overfitted()]))
    last = document["comparisons"][0]["costs"][1]["best_epoch"]
    assert (last["values"], last["mean"], last["std"]) == ([2, 1, 3], 2, 1)


SORTED = [
    ("accuracy", ["Modified", "Standard", "Older"]),
    ("Test", ["Modified", "Standard", "Older"]),
    ("type", ["Modified", "Older", "Standard"]),
    ("forward", ["Standard", "Modified", "Older"]),
    ("mfu", ["Standard", "Modified", "Older"]),
    ("peak", ["Standard", "Modified", "Older"]),  # its name in earlier versions
    ("p50", ["Standard", "Modified", "Older"]),
    ("target", ["Modified", "Standard", "Older"]),
    ("To 96%", ["Modified", "Standard", "Older"]),
    ("to 96%", ["Modified", "Standard", "Older"]),
    ("name", ["Modified", "Older", "Standard"]),
    ("latency", ["Standard", "Modified", "Older"]),
    ("Latency p50", ["Standard", "Modified", "Older"]),
    ("parameters", ["Standard", "Modified", "Older"]),  # equal ones stay as they were
]


@pytest.mark.parametrize(("name", "order"), SORTED)
def test_the_best_run_comes_first_and_the_unknown_last(name: str, order: list[str]) -> None:
    comparison = three(target="0.96")
    (ordered,) = sort_runs([comparison], name)
    assert labels(ordered) == order
    assert [row.epoch for row in ordered.rows] == [1, 3] * 3
    assert ordered.verdicts == comparison.verdicts


def test_the_lowest_loss_comes_first() -> None:
    runs = [make_run("a", "A", headline="loss", seeds=(3,)), make_run("b", "B", headline="loss")]
    assert labels(sort_runs([compare(runs)], "loss")[0]) == ["B", "A"]


def test_a_group_without_the_column_stays_as_it_is() -> None:
    classifiers, others = three(), compare([make_run("a", "A", headline="loss")])
    ordered, same = sort_runs([classifiers, others], "accuracy")
    assert labels(ordered) == ["Modified", "Standard", "Older"]
    assert same is others


def test_an_unknown_column_is_an_error_that_names_them() -> None:
    with pytest.raises(UsageError) as caught:
        sort_runs([three()], "acuracy")
    assert str(caught.value) == (
        "--sort-by: there is no column 'acuracy' (did you mean 'accuracy'?); write type, epoch, "
        "accuracy, time, seeds, test, params, images/s, forward, backward, memory, p50, p90 "
        "or mfu, or a table header."
    )


def headers(columns: Sequence[Any]) -> list[str]:
    return [column.header for column in columns]


def test_only_what_changed_is_left() -> None:
    runs = [make_run(seeds=(0, 1)), make_run("b", "B", seeds=(0, 1), start=0.9213)]
    comparison = compare([runs[0], with_cost(runs[1], memory_bytes=1)])
    look = TableOptions(only_changed=True)
    assert headers(epoch_columns(comparison, wide=True, look=look)) == [
        "Type", "Epoch", "Accuracy", "Time", "Test",
    ]  # fmt: skip
    assert headers(cost_columns(comparison, look)) == ["Type", "Memory"]
    alike = compare(runs)
    for text in (
        shown(terminal_table([alike], wide=True, look=look)),
        markdown([alike], wide=True, look=look),
    ):
        assert text.count("Type ") == 1


def test_digits_after_the_point_are_chosen() -> None:
    text = shown(terminal_table([three()], wide=True, look=TableOptions(precision=1)))
    assert text == approved("compare_precision.txt", text)
    assert costs(three(target="0.97"), TableOptions(precision=3))[1] == [
        "Standard CNN", "4.524 M", "8.245 M", "17.851 MiB", "0.182 ms", "1.980 ms", "45.899%",
        "20.370 s",
    ]  # fmt: skip


def test_a_wide_comparison_with_a_target_fits_into_80_columns() -> None:
    text = shown(terminal_table([three(target="0.97")], wide=True))
    assert text == approved("compare_target.txt", text)
    assert max(map(len, text.splitlines())) <= 80


def streamed(run: RunResult, data_s: Sequence[float]) -> RunResult:
    """The run with images that were streamed, for which each epoch waited."""
    epochs = tuple(
        dataclasses.replace(epoch, data_s=waited, train_s=9.0, eval_s=1.0)
        for epoch, waited in zip(run.epochs, data_s, strict=True)
    )
    record = dataclasses.replace(
        run.record, dataset=dataclasses.replace(run.record.dataset, streamed=True)
    )
    return dataclasses.replace(run, record=record, epochs=epochs)


def test_a_run_that_streams_shows_what_the_device_waited() -> None:
    """1.11 of 60 seconds, over two seeds of three epochs."""
    waiting = streamed(make_run(seeds=(0, 1)), [1.0, 0.0, 0.02, 0.09, 0.0, 0.0])
    comparison = compare([waiting, make_run("modified", "Modified CNN", seeds=(0, 1))])
    (column,) = (c for c in epoch_columns(comparison, wide=False) if c.name == "data_wait")
    assert column.header == "Data wait"
    assert [column.cell(row) for row in comparison.rows] == ["1.9%"] * 2 + ["–"] * 2  # noqa: RUF001
    rows = list(csv.DictReader(io.StringIO(csv_json.csv_text([comparison]))))
    values = [row["data_wait"] for row in rows]
    assert [float(value) for value in values[:2]] == pytest.approx([1.11 / 60] * 2)
    assert values[2:] == ["", ""]
    assert "Data wait: share of training and evaluation in which" in markdown(
        [comparison], wide=False, look=TableOptions()
    )


def test_nothing_is_said_of_waiting_if_no_run_streams() -> None:
    columns = epoch_columns(compare([make_run()]), wide=True)
    assert "data_wait" not in [column.name for column in columns]
