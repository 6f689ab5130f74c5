"""A sweep that is killed in the middle of a trial goes on; trials that are proposed."""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnnbench.cli.progress import Silent
from cnnbench.errors import CnnbenchError, OutOfMemoryError
from cnnbench.runner.run import Request
from cnnbench.runner.sweeps import proposing
from cnnbench.runner.sweeps.planning import TrialRequests
from cnnbench.runner.sweeps.proposing import Proposals, plan_proposals, run_proposals
from cnnbench.runner.sweeps.space import parse_axes
from cnnbench.runner.sweeps.training import Failure
from cnnbench.runs.find import list_runs
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import EpochRecord
from cnnbench.runs.sweeps.plans import known_plan
from cnnbench.training import trainer
from tests.cli.sweeps.test_running import NET, invoke

TINY = NET.replace("epochs: 1", "epochs: 2").replace("seeds: [0, 1]", "seeds: [0]")
RATES = "train.optimizer.learning_rate=log(0.001..1)"
SWEEP = ("run", "a.yaml", RATES, "--trials", "4", "-q")
OPTUNA = (*SWEEP, "--sampler", "optuna")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("CNNBENCH_ENGINE", "plain")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setattr("cnnbench.runner.sweeps.proposing.FIRST", 2)  # then Optuna's
    Path("a.yaml").write_text(TINY)


def trials(results: str) -> list[tuple[int, dict[str, str], list[float]]]:
    """Number, values and scores of each trial."""
    words = ("sweep", "show", "--format", "json", "--sort-by", "trial", "--results-dir", results)
    document: Any = json.loads(invoke(*words).stdout)
    return [(t["trial"], t["values"], t["scores"]) for t in document["trials"]]


def epochs(results: str) -> dict[str, list[tuple[int, int]]]:
    """Seed and epoch of each record, by run."""
    found = (read_run(entry.path) for entry in list_runs(Path(results)).entries)
    return {run.record.run_id: [(e.seed, e.epoch) for e in run.epochs] for run in found}


def at_epoch(monkeypatch, actions: dict[int, Callable[[], object]]) -> list[int]:
    """Does something at epochs, counted over all trials."""
    count = [0]

    def event(self, event):
        if isinstance(event, EpochRecord):
            count[0] += 1
            actions.get(count[0], lambda: None)()

    monkeypatch.setattr(Silent, "event", event)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("words", [OPTUNA, SWEEP], ids=["optuna", "quasi-random"])
def test_a_sweep_that_was_killed_goes_on(monkeypatch, words):
    """A copy of the results in the middle of a training is what SIGKILL leaves."""
    copy = lambda: shutil.copytree("results", "killed")  # noqa: E731
    at_epoch(monkeypatch, {5: copy})  # in the middle of the third trial
    assert invoke(*words).exit_code == 0
    count, known = at_epoch(monkeypatch, {}), set(epochs("killed"))
    assert invoke(*words, "--needed", "--results-dir", "killed").exit_code == 0
    assert count[0] in {3, 4}  # and perhaps the epoch that was not saved yet
    assert trials("killed") == trials("results")
    assert known <= set(epochs("killed"))
    assert list(epochs("killed").values()) == [[(0, 1), (0, 2)]] * 4


@pytest.mark.slow
def test_a_race_that_was_killed_goes_on(monkeypatch):
    rates = "train.optimizer.learning_rate=0.0001,0.3"
    words = ("run", "a.yaml", rates, "train.epochs=10", "--seeds", "8", "--race", "-q")
    copy = lambda: shutil.copytree("results", "killed")  # noqa: E731
    at_epoch(monkeypatch, {35: copy})  # in the middle of the second seed
    assert invoke(*words).exit_code == 0
    whole = trials("results")
    assert sorted(len(scores) for _, _, scores in whole) != [8, 8]  # one is dropped
    at_epoch(monkeypatch, {})
    assert invoke(*words, "--needed", "--results-dir", "killed").exit_code == 0
    assert trials("killed") == whole
    for found in epochs("killed").values():
        assert len(set(found)) == len(found)


