"""`cnnbench.tune`: what a tuning in Python trains and shows."""

from pathlib import Path

import pytest

import cnnbench
from cnnbench.api.run import RunList
from cnnbench.api.tune import TunedResult
from cnnbench.cli.tuned_text import json_tuning
from cnnbench.errors import UsageError
from cnnbench.runs.records import TRIAL
from tests.api.test_run import TINY, WIDE
from tests.support.samples import make_run
from tests.support.tunings import make_tuned


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Path("tiny.yaml").write_text(TINY)
    Path("wide.yaml").write_text(WIDE)


def test_a_result_shows_trials_and_both_verdicts() -> None:
    tuned = make_tuned()
    result = TunedResult(tuned, RunList([make_run()]))
    assert result.to_json() == json_tuning(tuned)
    assert result.headlines == tuned.headlines
    assert result.best == {
        "Standard CNN": ("train.optimizer.learning_rate=0.01",),
        "Modified CNN": ("train.optimizer.learning_rate=0.03",),
    }
    assert result.as_written is not None
    assert result.at_best is not None
    text = " ".join(str(result).split())
    assert text.startswith("Tuning changes the finding: ")
    for verdict in (result.as_written.verdict, result.at_best.verdict):
        assert f"Verdict: {verdict}" in text
    frame = result.to_frame()
    assert len(frame) == 2 * 5 * 2
    assert set(frame[frame.best].label + frame[frame.best].learning_rate) == {
        "Standard CNNx1",
        "Modified CNNx3",
    }
    page = result._repr_html_()
    assert page.index("Tuning changes the finding") < page.index("<img") < page.index("<table>")
    assert page.count("<h4>") == 2
    assert repr(result).startswith("<TunedResult: Standard CNN: train.optimizer.learning_rate=0.01")


@pytest.mark.slow
def test_trials_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    space = {"learning_rate": ["x1", "x5"]}
    result = cnnbench.tune("tiny", "wide", keys=space, tune_seeds=1, epochs=1, seeds=2)
    told = capsys.readouterr().err
    assert "Tuning: 2 trials x 1 seed x 1 epoch = 2 epochs for each experiment" in told
    assert "trial 4 of 4: Wide, x5: validation accuracy" in told
    assert set(result.best) == {"tiny", "Wide"}
    trials = [run for run in cnnbench.list_runs(Path("results")).entries if run.record.is_trial]
    assert [(run.record.tags, run.record.seeds) for run in trials] == [((TRIAL,), (1000,))] * 4
    again = cnnbench.tune(
        ["tiny", "wide"],
        keys="learning_rate=x1:x5",
        tune_seeds=1,
        epochs=1,
        seeds=2,
        progress=False,
    )
    assert again.to_json() == result.to_json()
    told = capsys.readouterr().err
    runs = cnnbench.list_runs(Path("results")).entries
    assert told.count("is already finished; nothing to train\n") == len(runs)


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ("epochs", {}, "keys: epochs is part of the budget, which is equal for all; set it with"),
        ("lerning_rate", {}, "keys: tiny.yaml has no 'lerning_rate' (did you mean 'learning_rate'"),
        (
            {"learning_rate": [0.1]},
            {},
            "keys='learning_rate': '0.1' is not a list of values; write at least two with colons,"
            " such as learning_rate=x0.3:x1:x3.",
        ),
        ([], {}, "keys: none given; name what to tune, such as 'learning_rate'."),
        ("learning_rate", {"trials": 0}, "trials: 0 is not positive; use 1 or more."),
        ("learning_rate", {"tune_seeds": 0}, "tune_seeds: 0 is not positive; use 1 or more."),
        ("learning_rate", {"trials": 9}, "trials: 9 is more than the 5 combinations; omit it to"),
        ("learning_rate", {"test": "t"}, "test: 't' is no test; write unpaired or paired."),
    ],
)
def test_mistakes(keys: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        cnnbench.tune("tiny", "wide", keys=keys, progress=False, **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert not Path("results").exists()
