"""Several values of keys in ``cnnbench run``: trials, table, failures, and what --needed keeps."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.data import dataset
from cnnbench.errors import DataError
from cnnbench.runner import run
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import RunFolder
from cnnbench.runs.records import RunRecord, Status
from cnnbench.spec.loader import load_experiment

NET = """\
name: a
title: Net
task: classify
dataset: {name: mnist_5k, train_examples: 100}
model:
  params: {units: 4}
  layers:
    hidden: {op: dense, units: $units, activation: relu}
    out: {op: dense, units: 10}
train: {epochs: 1, batch_size: 50, optimizer: {name: sgd, learning_rate: 0.02}}
seeds: [0, 1]
"""
RATES = "train.optimizer.learning_rate=0.01,0.1"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("CNNBENCH_ENGINE", "plain")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Path("a.yaml").write_text(NET)


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


def records() -> list[RunRecord]:
    return [entry.record for entry in list_runs(Path("results")).entries]


def test_trials_are_trained_once():
    done = invoke("run", "a.yaml", RATES, "--seeds", "1")
    assert done.exit_code == 0
    assert "Sweep " in done.stderr
    assert "2 runs x 1 seed." in done.stderr
    assert "Best of 2: learning_rate=" in done.stdout
    trials = [record.sweep for record in records()]
    assert [(t.trial, list(t.values.values())) for t in trials if t] == [
        (1, ["0.01"]),
        (2, ["0.1"]),
    ]
    again = invoke("run", "a.yaml", RATES, "--seeds", "1", "--needed")
    assert again.exit_code == 0
    assert "; 2 of 2 are finished." in again.stderr
    assert again.stdout == done.stdout
    assert len(records()) == 2


def test_dry_run_lists_the_trials():
    words = ("train.optimizer.learning_rate=log(0.001..0.1)", "model.params.units=2,4")
    done = invoke("run", "a.yaml", *words, "--trials", "3", "--dry-run")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].endswith(": 3 runs x 2 seeds.")
    assert [line.split()[:3] for line in lines[1:]] == [
        ["would", "try", f"{n}:"] for n in (1, 2, 3)
    ]
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("train.optimizer.learning_rate=0.1,-1",),
            "trial 2 of 2, learning_rate=-1: not valid for a.yaml:\n",
        ),
        (("train.nothing=1,2",), "train.nothing: unknown key"),
        (("model.params.units=log(2..8)",), "needs a number of trials; add, for example, --trials"),
        (
            (RATES, "--until-decided"),
            "--until-decided: cannot be combined with several values of"
            " train.optimizer.learning_rate; remove one.",
        ),
        (("--sweep-seed", "1"), "--sweep-seed: has no effect without values"),
        (
            (RATES, "--sweep-seed", "1"),
            "--sweep-seed: has no effect on all combinations; add --trials N, or remove it.",
        ),
        (
            ("train.epochs=1,", "2"),
            "train.epochs=1, 2: has a space after the comma; write train.epochs=1,2.",
        ),
        (
            ("train.optimizer.learning_rate=[0.01, 0.1]",),
            "command line: train.optimizer.learning_rate: expected a number, got [0.01, 0.1]; use a"
            " number, or omit the brackets to try each of them.",
        ),
        (("--trials", "2"), "--trials: has no effect without --tune or several values of a key;"),
    ],
)
def test_mistakes_are_found_before_training(words, says):
    done = invoke("run", "a.yaml", *words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not Path("results").exists()


def test_a_dry_run_with_needed_lists_what_is_left():
    """Finished trials are left out, and one that was interrupted is resumed."""
    assert invoke("run", "a.yaml", "train.optimizer.learning_rate=0.1,0.2").exit_code == 0
    (entry,) = [e for e in list_runs(Path("results")).entries if "0.2" in e.facts.title]
    RunFolder(entry.path).write_record(replace(entry.record, status=Status.INTERRUPTED))
    (entry.path / "weights/seed-1.safetensors").unlink()
    words = ("run", "a.yaml", "train.optimizer.learning_rate=0.1,0.2,0.4", "--dry-run")
    done = invoke(*words, "--needed").stdout.splitlines()
    assert done[0].endswith("; 1 of 3 are finished.")
    assert done[1:] == ["would resume 2: learning_rate=0.2", "would try 3: learning_rate=0.4"]
    everything = invoke(*words).stdout.splitlines()
    assert everything[0].endswith("; 1 of 3 are finished, and --needed skips them.")
    assert len(everything) == 1 + 3


@pytest.mark.parametrize("on", [(), pytest.param(("--on", "local:1"), marks=pytest.mark.slow)])
def test_numbers_from_the_images_are_part_of_a_trial(on):
    """`auto` is computed when the images are read, and is in the digests of runs."""
    Path("n.yaml").write_text(NET.replace("100}", "100, normalize: auto}", 1))
    words = ("run", "n.yaml", RATES, *on)
    done = invoke(*words)
    assert done.exit_code == 0
    assert "Best of 2: " in done.stdout
    assert invoke(*words, "--needed").stdout == done.stdout
    assert len(records()) == 2


def test_a_shard_has_a_part_of_the_trials_with_all_seeds():
    """Their results are those of one sweep once they are in one folder."""
    words = ("run", "a.yaml", "train.optimizer.learning_rate=0.01,0.1,0.3")
    whole = invoke(*words, "--results-dir", "whole")
    assert whole.exit_code == 0
    for number in (1, 2):
        done = invoke(*words, "--shard", f"{number}/2", "--results-dir", f"m{number}")
        assert done.exit_code == 0
        shutil.copytree(f"m{number}", "results", dirs_exist_ok=True)
    assert ": 1 run x 2 seeds" in done.stderr
    assert "trial 2 of 3, learning_rate=0.1: validation accuracy " in done.stderr
    assert "2 of 3 are not trained; train them with: " in done.stdout
    assert "--shard" not in done.stdout
    shown = [
        json.loads(invoke("sweep", "show", "--format", "json", "--results-dir", where).stdout)
        for where in ("whole", "results")
    ]
    scores = [[(t["trial"], t["scores"]) for t in each["trials"]] for each in shown]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 3
    done = invoke(*words, "--shard", "4/4", "--results-dir", "m4")
    assert done.stderr == "--shard: there are fewer trials than parts; nothing to train.\n"
    assert done.exit_code == 0
    dry = invoke(*words, "--shard", "1/2", "--dry-run").stdout.splitlines()
    assert [line.split()[2] for line in dry[1:]] == ["1:", "3:"]


def test_a_slurm_task_is_a_trial(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cnnbench", "run", "a.yaml", RATES, "--on", "slurm"])
    script = invoke("run", "a.yaml", RATES, "--on", "slurm", "--dry-run").stdout
    assert "#SBATCH --array=1-2\n" in script
    assert f' run a.yaml {RATES} --shard "$SLURM_ARRAY_TASK_ID/2" --needed &\n' in script


def test_finished_runs_of_another_name_are_trials():
    """As --needed does elsewhere: names are no part of the content."""
    assert invoke("run", "a.yaml", RATES).exit_code == 0
    done = invoke("run", "a.yaml", "name=b", RATES, "--needed")
    assert done.exit_code == 0
    assert "Best of 2: " in done.stdout
    assert len(records()) == 2


def test_a_trial_that_fails_does_not_stop_the_others(monkeypatch):
    from cnnbench.errors import OutOfMemoryError
    from cnnbench.training import trainer

    train_seeds = trainer.Trainer.train_seeds

    def fail_once(self, seeds):
        if self.job.experiment.train.optimizer.learning_rate == 0.01:
            raise OutOfMemoryError("out of memory; use smaller batches.")
        return train_seeds(self, seeds)

    monkeypatch.setattr(trainer.Trainer, "train_seeds", fail_once)
    done = invoke("run", "a.yaml", RATES, "--seeds", "1")
    assert done.exit_code == 1
    said = "trial 1 of 2, learning_rate=0.01: failed: out of memory; use smaller batches.\n"
    assert said in done.stderr
    assert done.stderr.endswith(
        "1 of 2 trials failed:\n"
        "  trial 1, learning_rate=0.01: out of memory; use smaller batches.\n"
    )
    assert "1 of 2 is not trained; train it with: cnnbench " in done.stdout
    assert [str(record.status) for record in records()] == ["failed", "finished"]
    shown = invoke("sweep", "show").stdout
    assert "|              failed |" in shown
    assert "\nTrial 1 failed: out of memory; use smaller batches.\n" in shown
    monkeypatch.undo()


def test_a_trial_that_has_no_run_failed_too(monkeypatch):
    """Its images cannot be read, so there is no folder that says why."""
    read = dataset.dataset_of

    def lost(wanted, *options):
        if wanted.train_examples == 50:
            raise DataError("there are no images; download them.")
        return read(wanted, *options)

    monkeypatch.setattr(run, "dataset_of", lost)
    done = invoke("run", "a.yaml", "dataset.train_examples=50,100", "--seeds", "1")
    assert done.exit_code == 1
    assert "|              failed |" in done.stdout
    assert done.stderr.endswith(
        "  trial 1, train_examples=50: there are no images; download them.\n"
    )


def test_a_model_of_another_folder_is_not_imported(tmp_path, monkeypatch):
    """Planning needs its source, and must not run code that a training would refuse to run."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "untrusted_net.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(folder))
    own = NET[: NET.index("model:")] + 'model: {python: "untrusted_net:Net"}\ntrain: {epochs: 1}\n'
    Path("p.yaml").write_text(own)
    done = invoke("run", "p.yaml", RATES, "--dry-run")
    assert done.exit_code == 2
    assert "untrusted_net" in done.stderr
    assert "--allow-python" in done.stderr


