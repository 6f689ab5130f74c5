"""The trials and verdicts of a tuning as text and JSON."""

import io
import json
from dataclasses import replace

from rich.console import Console

from cnnbench.cli.tuned_text import json_tuning, terminal_trials, terminal_tuning, trial_line
from tests.support.golden import approved
from tests.support.tunings import make_tuned


def printed(parts) -> str:
    text = io.StringIO()
    console = Console(file=text, width=80)
    for part in parts:
        console.print(part)
    return text.getvalue()


def test_what_a_terminal_shows_of_the_trials() -> None:
    text = printed(terminal_trials(make_tuned().tuning))
    assert text == approved("tuning.txt", text)


def test_headlines_come_first_and_both_verdicts_last() -> None:
    tuned = make_tuned()
    text = printed(terminal_tuning(tuned))
    assert text.startswith("Tuning changes the finding: ")
    written, best = text.index("As written:"), text.index("Each at its own best learning_rate:")
    assert text.index("Expected best of") < written < text.index("Verdict: ") < best
    assert text.count("Verdict: ") == 2
    same = printed(terminal_tuning(replace(tuned, best=None)))
    assert "Each is best as written, so the verdict on each at its own best is the same." in same


def test_one_experiment_is_compared_with_itself_as_written() -> None:
    tuned = make_tuned()
    alone = replace(tuned, tuning=replace(tuned.tuning, arms=tuned.tuning.arms[:1]))
    text = printed(terminal_tuning(alone))
    assert "Budget: 5 trials" in text
    assert "At its best learning_rate, against as written:" in text


def test_json_has_every_value() -> None:
    tuned = make_tuned()
    found = json.loads(json_tuning(tuned))
    text = json.dumps(found["tuning"], indent=2) + "\n"
    assert text == approved("tuning.json", text)
    assert found["headlines"] == list(tuned.headlines)
    first = found["tuning"]["arms"][0]["trials"]
    assert [trial["values"] for trial in first][-1] == ["NaN", "NaN"]
    assert len(found["comparisons"]) == 2


def test_a_trial_in_the_log() -> None:
    trials = make_tuned().tuning.arms[1].trials
    assert [trial_line("t", trial, "accuracy") for trial in trials[-2:]] == [
        "t: validation accuracy 98.20 ± 0.14%",
        "t: validation accuracy 1 of 2 diverged",
    ]
