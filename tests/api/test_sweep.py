"""`cnnbench.sweep`: what a sweep in Python trains and shows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnnbench
from cnnbench.api.sweep import values_texts
from cnnbench.errors import OutOfMemoryError, UsageError
from cnnbench.training import trainer
from tests.cli.sweeps.test_running import NET, invoke

RATE = "train.optimizer.learning_rate"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("CNNBENCH_ENGINE", "plain")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Path("a.yaml").write_text(NET)


def test_a_sweep_is_that_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    found = cnnbench.sweep("a.yaml", values={RATE: np.array([0.01, 0.1])}, seeds=2)
    told = capsys.readouterr().err
    assert f"Sweep {found.result.plan.sweep}: 2 runs x 2 seeds.\n" in told
    assert "trial 2 of 2, learning_rate=0.1: validation accuracy " in told
    assert [run.record.title for run in found.runs] == [
        "Net learning_rate=0.01",
        "Net learning_rate=0.1",
    ]
    again = invoke("run", "a.yaml", f"{RATE}=0.01,0.1", "--seeds", "2", "--needed")
    assert "; 2 of 2 are finished." in again.stderr
    assert " ".join(str(found).split()) in " ".join(again.stdout.replace("|\n ", "|\n").split())
    assert found.to_json() == invoke("sweep", "show", "--format", "json").stdout
    document: Any = json.loads(found.to_json())
    best = document["trials"][0]
    assert found.best == (f"{RATE}={best['values'][RATE]}",)
    frame = found.to_frame()
    assert frame.accuracy.tolist() == [s for t in document["trials"] for s in t["scores"]]
    page = found._repr_html_()
    assert page.index("<img") < page.index("<table>")
    assert repr(found) == f"<SweepOutcome: best of 2: {found.best[0]}>"
    command = list(found.runs[0].record.command)
    assert command == ["cnnbench", "run", "a.yaml", "--seeds", "2", f"{RATE}=0.01"]


def test_trials_that_fail_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    train_seeds = trainer.Trainer.train_seeds

    def fail_once(self, seeds):
        if self.job.experiment.train.optimizer.learning_rate != 0.1:
            raise OutOfMemoryError("out of memory; use smaller batches.")
        return train_seeds(self, seeds)

    monkeypatch.setattr(trainer.Trainer, "train_seeds", fail_once)
    reason = "out of memory; use smaller batches."
    with pytest.warns(UserWarning, match=r"^trial learning_rate=0.01: failed: out of memory"):
        found = cnnbench.sweep("a.yaml", values=[f"{RATE}=0.01,0.1"], seeds=1, progress=False)
    assert found.failed == {"learning_rate=0.01": reason}
    assert len(found.runs) == 1
    with pytest.raises(cnnbench.CnnbenchError) as error:
        cnnbench.sweep("a.yaml", values={RATE: [0.01, 0.02]}, seeds=1, progress=False)
    assert str(error.value) == f"all trials failed; learning_rate=0.01: {reason}"


def test_values_of_lists_and_strings() -> None:
    values = {"model.conv1.kernel": [3, (3, 5)], "train.optimizer": ["sgd", "adam"]}
    assert values_texts(values) == [
        "model.conv1.kernel=choice(3,[3, 5])",
        "train.optimizer=choice(sgd,adam)",
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, f"values: none given; write, for example, {{'{RATE}': [0.01, 0.03]}}."),
        (
            {"values": {RATE: 0.1}},
            f"values: {RATE}: 0.1 is a single value; write a list such as [0.01, 0.03], or"
            " 'log(0.001..0.1)'.",
        ),
        (
            {"values": {RATE: [object()]}},
            f"values: {RATE}: a value of type object is not plain data; write a number, a string,"
            " a list or a dict.",
        ),
        (
            {"values": {RATE: "log(0.01..0.1)"}},
            f"{RATE}: log(0.01..0.1) needs a number of trials; add, for example, trials=12.",
        ),
        ({"values": {RATE: [1]}, "trials": 0}, "trials: 0 is too small; use 1 or more."),
        ({"values": {RATE: [1]}, "sweep_seed": -1}, "sweep_seed: -1 is too small; use 0 or more."),
        (
            {"values": {RATE: [1]}, "sampler": "tpe"},
            "sampler: 'tpe' is not quasi-random or optuna.",
        ),
        (
            {"values": {RATE: [0.1, 0.2]}, "race": True},
            "race: of 2 trials, one can be dropped after 5 seeds at the earliest (alpha 0.05), but"
            " there are 2; add seeds=10, or remove race.",
        ),
        (
            {"values": {RATE: [0.1, 0.2]}, "sampler": "optuna"},
            "sampler='optuna': needs a number of trials; add, for example, trials=12.",
        ),
    ],
)
def test_mistakes(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as error:
        cnnbench.sweep("a.yaml", progress=False, **options)
    assert str(error.value) == says
    assert not Path("results").exists()