@pytest.mark.slow
def test_more_trials_go_on_where_the_sweep_ended():
    assert invoke(*OPTUNA).exit_code == 0
    few = trials("results")
    done = invoke("run", "a.yaml", RATES, "--trials", "5", "--sampler", "optuna", "--needed")
    assert done.exit_code == 0
    assert "5 runs x 1 seed" in done.stderr
    assert "; 4 of 5 are finished" in done.stderr
    assert trials("results")[:4] == few
    assert len(epochs("results")) == 5


@pytest.mark.slow
def test_small_spaces_are_exhausted_without_repetitions():
    space = ("model.params.units=uniform(2..3)", "train.epochs=1,2")
    words = ("run", "a.yaml", *space, "--sampler", "optuna")
    assert invoke(*words, "--trials", "4", "-q").exit_code == 0
    found = trials("results")
    tried = sorted(tuple(values.values()) for _, values, _ in found)
    assert tried == [(a, b) for a in "23" for b in "12"]
    done = invoke(*words, "--trials", "5")
    assert done.exit_code == 2
    assert "--trials: 5 is more than the 4 combinations; write fewer, or add" in done.stderr


def test_a_trial_that_fails_does_not_stop_the_others(monkeypatch):
    train_seeds = trainer.Trainer.train_seeds
    trained: list[object] = []

    def fail_once(self, seeds):
        trained.append(seeds)
        if len(trained) == 2:
            raise OutOfMemoryError("out of memory; use smaller batches.")
        return train_seeds(self, seeds)

    monkeypatch.setattr(trainer.Trainer, "train_seeds", fail_once)
    words = ("run", "a.yaml", RATES, "--trials", "3", "--sampler", "optuna")
    done = invoke(*words)
    assert done.exit_code == 1
    assert "trial 2 of 3, learning_rate=" in done.stderr
    assert "1 of 3 trials failed:\n" in done.stderr
    assert len(trained) == 3
    before = trials("results")
    assert invoke(*words, "--needed", "-q").exit_code == 0
    assert len(trained) == 4
    assert [t for t in trials("results") if t[0] != 2] == [t for t in before if t[0] != 2]


