"""``cnnbench run --tune`` end to end: trials, choice, both verdicts, what a killed one keeps."""

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.runner.processes import lead
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunRecord, Status
from cnnbench.training import trainer

NET = """\
name: {name}
title: {title}
task: classify
dataset: {{name: mnist_5k, train_examples: 100}}
model:
  layers:
    hidden: {{op: dense, units: {units}, activation: relu}}
    out: {{op: dense, units: 10}}
train: {{epochs: 1, batch_size: 50, optimizer: {{name: sgd, learning_rate: 0.02}}}}
seeds: [0, 1]
"""
SPACE = ("--tune", "learning_rate=x1:x5", "--tune-seeds", "1")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Path("a.yaml").write_text(NET.format(name="a", title="A", units=4))
    Path("b.yaml").write_text(NET.format(name="b", title="B", units=6))


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


def records() -> list[RunRecord]:
    return [entry.record for entry in list_runs(Path("results")).entries]


@pytest.mark.slow
def test_trials_come_first_on_seeds_of_their_own_and_can_be_repeated():
    done = invoke("run", "a.yaml", "b.yaml", *SPACE, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    trials = [record for record in records() if record.is_trial]
    others = [record for record in records() if not record.is_trial]
    assert [(t.name, t.seeds) for t in trials] == [(n, (1000,)) for n in ("a", "b", "a", "b")]
    best = [arm["best"] for arm in found["tuning"]["arms"]]
    tuned = [record.name for record in others if record.tags == ("tuned",)]
    assert tuned == [name for name, place in zip("ab", best, strict=True) if place == 1]
    assert [record.seeds for record in others] == [(0, 1)] * (2 + len(tuned))
    for arm in found["tuning"]["arms"]:
        check_choice(arm)
    (written,) = found["comparisons"][0]["verdicts"]
    assert written["metric"] == "test_accuracy"
    check_repetition(len(trials), len(others))


def check_choice(arm) -> None:
    """The best trial of an experiment has the best validation accuracy of its runs."""
    values = [trial["mean"] for trial in arm["trials"]]
    assert values[arm["best"]] == max(values)
    for trial in arm["trials"]:
        run = read_run(Path("results", trial["run"]))
        assert trial["values"] == [run.epochs[-1].validation("accuracy")]
        assert run.record.is_trial


def check_repetition(trials: int, others: int) -> None:
    """Nothing is trained twice, commands can be pasted, and comparisons skip trials."""
    again = invoke("run", "a.yaml", "b.yaml", *SPACE)
    assert again.stderr.count("is already finished; nothing to train") == trials + others
    words = [line[7:] for line in again.stdout.splitlines()]
    for line in (text for text in words if text.startswith("cnnbench ")):
        pasted = invoke(*shlex.split(line)[1:], *(["--needed"] if " run " in line else []))
        assert pasted.exit_code == 0, line
    assert "Verdict: " in pasted.stdout
    assert len(records()) == trials + others
    wider = invoke("run", "a.yaml", "b.yaml", "--tune", "learning_rate=x1:x5:x25", *SPACE[2:])
    assert wider.exit_code == 0
    known = [record.run_id for record in records() if record.is_trial]
    assert len(known) == trials + 2
    compared = json.loads(invoke("compare", "--format", "json").stdout)["comparisons"]
    assert not {row["run_id"] for each in compared for row in each["rows"]} & set(known)
    assert invoke("list").stdout.count("@tune ") == len(known)
    assert invoke("check").exit_code == 0


@pytest.mark.slow
def test_a_tuning_that_was_interrupted_continues(monkeypatch):
    trained = []

    class Stops(trainer.Trainer):
        def train_seeds(self, seeds):
            trained.append(seeds)
            if len(trained) == 2:
                raise KeyboardInterrupt
            super().train_seeds(seeds)

    monkeypatch.setattr("sys.argv", ["cnnbench", "run", "a.yaml", *SPACE])
    monkeypatch.setattr(lead, "Trainer", Stops)
    Path("a.yaml").write_text(NET.replace("[0, 1]", "[0]").format(name="a", title="A", units=4))
    stopped = invoke("run", "a.yaml", *SPACE)
    assert stopped.exit_code == 130
    line = "cnnbench run a.yaml --tune learning_rate=x1:x5 --tune-seeds 1"
    assert f"interrupted; continue with: {line}\n" in stopped.stderr
    assert [record.status for record in records()] == [Status.FINISHED, Status.INTERRUPTED]
    found = invoke("compare", "a")
    assert (found.exit_code, found.stderr) == (
        4,
        "results/a: no finished run; all its runs are trials of --tune; name the newest one as"
        " a@tune\n",
    )
    done = invoke(*shlex.split(line)[1:])
    assert done.exit_code == 0
    kept = {path.parent.parent.name for path in Path("results").glob("*/*/tuning.svg")}
    assert kept == {"a"}
    assert json.loads(next(Path("results").glob("a/*/tuning.json")).read_text())["tuning"]
    assert len(trained) - 2 == 1 + (2 if "A @tuned" in done.stdout else 1)
    assert sum(record.is_trial for record in records()) == 2


def test_a_dry_run_prints_the_trials_and_their_cost():
    done = invoke("run", "a.yaml", "b.yaml", *SPACE, "--dry-run", "--seeds", "1000,1002")
    assert done.exit_code == 0
    assert not Path("results").exists()
    assert done.stdout.endswith(
        "would try A: train.optimizer.learning_rate=0.02 (as written)\n"
        "would try A: train.optimizer.learning_rate=0.1\n"
        "would try B: train.optimizer.learning_rate=0.02 (as written)\n"
        "would try B: train.optimizer.learning_rate=0.1\n"
        "Tuning: 2 trials x 1 seed x 1 epoch = 2 epochs for each experiment, seed 1001.\n"
        "Verdict: 4 seeds, 4 epochs as written, and as many at most for those that are better with"
        " other values. In all at most 12 epochs.\n"
    )


@pytest.mark.slow
def test_a_tuned_batch_size_may_take_other_numbers_of_steps():
    space = ("--tune", "batch_size=x0.2:x1", "--tune-seeds", "1")
    done = invoke("run", "a.yaml", "b.yaml", *space, "--quiet")
    assert done.exit_code == 0
    assert "Chosen by validation accuracy, seed 1000; " in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["a.yaml", *SPACE, "dataset.splits.validation=0"],
            "--tune: a.yaml has no validation images, and test images must not choose; set"
            " dataset.splits.validation.",
        ),
        (
            ["a.yaml", "--tune", "units=x0.01:x0.02"],
            "--tune: 'units' may be model.hidden.units, model.out.units in a.yaml; write one, or"
            " '*.units' for all of them.",
        ),
        (
            ["a.yaml", "--tune", "hidden.units=x0.01:x0.02"],
            "--tune: x0.01 and x0.02 are both model.hidden.units=1 in a.yaml; try other values.",
        ),
        (
            ["a.yaml", "--tune", "learning_rate=0.1:-1"],
            "--tune learning_rate: -1 is not valid for a.yaml:\n"
            "command line: train.optimizer.learning_rate: -1 is too small; use a value greater than"
            " 0.",
        ),
        (
            ["a.yaml", "--trials", "3"],
            "--trials: has no effect without --tune or several values of a key; add --tune"
            " learning_rate.",
        ),
        (
            ["a.yaml", *SPACE, "--profile", "trace"],
            "--profile: cannot be combined with --tune; remove one of them.",
        ),
        (
            ["a.yaml", *SPACE, "--over", "train_examples=50,100"],
            "--tune: cannot be combined with --over; remove one of them.",
        ),
        (
            ["a.yaml", "--tag", "tune"],
            "--tag: 'tune' marks the trials of --tune; write another tag.",
        ),
    ],
)
def test_mistakes(words: list[str], message: str):
    done = invoke("run", *words)
    assert (done.exit_code, done.stderr, done.stdout) == (2, f"{message}\n", "")
    assert not Path("results").exists()


def test_unequal_epochs_are_no_equal_budget():
    Path("b.yaml").write_text(Path("b.yaml").read_text().replace("epochs: 1", "epochs: 2"))
    done = invoke("run", "a.yaml", "b.yaml", *SPACE)
    assert (done.exit_code, done.stderr) == (
        2,
        "--tune: a.yaml has train.epochs: 1, b.yaml 2; give all the same budget with --epochs N.\n",
    )
