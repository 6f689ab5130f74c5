"""``compare --over`` and ``run --over``: verdicts at several values of a key."""

import csv
import dataclasses
import io
import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from cnnbench.cli.app import app
from cnnbench.cli.over import over_requests
from cnnbench.errors import UsageError
from cnnbench.runner.run import Request
from cnnbench.runs.records import TRIAL, RunResult
from cnnbench.spec.document import dump_document
from tests.support.samples import MNIST, make_run, save, with_record

SEEDS = tuple(range(6))
SPEC = {
    "name": "standard",
    "title": "Standard CNN",
    "dataset": {"name": "mnist", "train_examples": None},
    "model": {"layers": {"conv1": {"op": "conv", "filters": 8}}},
    "train": {"epochs": 3, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "seeds": list(SEEDS),
}


def save_at(
    results: Path, run: RunResult, examples: int, *, rate: float = 0.1, spec: str = "a"
) -> None:
    """Saves a run as if trained on a number of images, with its resolved experiment."""
    data = dataclasses.replace(MNIST, num_train=examples, digest=f"sha256:{examples}")
    run_id = f"2025112{len(str(examples))}T000000Z-{examples % 9999:04d}"
    run = with_record(run, dataset=data, run_id=f"{run_id[:-1]}{spec}")
    run = with_record(run, spec_digest=f"sha256:{run.record.name}{examples}{rate}")
    path = save(run, results)
    document = {**SPEC, "name": run.record.name, "title": run.record.title}
    document["dataset"] = {"name": "mnist", "train_examples": examples}
    document["train"] = {"epochs": 3, "optimizer": {"name": "sgd", "learning_rate": rate}}
    (path / "resolved.yaml").write_text(dump_document(document))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two classifiers on 1,000, 2,000 and 4,000 images: worse, equal, and better."""
    for examples, start in ((1000, 0.90), (2000, 0.9101), (4000, 0.93)):
        save_at(tmp_path, make_run(seeds=SEEDS), examples)
        other = make_run("modified", "Modified CNN", seeds=SEEDS, start=start)
        save_at(tmp_path, other, examples)
    return tmp_path


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, [*words], env={"COLUMNS": "80"})


def compare(results: Path, *words: str) -> Result:
    return invoke("compare", *words, "--results-dir", str(results))


def test_the_verdict_at_each_value_and_what_they_say_together(results: Path) -> None:
    done = compare(results, "standard", "modified", "--over", "train_examples=4000,1000,2000")
    assert done.exit_code == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert (
        "Verdict: The sign changes: Modified CNN is better than Standard CNN at"
        " train_examples=4,000 and worse at 1,000; at 2,000, no difference detected."
    ) in text
    assert "The difference depends on train_examples (p < 0.001, Welch's test" in text
    places = [done.stdout.index(f"\n{value} ") for value in ("1,000", "2,000", "4,000")]
    assert places == sorted(places)


def test_p_values_are_adjusted_for_all_values(results: Path) -> None:
    words = ["standard", "modified", "--over", "train_examples", "--format", "json"]
    over = json.loads(compare(results, *words).stdout)["over"]
    assert (over["key"], over["values"]) == (
        "dataset.train_examples",
        ["1000", "2000", "4000"],
    )
    p = [row["verdict"]["p"] for row in over["rows"]]
    assert p[0] == p[2] == pytest.approx(3 * 2 / 924)  # all of 924 divisions, and three tests
    assert [row["verdict"]["finding"] for row in over["rows"]] == [
        "worse",
        "no difference detected",
        "better",
    ]
    assert over["rows"][2]["verdict"]["improvement"]["share"] == 1
    assert over["rows"][0]["verdict"]["improvement"]["share"] == 0


def test_csv_has_a_line_for_each_value(results: Path) -> None:
    words = ["standard", "modified", "--over", "train_examples", "--format", "csv"]
    lines = list(csv.DictReader(io.StringIO(compare(results, *words).stdout)))
    assert [line["value"] for line in lines] == ["1000", "2000", "4000"]
    assert float(lines[0]["difference"]) == pytest.approx(-0.01)
    assert {line["key"] for line in lines} == {"dataset.train_examples"}


def test_markdown_has_the_table_and_the_sentence(results: Path) -> None:
    words = ["standard", "modified", "--over", "train_examples", "--format", "md"]
    text = compare(results, *words).stdout
    assert "| Standard CNN | Modified CNN | Difference | CI |" in text.splitlines()[0]
    assert "Verdict: The sign changes: Modified CNN is better than Standard CNN" in text


def test_a_page_and_a_latex_table_are_printed(results: Path) -> None:
    words = ["standard", "modified", "--over", "train_examples", "--format"]
    page = compare(results, *words, "html")
    assert page.stdout.startswith("<!DOCTYPE html>")
    assert page.stdout.count("The sign changes: Modified CNN is better than Standard CNN") > 1
    latex = compare(results, *words, "latex")
    assert "train\\_examples & Standard CNN & Modified CNN & Difference & CI & p" in latex.stdout


def test_a_report_has_the_picture_the_table_and_every_value(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "over.html"
    words = ["standard", "modified", "--over", "train_examples", "-o", str(file)]
    done = invoke("report", *words, "--results-dir", str(results))
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    page = file.read_text()
    assert "The sign changes: Modified CNN is better than Standard CNN" in page
    assert page.count("Learning curves by epoch") == 3
    done = invoke("report", *words, "--all", "--results-dir", str(results))
    message = "--all: cannot be combined with --over; remove one of them.\n"
    assert (done.exit_code, done.stderr) == (2, message)


@pytest.mark.parametrize("options", [[], ["--all"]])
def test_compare_names_the_command_for_several_datasets(tmp_path: Path, options: list[str]) -> None:
    def saved(name: str, data: str) -> None:
        run = make_run(name, name, seeds=SEEDS, run_id=f"{name}-{data}")
        dataset = dataclasses.replace(MNIST, name=data, digest=data)
        save(with_record(run, dataset=dataset), tmp_path)

    for name, data in (("a", "mnist"), ("b", "mnist"), ("a", "svhn")):
        saved(name, data)
    assert "Over datasets" not in compare(tmp_path, *options).stderr
    saved("b", "svhn")
    line = compare(tmp_path, *options).stderr.splitlines()[-1]
    assert line == (
        f"Over datasets: cnnbench compare a b --over dataset=mnist,svhn --results-dir {tmp_path}"
    )
    assert "Over datasets" not in compare(tmp_path, "a", "b").stderr


def test_an_experiment_has_one_name_at_all_values(results: Path) -> None:
    """Tags differ, as of the best run of a tuning, whose trials are no runs to compare."""
    folders = sorted((results / "modified").iterdir())
    for folder, tag in ((folders[0], TRIAL), (folders[1], "tuned")):
        file = folder / "run.json"
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "tags": [tag]}))
    done = compare(results, "standard", "modified", "--over", "train_examples", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(line["label"], line["value"]) for line in lines] == [
        ("Modified CNN", "2000"),
        ("Modified CNN", "4000"),
    ]


def test_missing_runs_are_named_with_the_command_that_trains_them(results: Path) -> None:
    done = compare(results, "standard", "modified", "--over", "train_examples=1000,8000")
    option = f"--results-dir {results}"
    assert done.exit_code == 4
    assert done.stderr == (
        "--over: 2 of 4 runs are missing: standard at train_examples=8000 and modified at"
        " train_examples=8000; train with: cnnbench run"
        f" {_resolved(results, 'standard')} {_resolved(results, 'modified')}"
        f" --over train_examples=8000 {option}\n"
    )
    save_at(results, make_run(seeds=SEEDS), 8000)
    done = compare(results, "standard", "modified", "--over", "train_examples=1000,8000")
    assert "1 of 4 run is missing: modified at train_examples=8000; train with:" in done.stderr


def _resolved(results: Path, name: str) -> Path:
    newest = max((results / name).iterdir())
    return newest / "resolved.yaml"


def test_runs_with_the_same_other_settings_are_chosen(results: Path) -> None:
    newer = make_run("modified", "Modified CNN", seeds=SEEDS, start=0.5)
    save_at(results, newer, 4000, rate=0.7, spec="b")
    words = ["standard", "modified", "--over", "train_examples", "--format", "json"]
    over = json.loads(compare(results, *words).stdout)["over"]
    assert over["rows"][2]["verdict"]["finding"] == "better"  # not that of learning rate 0.7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--over", "train_examples=1000,2000"],
            "--over: no experiment is named; write, for example, cnnbench compare A B --over"
            " train_examples=1000,2000.",
        ),
        (
            ["standard", "modified", "--over", "=1"],
            "--over: '=1' is not KEY=VALUE,VALUE; write, for example,"
            " train_examples=1000,2000,4000.",
        ),
        (
            ["standard", "modified", "--over", "epochs=1,,2"],
            "--over: 'epochs=1,,2' is not KEY=VALUE,VALUE; write, for example,"
            " train_examples=1000,2000,4000.",
        ),
        (
            ["standard", "modified", "--over", "epochs=1,2,1.0"],
            "--over epochs: 1.0 is given twice; remove one of them.",
        ),
        (
            ["standard", "modified", "--over", "seeds=1,2"],
            "--over: seeds are what every verdict is over; name another key.",
        ),
        (
            ["standard", "modified", "--over", "train_exampels=1,2"],
            "--over: standard has no key 'train_exampels' (did you mean 'train_examples'?); write"
            " its dotted path, such as train.optimizer.learning_rate.",
        ),
        (
            ["standard", "modified", "--over", "train_examples=1000"],
            "--over train_examples=1000: a single value; name several, as in"
            " train_examples=VALUE,VALUE.",
        ),
        (
            ["standard", "modified", "--over", "learning_rate"],
            "--over learning_rate: values that standard and modified all have runs with: only"
            " 0.1; name the values, as in learning_rate=VALUE,VALUE.",
        ),
        (
            ["standard", "modified", "--over", "train_examples", "--sort-by", "time"],
            "--sort-by: cannot be combined with --over; remove one of them.",
        ),
        (
            ["standard", "modified", "--over", "train_examples", "--fail-if", "accuracy<95%"],
            "--fail-if: with --over, limits are changes of accuracy or train_s; write, for"
            " example, accuracy:-0.2pp.",
        ),
    ],
)
def test_mistakes(results: Path, words: list[str], message: str) -> None:
    done = compare(results, *words)
    assert (done.exit_code, done.stderr) == (2, f"{message}\n")


def test_limits_hold_at_every_value(results: Path) -> None:
    words = ["standard", "modified", "--over", "train_examples", "--fail-if", "accuracy:-0.2pp"]
    done = compare(results, *words)
    assert done.exit_code == 3
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "train_examples=1000",
        "train_examples=2000",
        "train_examples=4000",
    ]


def test_run_trains_every_experiment_at_every_value(tmp_path: Path) -> None:
    spec = {**SPEC, "task": "classify", "dataset": {"name": "mnist_5k"}}
    layers = {"dense1": {"op": "dense", "units": 10}}
    spec |= {"model": {"layers": layers}, "train": {"epochs": 1, "batch_size": 50}}
    path = tmp_path / "standard.yaml"
    path.write_text(yaml.safe_dump(spec))
    command = ["cnnbench", "run", "standard.yaml", "--over", "train_examples=100,200", "--json"]
    requests = [Request(path, ["seeds=2"], command=command)]
    found = over_requests(requests, "train_examples=100,200")
    assert [request.overrides for request in found] == [
        ["seeds=2", "dataset.train_examples=100"],
        ["seeds=2", "dataset.train_examples=200"],
    ]
    assert found[1].command == [*command[:4], "dataset.train_examples=200", "--json"]
    on = over_requests(requests, "dataset=mnist,mnist_5k")[0].overrides
    assert on == ["seeds=2", "dataset.name=mnist", "dataset.splits=null", "dataset.offline=null"]
    with pytest.raises(UsageError, match="--over epochs: no values; write epochs=VALUE,VALUE"):
        over_requests(requests, "epochs")


def test_one_experiment_is_a_sweep_compared_with_the_best(tmp_path: Path) -> None:
    for rate, start in ((0.01, 0.90), (0.1, 0.95), (1.0, 0.93)):
        run = with_record(make_run(seeds=SEEDS, start=start), run_id=f"{rate:g}")
        path = save(with_record(run, spec_digest=f"sha256:{rate}"), tmp_path)
        train = {"epochs": 3, "optimizer": {"name": "sgd", "learning_rate": rate}}
        (path / "resolved.yaml").write_text(dump_document({**SPEC, "train": train}))
    words = ["standard", "--over", "learning_rate=0.01,0.1,1"]
    (comparison,) = json.loads(compare(tmp_path, *words, "--format", "json").stdout)["comparisons"]
    verdicts = [(verdict["label"], verdict["baseline"]) for verdict in comparison["verdicts"]]
    best = "learning_rate=0.1"
    assert verdicts == [("learning_rate=1.0", best), ("learning_rate=0.01", best)]
    remark = comparison["remarks"][0]
    assert remark == (
        "learning_rate=0.1 is the baseline because it has the best validation accuracy of the 3"
        " runs of Standard CNN; as the winner of a sweep, it is optimistic. Confirm it on fresh"
        f" seeds with: cnnbench run {tmp_path}/standard/0.1/resolved.yaml --seeds 6,7,8,9,10,11"
    )
    same = compare(tmp_path, *["standard"] * 3, "--format", "json")
    assert json.loads(same.stdout)["comparisons"][0]["remarks"][0] == remark