class Watcher:
    """Remembers what happened."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def trial(self, trial: TrialRequests) -> Iterator[list[Any]]:
        self.lines.append(f"{trial.number} alone")
        yield [None]

    @contextmanager
    def together(self, trials: Sequence[TrialRequests]) -> Iterator[list[Any]]:
        self.lines.append(" and ".join(str(trial.number) for trial in trials))
        yield [None] * len(trials)

    def trained(self, trial: TrialRequests, _: Sequence[object]) -> None:
        self.lines.append(f"{trial.number} trained")

    def failed(self, failure: Failure) -> None:
        self.lines.append(f"{failure.trial.number} failed")

    def grown(self, sweep: object) -> None:
        pass

    def exhausted(self, number: int) -> None:
        self.lines.append(f"{number} in all")


def rate_of(request: Request) -> float:
    return request.load().experiment.train.optimizer.learning_rate


def proposals(trials: int, at_once: int, *, needed: bool = False) -> Proposals:
    request = Request(Path("a.yaml"), needed=needed)
    axes, _ = parse_axes([RATES])
    found = plan_proposals([request], axes, trials, 0)
    return replace(found, at_once=at_once)


def test_of_trials_side_by_side_one_may_fail(monkeypatch):
    """The others of its batch go on alone, from where they were."""
    needed: list[bool] = []

    def train(requests, listeners):
        if any(request.sweep.trial == 3 for request in requests):
            raise CnnbenchError("out of disk")
        needed.extend(request.needed for request in requests)
        return list(map(rate_of, requests))

    monkeypatch.setattr(proposing, "_loss", lambda run: run)
    watcher = Watcher()
    failures = run_proposals(proposals(5, 2), watcher, train)
    assert [(each.trial.number, each.reason) for each in failures] == [(3, "out of disk")]
    assert needed == [False, False, True, False]
    assert watcher.lines == [
        *("1 and 2", "1 trained", "2 trained"),
        *("3 and 4", "3 alone", "3 failed", "4 alone", "4 trained"),
        *("5 alone", "5 trained"),
    ]


def test_proposals_do_not_depend_on_where_the_sweep_was_stopped(monkeypatch):
    def values(found: Proposals) -> list[str]:
        plan = known_plan(found.known.plan.sweep, Path("results"))
        assert plan
        return [trial.values["train.optimizer.learning_rate"] for trial in plan.trials]

    def train(requests, listeners):
        trained.append(rate_of(requests[0]))
        if len(trained) == stop_at:
            raise KeyboardInterrupt
        return [abs(math.log10(trained[-1]) + 2)]

    monkeypatch.setattr(proposing, "_loss", lambda run: run)
    trained: list[float] = []
    stop_at = 0
    run_proposals(proposals(14, 1), Watcher(), train)
    whole = values(proposals(14, 1))
    assert len(set(whole)) == 14
    trained, stop_at = [], 6
    with pytest.raises(KeyboardInterrupt):
        run_proposals(proposals(14, 1), Watcher(), train)
    assert values(proposals(14, 1)) == whole[:6]
    trained, stop_at = [], 0
    run_proposals(proposals(14, 1, needed=True), Watcher(), train)
    assert values(proposals(14, 1)) == whole


def test_a_damaged_plan_of_another_sweep_does_not_matter():
    plan = Path("results/.sweeps/0123abcd.json")
    plan.parent.mkdir(parents=True)
    plan.write_text("{")
    assert invoke(*OPTUNA, "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((RATES,), "--sampler optuna: needs a number of trials; add, for example, --trials 12."),
        (
            (RATES, "a.yaml", "--trials", "3"),
            "--sampler optuna: learns from the trials of one experiment; name one.",
        ),
        (
            (RATES, "--trials", "3", "--race"),
            "--race: trains a seed of all trials first, and --sampler optuna proposes trials from"
            " the results of others; remove one.",
        ),
        (
            (RATES, "--trials", "3", "dataset.splits={validation: 0}"),
            "has no validation images, and test images must not choose; set",
        ),
        (
            (RATES, "--trials", "3", "--shard", "1/2"),
            "--shard: cannot be combined with --sampler optuna: proposing a trial needs all"
            " results; remove one of them.",
        ),
        (
            (RATES, "--trials", "3", "--on", "slurm"),
            "--on slurm: cannot be combined with --sampler optuna: proposing a trial needs all",
        ),
        (("--trials", "3"), "--sampler: has no effect without values; add, for example, KEY=1,2."),
        (
            ("train.optimizer.learning_rate=uniform(-1..1)", "--trials", "3"),
            "trial 1 of 2, learning_rate=-1: not valid for a.yaml:\n",
        ),
        (
            ("model.params.units=uniform(2.2..2.8)", "--trials", "3"),
            "model.params.units: takes integers, but uniform(2.2..2.8) has none; write a wider"
            " range.",
        ),
    ],
)
def test_mistakes(words, says):
    done = invoke("run", "a.yaml", *words, "--sampler", "optuna")
    assert done.exit_code == 2
    assert says in done.stderr
    assert not Path("results").exists()


def test_a_dry_run_says_which_trials_are_known(monkeypatch):
    done = invoke("run", "a.yaml", RATES, "--trials", "4", "--sampler", "optuna", "--dry-run")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].endswith(": 4 runs x 1 seed.")
    assert [line.partition("=")[0] for line in lines[1:3]] == [
        "would try 1: learning_rate",
        "would try 2: learning_rate",
    ]
    assert lines[3:] == ["would try 3 to 4: proposed by Optuna, from the results of those before"]
    monkeypatch.setattr(proposing, "FIRST", 10)
    done = invoke("run", "a.yaml", RATES, "--trials", "4", "--sampler", "optuna", "--dry-run")
    assert " Optuna proposes trials only after the first 10; there are no more.\n" in done.stdout