def test_a_race_drops_clear_losers_and_continues_when_needed():
    rates = "train.optimizer.learning_rate=0.0001,0.3"
    larger = ("train.epochs=20", "model.params.units=32")
    words = ("run", "a.yaml", rates, *larger, "--seeds", "8", "--race")
    done = invoke(*words)
    assert done.exit_code == 0
    first = "trial 1 of 2, learning_rate=0.0001: dropped after "
    assert first in done.stderr
    seeds = {r.sweep.trial: len(r.seeds) for r in records() if r.sweep}
    assert seeds[2] == 8
    assert 5 <= seeds[1] < 8
    assert f"Race: {8 + seeds[1]} of 16 seeds, " in done.stderr
    assert "Trial 1 was dropped by the race: " in done.stdout
    tried = invoke(*words, "--needed", "--dry-run").stdout.splitlines()
    assert tried[0].endswith("; 2 of 2 are finished.")
    assert tried[1:] == ["nothing to train: all known trials are finished"]
    whole = invoke(*words[:-1], "--needed", "--dry-run").stdout.splitlines()
    assert [line.split()[:3] for line in whole[1:]] == [["would", "try", "1:"]]
    again = invoke(*words, "--needed")
    assert again.exit_code == 0
    assert len(records()) == 2
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--race",), "--race: has no effect without values; add, for example, KEY=1,2."),
        (
            (RATES, "--race"),
            "--race: of 2 trials, one can be dropped after 5 seeds at the earliest (alpha 0.05),"
            " but there are 2; add --seeds 10, or remove --race.",
        ),
        ((RATES, "a.yaml", "--race"), "--race: ranks the trials of one experiment; name one file."),
        ((RATES, "--race", "--on", "local:2"), "--race: trains in this process; remove --on."),
        (("train.epochs=choice(1)", "--race"), "--race: there is a single trial; add values."),
    ],
)
def test_mistakes_about_races(words, says):
    done = invoke("run", "a.yaml", *words)
    assert done.exit_code == 2
    assert says in done.stderr


