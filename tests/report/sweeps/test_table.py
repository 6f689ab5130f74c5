"""What `cnnbench sweep show` prints in 80 columns."""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from cnnbench.cli.console import LegibleConsole
from cnnbench.cli.sweeps.commands import below_table
from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.report.sweeps.picture import sweep_picture
from cnnbench.report.sweeps.table import next_steps, terminal_sweep
from cnnbench.runs.sweeps.plans import RunPlan, SweepPlan, TrialPlan
from tests.support.golden import approved

RATE, FILTERS = "train.optimizer.learning_rate", "model.layers.conv1.filters"
NET = "Standard CNN"


def sweep(
    keys: Mapping[str, Sequence[str]], seeds: int = 3, titles: Sequence[str] = (NET,)
) -> SweepResult:
    """A sweep of all combinations, whose accuracy is best in the middle."""
    points = list(itertools.product(*keys.values()))
    rows = [
        SweepRow(
            number,
            title,
            point,
            tuple(0.97 - 0.002 * abs(number - 2.6) + 0.0013 * seed for seed in range(seeds)),
            tuple(range(seeds)),
            f"a/{number}",
            3.1 * number,
        )
        for title in titles
        for number, point in enumerate(points, start=1)
    ]
    trials = tuple(
        TrialPlan(
            dict(zip(keys, point, strict=True)),
            tuple(RunPlan("a", title, "x", tuple(range(seeds))) for title in titles),
        )
        for point in points
    )
    command = "cnnbench", "run", "a.yaml", *(f"{k}={','.join(v)}" for k, v in keys.items())
    at = datetime(2026, 11, 28, tzinfo=UTC)
    plan = SweepPlan("28715f92", at, command, ("a.yaml",), (), tuple(keys), trials)
    return SweepResult(plan, "accuracy", True, tuple(rows))


def failed(result: SweepResult, *numbers: int) -> SweepResult:
    """A sweep some of whose trials failed."""
    reason = "out of memory; use smaller batches."
    return replace(
        result,
        rows=tuple(
            replace(row, scores=(), seeds=(), run="", seconds=0.0, error=reason)
            if row.number in numbers
            else row
            for row in result.rows
        ),
    )


def shown(result: SweepResult) -> str:
    """What a terminal of 80 columns shows."""
    out = io.StringIO()
    console = LegibleConsole(file=out, width=80, color_system=None)
    for part in terminal_sweep(result):
        console.print(part)
    for line in below_table(result, Path("results")):
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


ONE = sweep({RATE: ("0.003", "0.01", "0.03", "0.1")})
TWO = sweep({RATE: ("0.01", "0.03", "0.1"), FILTERS: ("16", "32", "64")})
SHOWN = {
    "one_key": ONE,
    "two_keys": TWO,
    "failed_trial": failed(TWO, 2, 4, 9),
    "best_of_12": sweep({RATE: [f"{0.003 * 1.5**n:.4g}" for n in range(12)]}, seeds=1),
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_terminal_shows_everything_in_80_columns(name: str) -> None:
    text = shown(SHOWN[name])
    assert text == approved(f"sweep_{name}.txt", text)
    commands = [line for line in text.splitlines() if "cnnbench" in line]
    assert all(cell_len(line) <= 80 for line in text.splitlines() if line not in commands)


@pytest.mark.parametrize("number", [1, 2])
def test_two_keys_and_a_column_of_types_are_one_table(number: int) -> None:
    keys = {RATE: ("0.01", "0.1"), FILTERS: ("16", "32")}
    text = shown(sweep(keys, titles=("Standard CNN", "Modified CNN")[:number]))
    (header,) = [line for line in text.splitlines() if " Time" in line]
    assert "Trial " in header


def test_a_best_trial_is_named_once_and_one_seed_has_no_spread() -> None:
    text = shown(SHOWN["best_of_12"])
    assert text.count("Best of 12") == 1
    assert "validation set; one seed." in text
    assert "±" not in text


def test_trials_that_failed_are_named_with_the_reason() -> None:
    text = shown(failed(ONE, 1, 2, 3, 4))
    assert text.count(" failed | ") == 4
    assert "Trials 1, 2, 3 and 4 failed: out of memory; use smaller batches." in text
    assert "Best of" not in text


def test_a_trial_that_diverged_is_last() -> None:
    first, *others = ONE.rows
    lost = replace(ONE, rows=(replace(first, scores=(math.nan, 0.9, 0.9)), *others))
    rows = [line.split("|") for line in shown(lost).splitlines() if " s |" in line]
    assert [row[1].strip() for row in rows][-1] == "1"


def test_trials_that_left_a_race_are_named() -> None:
    first, second, *others = ONE.rows
    left = [replace(row, scores=row.scores[:2], seeds=row.seeds[:2]) for row in (first, second)]
    text = shown(replace(ONE, rows=(*left, *others)))
    assert "\nTrials 1 and 2 were dropped by the race: decided worse than the leader.\n" in text
    assert "mean ± standard deviation over 2 to 3 seeds." in " ".join(text.split())
    text = shown(replace(ONE, rows=(left[0], second, *others)))
    assert "\nTrial 1 was dropped by the race: decided worse than the leader.\n" in text


def test_trials_that_are_not_proposed_yet_are_missing() -> None:
    result = sweep({RATE: ("0.01", "0.1", "1.0")})
    stopped = replace(result, plan=replace(result.plan, number=12))
    assert next_steps(stopped, Path("results"))[0].startswith("9 of 12 are not trained; ")


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    picture = sweep_picture(sweep({RATE: ("0.001", "0.01", "0.1")}), "svg").decode()
    assert ">0.01<" in picture
    assert "mathdefault" not in picture
