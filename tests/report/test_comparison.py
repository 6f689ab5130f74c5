"""Tables as people and programs see them, against files that a person has read."""

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType
from scipy import stats as oracle

from cnnbench.comparisons.comparison import Comparison, compare, compare_groups
from cnnbench.report import csv_json
from cnnbench.report.columns import estimate_text
from cnnbench.report.comparison import markdown, notes, terminal_table
from cnnbench.report.run_list import list_table
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.records import FORMAT_VERSION, Extension, RunResult, Status
from tests.support.golden import approved
from tests.support.samples import STAND_IN, make_run, on_device, on_machine, with_record


def shown(part: RenderableType, width: int = 80) -> str:
    """What a terminal shows; without the spaces that fill its lines."""
    console = Console(width=width, file=io.StringIO(), color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(part)
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def two(seeds: Sequence[int] = (0,), headline: str = "accuracy") -> Comparison:
    standard = make_run(seeds=seeds, headline=headline)
    modified = make_run(
        "modified", "Modified CNN", seeds=seeds, headline=headline, start=0.9213, run_id="20251124T"
    )
    return compare([standard, modified])


STAND_INS = compare([with_record(make_run(seeds=(0, 1)), dataset=STAND_IN)])
GROUPS = compare_groups(
    [
        make_run("autoencoder", "Convolutional autoencoder", headline="loss", seeds=(0, 1, 2)),
        make_run(),
        on_device(make_run("odd", "A | B\n\x1b[31m*C*"), processor="Another CPU"),
    ]
)


def entry(run: RunResult) -> RunEntry:
    return RunEntry(Path("unused"), run.record, run.summary)


ENTRIES = [
    entry(make_run(seeds=(0, 1))),
    entry(with_record(make_run("modified", "Modified CNN"), dataset=STAND_IN)),
    entry(make_run("autoencoder", headline="loss")),
    entry(dataclasses.replace(with_record(make_run(), status=Status.INTERRUPTED), summary=None)),
]

GPU = {"device_kind": "gpu", "device": "NVIDIA H200"}
DEVICES = [ENTRIES[0], entry(on_machine(make_run("odd"), **GPU)), *ENTRIES[2:3]]

CURVES = [[0.93, 0.95, 0.97], [0.1 + 0.88 * n / 29 for n in range(30)], [3.0, 1.0, 0.5, 0.4], [0.1]]

FLIPPED = with_record(make_run(), test_augment="flip")
VIEWS = compare([FLIPPED, make_run("modified", "Modified CNN", start=0.92)])

# Raw values are those of one seed: the last digit of a spread depends on the platform.
TABLES = {
    "run.txt": lambda: shown(terminal_table([compare([make_run()])], wide=False)),
    "run_seeds.txt": lambda: shown(terminal_table([STAND_INS], wide=False)),
    "run_loss.txt": lambda: shown(
        terminal_table([compare([make_run(headline="loss")])], wide=False)
    ),
    "compare.txt": lambda: shown(terminal_table([two()], wide=True)),
    "compare_views.txt": lambda: shown(terminal_table([VIEWS], wide=True)),
    "run_views.md": lambda: markdown([VIEWS], wide=False),
    "list_views.txt": lambda: shown(list_table([entry(FLIPPED)], CURVES[:1], "utf-8")),
    "compare_seeds.txt": lambda: shown(terminal_table([two((0, 1, 2))], wide=True)),
    "compare_groups.txt": lambda: shown(terminal_table(GROUPS, wide=True)),
    "run.md": lambda: markdown([STAND_INS], wide=False),
    "compare.md": lambda: markdown(GROUPS, wide=True),
    "compare.csv": lambda: csv_json.csv_text([two(), *GROUPS[1:]]),
    "compare.json": lambda: csv_json.json_text([two()]),
    "list.txt": lambda: shown(list_table(ENTRIES, CURVES, "utf-8")),
    "list_devices.txt": lambda: shown(list_table(DEVICES, CURVES[:3], "utf-8")),
    "list_ascii.txt": lambda: shown(list_table(ENTRIES, CURVES, "ascii")),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_as_it_was_approved(name: str) -> None:
    text = TABLES[name]()
    assert text == approved(name, text)


class TestTerminal:
    @pytest.mark.parametrize("headline", ["accuracy", "loss"])
    @pytest.mark.parametrize("seeds", [(0,), tuple(range(12))])
    def test_no_number_is_cut_at_80_columns(self, headline: str, seeds: tuple[int, ...]) -> None:
        comparison = two(seeds, headline)
        large = {"num_params": 12_345_678, "images_per_s": 1_234_567.8}
        labels = ["Word", "A rather long title", "x" * 30, "B"]
        rows = [
            dataclasses.replace(row, label=label, **large)  # type: ignore[arg-type]
            for row, label in zip(comparison.rows, labels, strict=True)
        ]
        comparison = dataclasses.replace(comparison, rows=tuple(rows))
        text = shown(terminal_table([comparison], wide=True))
        assert max(map(len, text.splitlines())) <= 80
        assert len(re.findall(r" 12,345,678\b", text)) == 4
        assert text.count(" 1,234,568\n") == 4
        assert "…" not in text
        for row in comparison.rows:
            assert estimate_text(headline, row.value) in text

    def test_a_title_is_no_markup(self) -> None:
        table = terminal_table([compare([make_run(title="[red]x[/red]")])], wide=False)
        assert "[red]x[/red]" in shown(table)


class TestNotes:
    def test_the_probability_of_improvement_is_below_every_p(self) -> None:
        line = (
            "Probability of improvement, for a random seed of each: 100% (69 to 100) that Modified"
            " CNN beats Standard CNN."
        )
        seeds = tuple(range(6))
        other = make_run("modified", "Modified CNN", seeds=seeds, start=0.93, run_id="b")
        for wide in (True, False):
            assert line in notes(compare([make_run(seeds=seeds), other]), wide=wide)
        few = compare([make_run(seeds=(0, 1)), other])
        assert few.verdicts[0].p is None
        assert not any("Probability of improvement" in text for text in notes(few, wide=True))

    def test_different_devices_of_one_kind_are_told(self) -> None:
        other = on_device(make_run("b", "B"), processor="Another CPU")
        lines = notes(compare([make_run(), other]), wide=True)
        assert "Device: cpu, Example CPU @ 2.10GHz and Another CPU. Engine: fast." in lines
        assert not any("Warning" in line for line in lines)

    def test_a_stand_in_is_told_though_another_run_asked_for_the_same_data(self) -> None:
        direct = with_record(make_run(), dataset=dataclasses.replace(STAND_IN, stand_in_for=None))
        stand_in = with_record(make_run("b", "B"), dataset=STAND_IN)
        lines = notes(compare([direct, stand_in]), wide=True)
        assert lines[-1] == "Note: mnist is not available offline; trained on mnist_5k instead."
        assert not any("Note:" in x for x in notes(compare([direct]), wide=True))

    def test_runs_with_and_without_spread(self) -> None:
        comparison = compare([make_run(), make_run("b", "B", seeds=(0, 1))])
        first = notes(comparison, wide=True)[0]
        assert first == "Accuracy: validation set; mean ± standard deviation over seeds."


def value_cell(run: RunResult) -> str:
    line = markdown([compare([run])], wide=False).splitlines()[2]
    return line.split("|")[3].strip()


def constant(values: Sequence[float], metric: str) -> RunResult:
    """A run whose seeds have these values of the headline metric in every epoch."""
    run = make_run(seeds=range(len(values)), headline=metric)
    epochs = tuple(
        dataclasses.replace(
            epoch,
            validation_loss=values[epoch.seed],
            metrics={"accuracy": values[epoch.seed]},
        )
        for epoch in run.epochs
    )
    return dataclasses.replace(run, epochs=epochs)


@pytest.mark.parametrize(
    ("metric", "values", "cell"),
    [
        ("accuracy", [0.98974], "98.97%"),
        ("accuracy", [1.0], "100.00%"),
        ("accuracy", [0.98, 0.99], "98.50 ± 0.71%"),
        ("accuracy", [0.98, 0.98], "98.00 ± <0.01%"),
        ("accuracy", [0.98, 0.98001], "98.00 ± <0.01%"),
        ("accuracy", [0.98, math.nan], "1 of 2 diverged"),
        ("loss", [0.0123456], "0.01235"),
        ("loss", [2.3], "2.300"),
        ("loss", [1234.5], "1234"),
        ("loss", [2.0, 2.0], "2.000 ± 0"),
        ("loss", [0.0123, 0.0125], "0.01240 ± 0.00014"),
        ("loss", [math.inf], "diverged"),
        ("loss", [1.0, math.inf], "1 of 2 diverged"),
    ],
)
def test_values_are_rounded_without_false_certainty(
    metric: str, values: list[float], cell: str
) -> None:
    assert value_cell(constant(values, metric)) == cell


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_no_spread_is_shown_as_zero(values: list[float]) -> None:
    cell = value_cell(constant(values, "accuracy"))
    assert "± 0.00" not in cell
    assert ("±" in cell) == (len(values) > 1)


@pytest.mark.parametrize(
    ("train_s", "cell"), [(6.775, "6.78 s"), (0.0123456, "0.0123 s"), (1234.5, "1,234.50 s")]
)
def test_times_keep_three_digits(train_s: float, cell: str) -> None:
    run = make_run()
    epochs = tuple(dataclasses.replace(epoch, train_s=train_s) for epoch in run.epochs)
    text = markdown([compare([dataclasses.replace(run, epochs=epochs)])], wide=False)
    assert text.splitlines()[2].split("|")[4].strip() == cell


class TestExport:
    def test_csv_holds_the_unrounded_values(self) -> None:
        comparison = two((0, 1, 2))
        lines = list(csv.DictReader(io.StringIO(csv_json.csv_text([comparison, comparison]))))
        assert len(lines) == 8
        for line, row in zip(lines, comparison.rows * 2, strict=True):
            assert float(line["value_mean"]) == row.value.mean
            assert float(line["value_std"]) == row.value.std
            assert float(line["train_s_mean"]) == row.train_s.mean
            assert line["num_params"] == "160362"
            assert (line["test_mean"] == "") == (row.test is None)

    def test_csv_keeps_a_title_whole(self) -> None:
        title = 'A, "B"\nC'
        text = csv_json.csv_text([compare([make_run(title=title)])])
        assert [line["title"] for line in csv.DictReader(io.StringIO(text))] == [title, title]

    def test_json_holds_every_seed_and_scipys_interval(self) -> None:
        document = json.loads(csv_json.json_text([two((5, 1, 2))]))
        assert document["format_version"] == FORMAT_VERSION
        row = document["comparisons"][0]["rows"][1]
        assert row["seeds"] == [5, 1, 2]
        values = row["value"]["values"]
        assert values == [0.91 + 3 / 50 + seed / 2000 for seed in (5, 1, 2)]
        interval = oracle.t.interval(0.95, 2, sum(values) / 3, oracle.sem(values))
        assert tuple(row["value"]["interval_95"].values()) == pytest.approx(interval)

    def test_json_has_no_interval_of_one_seed(self) -> None:
        row = json.loads(csv_json.json_text([two()]))["comparisons"][0]["rows"][0]
        assert row["value"] == {"values": [0.93], "mean": 0.93, "std": None, "interval_95": None}

    def test_json_survives_a_diverged_seed(self) -> None:
        text = csv_json.json_text([compare([constant([0.5, math.nan], "loss")])])
        value = json.loads(text)["comparisons"][0]["rows"][0]["value"]
        assert value["values"] == [0.5, "NaN"]
        assert value["interval_95"] == {"low": "NaN", "high": "NaN"}


def test_compare_says_what_the_command_line_changed() -> None:
    words = ("cnnbench", "run", "a.yaml", "train.optimizer=adam", "--epochs", "5", "--quiet")
    one = make_run(name="standard", title="Standard CNN")
    environment = dataclasses.replace(one.record.environment, command=words)
    other = with_record(make_run(name="adam", title="Adam CNN"), environment=environment)
    lines = notes(compare([one, other]), wide=True)
    assert "Adam CNN: adam/20251123T063012Z-a1b2, with train.optimizer=adam --epochs 5." in lines


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (("--tag=seeds=3", "--results-dir", "title=a", "--seeds=2"), "--seeds=2"),
        (("--engine", "plain", "--tag", "seeds=3", "seeds=3"), "--engine plain seeds=3"),
    ],
)
def test_changes_are_read_as_in_labels(words: tuple[str, ...], changes: str) -> None:
    run = make_run()
    environment = dataclasses.replace(run.record.environment, command=words)
    lines = notes(
        compare([with_record(run, environment=environment, tags=("seeds=3",))]), wide=True
    )
    assert any(line.endswith(f"20251123T063012Z-a1b2, with {changes}.") for line in lines)


