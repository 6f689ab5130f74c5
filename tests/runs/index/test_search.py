"""Conditions, orders and tables of runs; pandas is the oracle."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.report.run_list import (
    device_labels,
    device_notes,
    rows_csv,
    rows_json,
    rows_parquet,
    run_rows,
    seed_rows,
)
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.index import lookup
from cnnbench.runs.index.condition import parse_condition
from cnnbench.runs.index.search import Search, search
from tests.support.many_runs import write_runs
from tests.support.samples import make_run, on_machine, on_other

NUM = 90


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("many")
    write_runs(folder, NUM)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lookup, "SETTLED_S", -1.0)  # so that the settings are indexed at once
        yield folder


@pytest.fixture(scope="module")
def entries(results: Path) -> tuple[RunEntry, ...]:
    return list_runs(results).entries


@pytest.fixture(scope="module")
def frame(entries: tuple[RunEntry, ...]) -> pd.DataFrame:
    """The runs as pandas sees them, from their files."""
    rows = [
        {
            "run": entry.record.run_id,
            "name": entry.record.name,
            "status": entry.status,
            "epochs": entry.record.epochs,
            "test_accuracy": sum(s.test["accuracy"] for s in entry.summary.seeds) / 6
            if entry.summary
            else None,
            "num_params": entry.summary.num_params if entry.summary else None,
            "learning_rate": 0.0001 * (1 + number),
        }
        for number, entry in enumerate(entries)
    ]
    return pd.DataFrame(rows).astype({"test_accuracy": float, "num_params": float})


def ids(entries: Any, where: str | None = None, **asked: Any) -> list[str]:
    return [entry.facts.run_id for entry in search(entries, Search(where, **asked)).entries]


comparisons = st.one_of(
    st.builds(
        "test_accuracy {} {}".format,
        st.sampled_from(["<", "<=", ">", ">="]),
        st.sampled_from([0.9812, 0.98205, 0.9815]),
    ),
    st.builds(
        "learning_rate {} {}".format, st.sampled_from(["<", ">"]), st.sampled_from([0.00205, 1])
    ),
    st.builds("name {} '{}'".format, st.sampled_from(["==", "!="]), st.sampled_from(["mlp", "x"])),
    st.builds("status == '{}'".format, st.sampled_from(["finished", "failed", "killed"])),
    st.sampled_from(["epochs >= 10", "epochs > 10", "name in ('mlp', 'standard')"]),
)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=5,
)


@given(where=conditions)
def test_conditions_select_what_pandas_does(
    where: str, entries: tuple[RunEntry, ...], frame: pd.DataFrame
) -> None:
    assert ids(entries, where) == list(frame.query(where, engine="python")["run"])


@pytest.mark.parametrize("name", ["test_accuracy", "learning_rate", "run", "num_params"])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_order_is_that_of_pandas(
    name: str, reverse: bool, entries: tuple[RunEntry, ...], frame: pd.DataFrame
) -> None:
    found = ids(entries, sort_by=name, reverse=reverse, limit=7)
    expected = frame.sort_values(name, ascending=not reverse, kind="stable").head(7)
    values = frame.set_index("run", drop=False)[name]
    assert list(values[found]) == list(expected[name])


@pytest.mark.parametrize(
    ("where", "same"),
    [
        ("epochs = 10 AND NOT name = 'mlp'", "epochs == 10 and name != 'mlp'"),
        ("'night' in tags", "tags == 'night'"),
        ("started > 2025-11-23T07:00", "started > '2025-11-23T07:00:00+00:00'"),
        ("2025-11-23 < started < 2025-11-24", "started > 2020-01-01"),
        ("ended == null", "not ended > 2000-01-01"),
        ("train.optimizer.learning_rate < 0.002", "learning_rate < 2e-3"),
        ("accuracy > 0.5", "validation_accuracy > 0.5"),
        ("seeds == 6 and diverged == 0", "batch_size == 500"),
        ("model.conv1.kernel == '[5, 5]'", "model.layers.conv1.kernel = '[5, 5]'"),
        ("train.optimizer == 'sgd'", "train.optimizer.name == 'sgd'"),
        ("test_accuracy > 98.1%", "test_accuracy > 0.981"),
        ("nesterov == true", "train.optimizer.nesterov != false and nesterov != null"),
    ],
)
def test_conditions_that_mean_the_same(
    where: str, same: str, entries: tuple[RunEntry, ...]
) -> None:
    assert ids(entries, where) == ids(entries, same) != []


EXAMPLE = "write, for example, 'test_accuracy > 0.98 and epochs >= 10'."


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("epochs >", f"--where: 'epochs >' is not a condition; {EXAMPLE}"),
        ("epochs", f"--where: 'epochs' is not a condition; {EXAMPLE}"),
        ("1 < 2", f"--where: '1 < 2' compares no value of a run; {EXAMPLE}"),
        ("name is None", f"--where: 'name is None' compares no value of a run; {EXAMPLE}"),
        ("open('x')", f"--where: \"open('x')\" is not a condition; {EXAMPLE}"),
        (
            "name == f()",
            f"--where: 'f()' in 'name == f()' is neither a name, a number nor a text; {EXAMPLE}",
        ),
        (
            "status == finished",
            "--where: no run has a value 'finished'; write a text in quotes: 'finished'.",
        ),
        (
            "started > 'today'",
            "--where: 'today' is not a date; write, for example, 2026-11-01 or 2026-11-01T14:30.",
        ),
        (
            "started > 3",
            "--where: a time cannot be compared with 3; write a date, such as"
            " started > 2026-11-01.",
        ),
        (
            "name > 3",
            "--where: name is a text, so 'name > 3' is never true; write, for example,"
            " name == 'standard'.",
        ),
        (
            "tags > 'a'",
            "--where: tags is a list of texts, so \"tags > 'a'\" is never true; write, for example,"
            " 'wide' in tags.",
        ),
        (
            "accuracy > '0.9'",
            "--where: accuracy is a number, so \"accuracy > '0.9'\" is never true; write, for"
            " example, accuracy >= 0.9712.",
        ),
        (
            "not 'x' in epochs",
            "--where: epochs is a number, so \"'x' in epochs\" is never true; write, for example,"
            " epochs >= 10.",
        ),
        (
            "epochs in ('10', '20')",
            "--where: epochs is a number, so \"epochs in ('10', '20')\" is never true; write, for"
            " example, epochs >= 10.",
        ),
        (
            "1 < name < 3",
            "--where: name is a text, so '1 < name' is never true; write, for example,"
            " name == 'standard'.",
        ),
        (
            "train.optimizer = 3",
            "--where: train.optimizer is a text, so 'train.optimizer == 3' is never true; write,"
            " for example, train.optimizer == 'sgd'.",
        ),
        (
            "test_acuracy > 0.9",
            "--where: no run has a value 'test_acuracy' (did you mean 'test_accuracy'?); write, for"
            " example, name, status, tags, started, validation_accuracy, validation_loss,"
            " test_accuracy, test_loss or the dotted path of a setting.",
        ),
        (
            "rate > 0.1 and kernel == 5",
            "--where: several settings end in 'kernel'; write model.conv1.kernel,"
            " model.conv2.kernel or model.conv1a.kernel.",
        ),
    ],
)
def test_what_is_wrong_is_said(where: str, message: str, entries: tuple[RunEntry, ...]) -> None:
    where = where.replace("rate > 0.1", "learning_rate > 0.1")
    with pytest.raises(UsageError) as raised:
        search(entries, Search(where))
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("where", "known"),
    [
        ("accuracy > 98", "accuracy is 0.9712"),
        ("learning_rate > 1 and epochs > 0", "learning_rate is 0.0001 to 0.009; epochs is 10"),
        (
            "status == 'finish'",
            "status is 'failed', 'finished' or 'killed' (did you mean 'finished'?)",
        ),
        ("tags == 'nigth'", "tags is 'lr', 'night' or 'wide' (did you mean 'night'?)"),
        (
            "run == '1'",
            "run is '20251123T063012Z-0000', '20251123T063112Z-0001',"
            " '20251123T063212Z-0002', '20251123T063312Z-0003' or one of 86 others",
        ),
        ("started < 2000-01-01", "started is 2025-11-23 06:30 to 2025-11-23 07:59"),
        ("nesterov == false", "nesterov is 'true'"),
    ],
)
def test_without_a_match_the_values_are_said(
    where: str, known: str, entries: tuple[RunEntry, ...]
) -> None:
    found = search(entries, Search(where))
    assert (found.entries, found.known) == ([], known)


def mixed(folder: Path) -> list[RunEntry]:
    """Runs on a CPU, on a GPU, and with a seed on another CPU."""
    runs = [
        make_run(seeds=(0, 1)),
        on_machine(make_run("b", run_id=f"{RUN}b"), device_kind="gpu", device="NVIDIA H200"),
        on_other(make_run("c", seeds=(0, 1), run_id=f"{RUN}c"), 1),
    ]
    return [RunEntry(folder, run.record, run.summary) for run in runs]


RUN = "20251124T063012Z-000"


def test_runs_are_found_by_their_hardware(tmp_path: Path) -> None:
    """A run whose seeds two machines trained is one of both."""
    runs = mixed(tmp_path)
    own = runs[0].facts.run_id
    assert ids(runs, "device_kind == 'gpu'") == ids(runs, "'H200' in device") == [f"{RUN}b"]
    assert ids(runs, "'Other' in device") == [f"{RUN}c"]
    assert ids(runs, f"device == '{runs[0].facts.device}'") == [own]
    assert ids(runs, f"'{runs[0].facts.device}' in device") == [own, f"{RUN}c"]


def test_hardware_has_short_names_if_it_differs(tmp_path: Path) -> None:
    runs = mixed(tmp_path)
    assert device_labels(runs[:1]) == {}
    assert list(device_labels(runs[:2]).values()) == ["cpu", "gpu"]
    assert list(device_labels(runs).values()) == ["cpu 1", "gpu", "cpu 2"]
    one = runs[0].facts.device
    assert list(device_notes(runs)) == [
        f"cpu 1: {one}",
        "gpu: NVIDIA H200",
        f"cpu 2: {one}, Other CPU",
    ]


def test_names_are_in_order() -> None:
    assert parse_condition("b.c > 1 or not (a == 'x' and b.c < 3)").names == ["b.c", "a"]


def test_tables_agree_with_each_other(entries: tuple[RunEntry, ...], frame: pd.DataFrame) -> None:
    rows = run_rows(entries, {})
    parquet = pd.read_parquet(io.BytesIO(rows_parquet(rows)))
    table = pd.read_csv(io.StringIO(rows_csv(rows)))
    objects = pd.DataFrame(json.loads(rows_json(rows)))
    for each in (parquet, table, objects):
        assert list(each["run"]) == list(frame["run"])
        assert each["test_accuracy"].to_numpy() == pytest.approx(
            frame["test_accuracy"].to_numpy(), nan_ok=True
        )
    assert list(parquet.columns) == list(table.columns) == list(objects.columns)


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, words)


def test_a_table_of_seeds(results: Path, tmp_path: Path, entries: tuple[RunEntry, ...]) -> None:
    file = tmp_path / "seeds.csv"
    done = invoke("export", str(file), "--per", "seed", "--results-dir", str(results))
    assert done.exit_code == 0, done.output
    table = pd.read_csv(file)
    summaries = [entry.summary for entry in entries if entry.summary]
    expected = [seed.test["loss"] for summary in summaries for seed in summary.seeds]
    assert list(table["test_loss"]) == pytest.approx(expected)
    assert table["train.optimizer.learning_rate"].nunique() == len(summaries)
    assert "train.optimizer.momentum" not in table.columns


def test_a_table_of_seeds_has_the_hardware_of_each(tmp_path: Path) -> None:
    run = on_other(make_run(seeds=(0, 1)), 1)
    (row,) = run_rows([RunEntry(tmp_path, run.record, run.summary)], {})
    rows = list(seed_rows([row], [RunEntry(tmp_path, run.record, run.summary)]))
    assert [each["device"] for each in rows] == ["Example CPU @ 2.10GHz", "Other CPU"]


def test_the_columns_that_were_asked_for_are_shown(results: Path) -> None:
    words = ["list", "--where", "learning_rate < 0.0003", "--sort-by", "test_accuracy"]
    done = invoke(*words, "--results-dir", str(results))
    head, *_ = done.stdout.splitlines()
    assert head.split() == ["Run", "Name", "Dataset", "learning_rate", "test_accuracy", "Result"]
    assert done.stdout.count("20251123T") == 2
    nothing = invoke("list", "--where", "seeds > 100", "--results-dir", str(results))
    assert nothing.stdout == "no run matches seeds > 100; seeds is 6\n"


@pytest.mark.parametrize("form", ["csv", "json", "parquet"])
def test_tables_without_a_run_have_their_columns(form: str, results: Path, tmp_path: Path) -> None:
    """A program reads them as any other; why they are empty is said beside."""
    file = tmp_path / f"none.{form}"
    if form == "parquet":
        pytest.importorskip("pyarrow")
    words = ["list", "--where", "seeds > 100", "--output", str(file)]
    done = invoke(*words, "--results-dir", str(results))
    assert done.exit_code == 0
    assert done.stderr == f"no run matches seeds > 100; seeds is 6\nwrote {file}\n"
    if form == "json":
        assert json.loads(file.read_text()) == []
        return
    found = pd.read_csv(file) if form == "csv" else pd.read_parquet(file)
    assert (len(found), list(found)[:3]) == (0, ["run", "name", "title"])


def test_options_that_do_not_fit(results: Path) -> None:
    done = invoke("list", "--per", "seed")
    assert (done.exit_code, done.stderr) == (
        2,
        "--per seed: needs --output FILE or --format csv; add one of them.\n",
    )
    done = invoke("export", "standard", "--results-dir", str(results))
    assert done.exit_code == 2
    assert done.stderr.startswith("export: missing option '--to' for the network of 'standard';")
    done = invoke("list", "-o", "runs.xlsx", "--results-dir", str(results))
    assert done.exit_code == 2
    assert "use .csv, .parquet or .json" in done.stderr
