"""What makes times doubtful: hand-made seconds, and the exact words."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.thresholds import Threshold, check_threshold
from cnnbench.comparisons.timing_warnings import Timed, TimingWarning, summary, times_remarks
from cnnbench.comparisons.timing_warnings import warnings as found_in
from cnnbench.comparisons.verdict import Criteria, Effect
from cnnbench.report import csv_json
from cnnbench.report.columns import sort_runs
from cnnbench.report.comparison import markdown, terminal_table
from cnnbench.report.html import table_page
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import EpochRecord, RunResult
from tests.report.test_comparison import shown as terminal
from tests.support.samples import COST, make_run, on_device, with_record

STEADY = [1.0, 1.0, 1.0, 1.0]


def timed(seconds: Sequence[float], label: str = "A", **environment: Any) -> Timed:
    """A run of one seed whose epochs took so long."""
    run = on_device(make_run(), **environment)
    first = run.epochs[0]
    epochs = tuple(
        dataclasses.replace(first, epoch=n, train_s=s) for n, s in enumerate(seconds, start=1)
    )
    return Timed(label, run.record, epochs)


def warnings(runs: Sequence[Timed]) -> tuple[str, ...]:
    return texts(found_in(runs))


def texts(found: Sequence[TimingWarning]) -> tuple[str, ...]:
    return tuple(warning.text for warning in found)


def test_steady_epochs_on_an_idle_machine_are_not_doubted() -> None:
    assert warnings([timed(STEADY)]) == ()
    assert warnings([timed([1.0])]) == ()
    assert warnings([timed([1.0, 7.0])]) == ()  # which of the two is odd, nobody knows


@pytest.mark.parametrize(
    ("seconds", "share"),
    [
        # Mean 1, standard deviation sqrt((0.2^2 + 0 + 0.2^2) / 2) = 0.2.
        ([1.0, 0.8, 1.0, 1.2], "20%"),
        # Mean 10, standard deviation sqrt((2^2 + 2^2) / 1) = 2.83.
        ([10.0, 8.0, 12.0], "28%"),
    ],
)
def test_epochs_that_differ_by_more_than_a_tenth(seconds: list[float], share: str) -> None:
    assert warnings([timed(seconds)]) == (
        f"A: the standard deviation of epoch times is {share} of their mean; close other programs, "
        "or train more epochs or seeds.",
    )


@pytest.mark.parametrize(
    ("slowest", "short"), [(33.0, "33.0x"), (332.4, "332x"), (33249.0, "over 1,000x")]
)
def test_large_spreads_are_ratios(slowest: float, short: str) -> None:
    """Such as of a laptop that slept; a standard deviation of 33249% tells nobody anything."""
    found = found_in([timed([1.0, 1.0, 1.0, 1.0, slowest])])
    assert texts(found) == (
        f"A: the slowest epoch took {short} as long as the fastest; close other programs, or train"
        " more epochs or seeds.",
    )
    assert summary(found, "accuracy", costs=False, details="") == (
        f"timings are noisy on this machine (slowest epoch {short} the fastest); accuracy is not"
        " affected"
    )


def test_large_ratios_of_a_clock_that_ticks_seldom_are_bounded() -> None:
    (clock, spread) = warnings([timed([1.0, 0.0, 0.0, 1.0])])
    assert clock == f"A: 2 of 4 epochs {UNMEASURED}"
    assert spread == (
        "A: the slowest epoch took over 1,000x as long as the fastest; close other programs, or"
        " train more epochs or seeds."
    )


def test_a_long_first_epoch_has_a_limit() -> None:
    assert summary(found_in([timed([5000.0, *STEADY])]), "loss", costs=False, details="") == (
        "timings are noisy on this machine (first epoch over 1,000x the median); loss is not"
        " affected"
    )


def test_less_than_a_tenth_is_not_told() -> None:
    assert warnings([timed([1.0, 0.91, 1.0, 1.09])]) == ()
    assert len(warnings([timed([1.0, 0.89, 1.0, 1.11])])) == 1


@pytest.mark.parametrize(("first", "told"), [(1.5, None), (1.6, "1.6x"), (12.0, "12.0x")])
def test_a_slow_first_epoch_is_told_and_not_counted_as_spread(
    first: float, told: str | None
) -> None:
    found = warnings([timed([first, *STEADY])])
    assert found == (
        ()
        if told is None
        else (
            f"A: the first epoch took {told} the median of the others; look at later epochs, or "
            "re-run with warm caches.",
        )
    )


def test_seeds_that_were_trained_at_once_tell_no_time() -> None:
    run = timed([1.0, 5.0, 1.0, 1.0])
    odd = dataclasses.replace(run.epochs[1], at_once=4)
    epochs = (run.epochs[0], odd, *run.epochs[2:])
    assert warnings([dataclasses.replace(run, epochs=epochs)]) == ()


@pytest.mark.parametrize(("load", "told"), [(None, False), (0.25, False), (0.5, True)])
def test_a_busy_machine(load: float | None, told: bool) -> None:
    text = (
        "A: the system was under load when the run started (0.50 per CPU); re-run on an idle "
        "machine."
    )
    assert warnings([timed(STEADY, load_per_cpu=load)]) == ((text,) if told else ())


LATENCY = "A: latency varied by {} between equal rounds; re-run on an idle machine."
PRODUCT = (
    "A: the peak matmul throughput, which MFU is relative to, varied by {};"
    " re-run on an idle machine."
)


@pytest.mark.parametrize(
    ("latency", "product", "told"),
    [
        (0.4, 0.3, (LATENCY.format("40%"), PRODUCT.format("30%"))),
        (0.11, 0.1, (LATENCY.format("11%"),)),
        (0.0, 0.2, (PRODUCT.format("20%"),)),
        (
            1.5,
            9.0,
            (
                "A: latency in the slowest of equal rounds was 2.5x that of the fastest; re-run on"
                " an idle machine.",
                "A: the peak matmul throughput, which MFU is relative to, is of the fastest matmul;"
                " most took 10.0x as long; re-run on an idle machine.",
            ),
        ),
        (0.1, 0.1, ()),
        (None, None, ()),
    ],
)
def test_costs_of_a_busy_machine_are_doubted_by_column(
    latency: float | None, product: float | None, told: tuple[str, ...]
) -> None:
    cost = dataclasses.replace(COST, latency_spread=latency, product_spread=product)
    assert warnings([dataclasses.replace(timed(STEADY), cost=cost)]) == told


@pytest.mark.parametrize("form", ["fast", "direct"])
def test_an_mfu_above_100_percent_is_explained_or_warned_of(form: str) -> None:
    """12,475,392 operations an image, 7,380 images a second: 92 GFLOP/s, of 90 or of 200."""
    run = make_run()
    assert run.summary is not None
    assert run.record.engine is not None
    engine = dataclasses.replace(run.record.engine, form=form)
    slow = dataclasses.replace(COST, product_flops=9e10)
    summary = dataclasses.replace(run.summary, cost=slow)
    comparison = compare([with_record(dataclasses.replace(run, summary=summary), engine=engine)])
    share = comparison.costs[0].product_share
    assert share is not None
    assert share > 1
    fault = (
        "Standard CNN: MFU is above 100%, so the peak matmul throughput was measured on a busy"
        " machine; re-run on an idle machine."
    )
    assert texts(comparison.warnings) == (() if form == "fast" else (fault,))
    note = "Winograd computes fewer than are counted, hence > 100%."
    folded = "Warning: timings are noisy on this machine (MFU of 102%); accuracy is not affected"
    for text in (markdown([comparison], wide=True), shown(comparison)):
        words = " ".join(text.replace("\\", "").split())
        assert (note in words, folded in words) == (form == "fast", form != "fast")
    assert "MFU" not in terminal(terminal_table([comparison], wide=False))
    assert compare([make_run()]).warnings == ()


def shown(comparison: Comparison) -> str:
    return terminal(terminal_table([comparison], wide=True))


def test_different_devices_are_told_once() -> None:
    runs = [timed(STEADY, name, processor=f"CPU {name}") for name in "ABC"]
    assert warnings(runs) == (
        "The runs trained on different devices; train them on one to compare times.",
    )


TURNS = "The runs were not interleaved; train all of them with one command to compare times."


def test_runs_of_two_commands_did_not_take_turns() -> None:
    one, other = timed(STEADY), timed(STEADY, "B", command=("cnnbench", "run", "b.yaml"))
    assert warnings([one, other]) == (TURNS,)


def test_runs_one_after_the_other_did_not_take_turns() -> None:
    one = make_run(seeds=(0, 1))
    assert one.record.finished_at is not None
    start = one.record.finished_at + timedelta(seconds=1)
    later = with_record(
        make_run("b", seeds=(0, 1)), started_at=start, finished_at=start + timedelta(minutes=1)
    )
    assert texts(compare([one, later]).warnings) == (TURNS,)
    assert compare([one, make_run("b", seeds=(0, 1))]).warnings == ()


def test_one_seed_of_each_cannot_take_turns() -> None:
    one = make_run()
    assert one.record.finished_at is not None
    start = one.record.finished_at + timedelta(seconds=1)
    later = with_record(make_run("b"), started_at=start, finished_at=start + timedelta(minutes=1))
    assert texts(compare([one, later]).warnings) == (
        "Runs of one seed cannot be interleaved; use --seeds 2 or more to compare times.",
    )


def test_every_warning_of_every_run_is_told() -> None:
    busy = timed([2.0, 0.5, 1.0, 1.5], "A", load_per_cpu=1.0)
    calm = dataclasses.replace(busy, label="B", epochs=timed([2.0, 1.0, 1.0, 1.0]).epochs)
    found = warnings([busy, calm])
    assert [text.split(" ", 3)[:3] for text in found] == [
        ["A,", "B:", "the"],
        ["A:", "the", "standard"],
        ["A,", "B:", "the"],
    ]
    assert [("first epoch" in text, "under load" in text) for text in found] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def aa(other: RunResult) -> tuple[str, ...]:
    return compare([make_run(), other]).remarks


def test_two_runs_of_one_experiment_show_the_noise() -> None:
    assert aa(make_run(run_id="20251124T000000Z-0000")) == (
        "A/A: Standard CNN #1 and Standard CNN #2 are the same experiment with the same seeds; "
        "the difference of their times is this machine's noise, and smaller time differences are "
        "not meaningful.",
    )
    assert aa(make_run("modified", "Modified CNN")) == ()
    assert aa(make_run(seeds=(7, 8), run_id="20251124T000000Z-0000")) == ()  # seeds differ too


UNMEASURED = (
    "took 0 s, below the resolution of this machine's clock; train on more images, or ignore the"
    " timings."
)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        ([0.0, 0.0, 0.0], f"A: 3 of 3 epochs {UNMEASURED}"),
        ([1.0, 0.0, 0.0], f"A: 2 of 3 epochs {UNMEASURED}"),
        ([0.0], f"A: 1 of 1 epoch {UNMEASURED}"),
        ([0.0, 1.0, 1.0, 1.0], f"A: 1 of 4 epochs {UNMEASURED}"),
    ],
)
def test_epochs_of_no_time_are_told(seconds: list[float], told: str) -> None:
    assert warnings([timed(seconds)]) == (told,)


LOADED = "timings are noisy on this machine (load 0.5 per CPU); accuracy is not affected"


@pytest.mark.parametrize(
    ("runs", "line"),
    [
        ([timed(STEADY)], ""),
        ([timed(STEADY, load_per_cpu=0.5)], f"{LOADED}; --verbose for details"),
        (
            [timed(STEADY, "A", load_per_cpu=0.25), timed(STEADY, "B", load_per_cpu=0.5)],
            f"{LOADED}; --verbose for details",
        ),
        (
            [timed([2.0, 0.8, 1.0, 1.2], "A", load_per_cpu=0.3), timed(STEADY, load_per_cpu=1.25)],
            "timings are noisy on this machine (first epoch 2.0x the median, epoch times vary by"
            " 20%, load 1.2 per CPU); accuracy is not affected; --verbose for details",
        ),
        (
            [timed(STEADY, load_per_cpu=0.5), timed(STEADY, "B", command=("cnnbench", "run"))],
            "timings are noisy on this machine (load 0.5 per CPU) and not comparable (runs not"
            " interleaved); accuracy is not affected; --verbose for details",
        ),
        (
            [timed(STEADY), timed(STEADY, "B", processor="CPU B")],
            "timings are not comparable (different devices); --verbose for details",
        ),
    ],
)
def test_warnings_fold_into_one_line(runs: list[Timed], line: str) -> None:
    assert summary(found_in(runs), "accuracy", costs=False) == line


def test_a_folded_line_warns_of_costs_only_where_they_are_shown() -> None:
    cost = dataclasses.replace(COST, latency_spread=0.4)
    found = found_in([dataclasses.replace(timed(STEADY), cost=cost)])
    assert summary(found, "loss", costs=False) == ""
    assert summary(found, "loss", costs=True, details="") == (
        "timings are noisy on this machine (latency varies by 40%); loss is not affected"
    )


def test_a_clock_that_was_set_back_does_not_deny_turns() -> None:
    """The second run ends an hour before it began; both are of one command."""
    one, other = timed(STEADY), timed(STEADY, "B")
    back = other.record.started_at - timedelta(hours=1)
    record = dataclasses.replace(other.record, finished_at=back)
    assert warnings([one, dataclasses.replace(other, record=record)]) == ()
    record = dataclasses.replace(
        record, environment=on_device(make_run(), command=()).record.environment
    )
    (told,) = warnings([one, dataclasses.replace(other, record=record)])
    assert told == TURNS


NOTHING = Cost(0, 0.0, 0.0, 0, 0.0, 0.0, 1, 0.0)  # a network without arithmetic
SECONDS = st.sampled_from([0.0, 1.0, math.nan])


@settings(max_examples=60)
@given(seconds=st.lists(SECONDS, min_size=12, max_size=12), cost=st.sampled_from([COST, NOTHING]))
@pytest.mark.filterwarnings("error")
@pytest.mark.slow
def test_no_zero_that_was_measured_divides(seconds: list[float], cost: Cost) -> None:
    """Whatever took no time, costs nothing or was not measured: every table, page and file."""
    runs = [make_run(seeds=(0, 1)), make_run("wide", "Wide", seeds=(0, 1))]
    for number, run in enumerate(runs):
        own = seconds[6 * number :]
        epochs = tuple(
            dataclasses.replace(e, train_s=s, samples_per_s=50_000 / s if s else math.inf)
            for e, s in zip(run.epochs, own, strict=False)
        )
        assert run.summary is not None
        summary = dataclasses.replace(run.summary, cost=cost, num_params=0)
        runs[number] = dataclasses.replace(run, epochs=epochs, summary=summary)
    found = compare(runs, Criteria(target="0.95"))
    for column in ("time", "images/s", "peak", "target", "parameters"):
        (found,) = sort_runs([found], column)
    text = terminal(terminal_table([found], wide=True))
    assert "inf" not in re.sub("inference|information", "", text)
    assert markdown([found], wide=True).count("Wide")
    assert csv_json.csv_text([found]).count("\n") == 5
    assert json.loads(csv_json.json_text([found]))["comparisons"]
    assert "</html>" in table_page([found])
    check_threshold(
        Threshold("train_s", 1, Effect(0.1, "relative"), "train_s:+10%"), found.verdicts[0]
    )


def test_a_run_beside_itself_shows_nothing() -> None:
    assert aa(make_run()) == (
        "A/A: Standard CNN #1 and Standard CNN #2 are the same run; to measure this machine's "
        "noise, pass the experiment file twice to one `run` command.",
    )


def test_two_engines_are_no_noise() -> None:
    other = make_run(run_id="20251124T000000Z-0000")
    engine = other.record.engine
    assert engine is not None
    plain = dataclasses.replace(engine, form="plain")
    record = dataclasses.replace(other.record, engine=plain)
    assert aa(dataclasses.replace(other, record=record)) == ()


def test_runs_trained_side_by_side_share_a_remark_about_times() -> None:
    alone = EpochRecord(0, 1, 0.5, 0.25, {}, 2.0, 0.5, 2000.0)
    beside = dataclasses.replace(alone, seed=1, beside=1)
    third = dataclasses.replace(alone, seed=2, beside=2)
    runs = {"A": [alone, beside], "B": [alone, beside, third], "C": [alone], "D": [beside]}
    assert times_remarks(list(runs.items())) == (
        "A and B: times are those of 1 of 2 and 1 of 3 epochs, trained alone; the others ran beside"
        " up to 2 other trainings.",
        "D: times are those of epochs beside 1 other training, so they are not of an idle machine.",
    )
    assert times_remarks([("A", runs["A"]), ("B", runs["A"])]) == (
        "A and B: times are those of 1 of 2 epochs each, trained alone; the others ran beside 1"
        " other training.",
    )
    assert times_remarks([("C", runs["C"])]) == ()