def test_a_tag_is_no_change_of_the_command_line() -> None:
    words = ("cnnbench", "run", "a.yaml", "train.optimizer=adam", "--tag", "lr=0.1")
    run = make_run(name="adam", title="Adam CNN")
    environment = dataclasses.replace(run.record.environment, command=words)
    tagged = with_record(run, environment=environment, tags=("lr=0.1",))
    lines = notes(compare([tagged]), wide=True)
    assert "Adam CNN @lr=0.1: adam/20251123T063012Z-a1b2, with train.optimizer=adam." in lines


@pytest.mark.parametrize("epochs", [("--epochs", "5"), ("--epochs=5",), ("train.epochs=5",)])
def test_compare_says_how_many_epochs_an_extended_run_has(epochs: tuple[str, ...]) -> None:
    words = ("cnnbench", "run", "a.yaml", "train.optimizer=adam", *epochs)
    one = make_run(name="standard", title="Standard CNN")
    record = one.record
    environment = dataclasses.replace(record.environment, command=words)
    extension = Extension(record.started_at, 5, ("cnnbench", "run", "--resume", "standard"))
    other = with_record(
        make_run(name="adam", title="Adam CNN"), environment=environment, extended=(extension,)
    )
    changes = f"train.optimizer=adam train.epochs={record.epochs}"
    lines = notes(compare([one, other]), wide=True)
    assert f"Adam CNN: adam/20251123T063012Z-a1b2, with {changes}." in lines


def test_a_list_of_runs_fits_into_80_columns() -> None:
    lines = shown(list_table(ENTRIES, CURVES, "utf-8")).splitlines()
    assert max(map(len, lines)) <= 80