SECTION = """\
sweep:
  train.optimizer.learning_rate: log(0.001..0.1)
  model.params.units: [2, 4]
  trials: 3
"""


def tried(*words: str) -> list[str]:
    done = invoke("run", *words, "--dry-run")
    assert done.exit_code == 0
    return [line.partition(": ")[2] for line in done.stdout.splitlines() if "would try" in line]


def test_a_file_may_have_a_sweep():
    Path("s.yaml").write_text(NET + SECTION)
    same = ("train.optimizer.learning_rate=log(0.001..0.1)", "model.params.units=2,4")
    assert tried("s.yaml") == tried("a.yaml", *same, "--trials", "3")
    assert len(tried("s.yaml", "--trials", "5")) == 5
    fixed = tried("s.yaml", "train.optimizer.learning_rate=0.1", "--trials", "2")
    assert sorted(fixed) == ["units=2", "units=4"]
    assert all("units=8" in t for t in tried("s.yaml", "model.params.units=choice(8)"))
    assert tried("s.yaml", "sweep=null") == []
    Path("child.yaml").write_text("extends: s.yaml\nname: child\nsweep: {trials: 2}\n")
    assert tried("child.yaml") == tried("s.yaml")[:2]
    shown = invoke("show", "s.yaml").stdout
    assert "Sweep: train.optimizer.learning_rate=log(0.001..0.1), " in shown
    done = invoke("run", "s.yaml", "child.yaml", "--dry-run")
    assert done.exit_code == 2
    assert done.stderr.endswith(
        "sweep: s.yaml and child.yaml have different values; give the values on the command"
        " line, with sweep=null.\n"
    )


def test_a_sweep_is_no_part_of_the_experiment():
    Path("s.yaml").write_text(NET + SECTION)
    one, other = (load_experiment(Path(name)) for name in ("a.yaml", "s.yaml"))
    assert one.experiment == other.experiment
    assert one.resolved() == other.resolved()


@pytest.mark.slow
def test_trials_on_workers_have_the_same_numbers():
    assert invoke("run", "a.yaml", RATES, "--seeds", "2", "--results-dir", "here").exit_code == 0
    words = ("--seeds", "2", "--on", "local:1", "--results-dir", "there")
    assert invoke("run", "a.yaml", RATES, *words).exit_code == 0
    shown = [
        [(t["trial"], t["scores"]) for t in json.loads(document)["trials"]]
        for where in ("here", "there")
        for document in [invoke("sweep", "show", "--format", "json", "--results-dir", where).stdout]
    ]
    assert shown[0] == shown[1]
    assert [len(scores) for _, scores in shown[0]] == [2, 2]
