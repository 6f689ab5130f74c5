"""The trials and verdicts of ``run --tune`` in the terminal and as JSON."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cnnbench.comparisons.tuning import (
    Trial,
    TunedArm,
    TunedComparison,
    TuningResult,
    crossings,
    edge_warnings,
)
from cnnbench.formatting import MISSING, clean, diverged_text, enumeration
from cnnbench.report.columns import PLAIN, TableOptions, estimate_text
from cnnbench.report.comparison import terminal_table
from cnnbench.report.csv_json import comparison_fields
from cnnbench.report.table import terminal_grid
from cnnbench.runs import codec
from cnnbench.spec.metrics import heading, metric_text, words

if TYPE_CHECKING:
    from rich.console import RenderableType

BUDGETS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # columns of the expected best
_ALL = 8  # trials; up to so many, every budget has a column


def trial_line(title: str, trial: Trial, metric: str) -> str:
    """A line of the log on a finished trial."""
    return f"{title}: validation {words(metric)} {value_text(trial, metric)}"


def value_text(trial: Trial, metric: str) -> str:
    """The metric of a trial over seeds, or how many of them diverged.

    >>> value_text(Trial((0,), (), True, (0.9, float("nan")), "a/b"), "accuracy")
    '1 of 2 diverged'
    """
    lost = sum(not math.isfinite(value) for value in trial.values)
    return diverged_text(lost, len(trial.values)) or estimate_text(metric, trial.value)


def terminal_tuning(
    tuned: TunedComparison, look: TableOptions = PLAIN
) -> "Iterator[RenderableType]":
    """Yields what a terminal shows: headlines, trials, expected best, and both verdicts.

    Args:
      tuned: the tuning and its verdicts.
      look: display options of the tables of runs.
    """
    from rich.text import Text

    for line in tuned.headlines:
        yield Text(f"{line}\n", style="bold red")
    yield from terminal_trials(tuned.tuning)
    yield from _verdicts(tuned, look)


def terminal_trials(tuning: TuningResult) -> "Iterator[RenderableType]":
    """Yields what a terminal shows of the trials: their values, the best, and budgets."""
    from rich.text import Text

    header, *rows = trial_grid(tuning)
    yield terminal_grid(header, rows)
    for line in chosen_lines(tuning):
        yield Text(line)
    if len(tuning.arms[0].trials) > 1:
        header, *rows = expected_grid(tuning)
        yield terminal_grid(header, rows)
        if any(math.isnan(arm.expected[0]) for arm in tuning.arms):
            yield Text(f"{MISSING}: so few trials may all have diverged.\n")
    for line in crossings(tuning):
        yield Text(f"{line}\n", style="bold")
    for warning in edge_warnings(tuning):
        yield Text(f"Warning: {warning}.\n")


def _verdicts(tuned: TunedComparison, look: TableOptions) -> "Iterator[RenderableType]":
    from rich.text import Text

    brief = TableOptions(look.precision, look.only_changed, look.verbose, brief=True)
    if tuned.written is not None:
        yield Text("As written:", style="bold")
        yield terminal_table([tuned.written], wide=False, look=brief if tuned.best else look)
    if tuned.best is not None:
        yield Text(f"{best_heading(tuned)}:", style="bold")
        yield terminal_table([tuned.best], wide=False, look=look)
    elif all(arm.best for arm in tuned.tuning.arms):
        yield Text(f"{_as_written(tuned)}\n")


def best_heading(tuned: TunedComparison) -> str:
    """The heading of the second verdict."""
    if len(tuned.tuning.arms) == 1:
        return f"At its best {tuned.tuning.keys}, against as written"
    return f"Each at its own best {tuned.tuning.keys}"


def _as_written(tuned: TunedComparison) -> str:
    if len(tuned.tuning.arms) == 1:
        return "It is best as written."
    return "Each is best as written, so the verdict on each at its own best is the same."


def trial_grid(tuning: TuningResult) -> list[list[str]]:
    """The cells of the table of trials; the first row has the headers."""
    keys = [axis.key for axis in tuning.axes]
    header = ["Type", *keys, "Value", heading(f"validation_{tuning.metric}"), "Best"]
    rows = [_trial_cells(tuning, arm, trial) for arm in tuning.arms for trial in arm.trials]
    if all(row[-3] == "" for row in rows):
        header, rows = _without(header, -3), [_without(row, -3) for row in rows]
    return [header, *rows]


def _without(cells: list[str], place: int) -> list[str]:
    return [cell for number, cell in enumerate(cells) if number != len(cells) + place]


def _trial_cells(tuning: TuningResult, arm: TunedArm, trial: Trial) -> list[str]:
    points = points_of(tuning, trial)
    factors = [axis.points[0].startswith("x") for axis in tuning.axes]
    # Several keys of a pattern have several values.
    values = dict.fromkeys(text.partition("=")[2] for text in trial.overrides)
    value = ", ".join(text for text in values if text not in points) if any(factors) else ""
    best = "best" if trial == arm.best else ""
    return [clean(arm.label), *points, value, value_text(trial, tuning.metric), best]


def chosen_lines(tuning: TuningResult) -> Iterator[str]:
    """Says what was chosen, how, and at what cost."""
    seeds = enumeration(list(map(str, tuning.seeds)))
    count = f"mean of seeds {seeds}" if len(tuning.seeds) > 1 else f"seed {seeds}"
    yield (
        f"Chosen by validation {words(tuning.metric)}, {count}; the verdict uses other seeds and"
        " the test images."
    )
    each = " of each" if len(tuning.arms) > 1 else ""
    yield f"Budget{each}: {tuning.budget}{_seconds(tuning)}."
    for arm in tuning.arms:
        if arm.best:
            values = " ".join(arm.best.overrides)
            written = " (as written)" if arm.best.written else ""
            yield f"Best of {clean(arm.label)}: {values}{written}."


def _seconds(tuning: TuningResult) -> str:
    times = [sum(trial.seconds for trial in arm.trials) for arm in tuning.arms]
    if not any(times):
        return ""
    return f"; {' and '.join(f'{time:,.0f} s' for time in times)} of training"


def expected_grid(tuning: TuningResult) -> list[list[str]]:
    """The cells of the table of the expected best by budget, headers first."""
    number = len(tuning.arms[0].trials)
    few = range(1, number + 1) if number <= _ALL else sorted({*BUDGETS, number})
    budgets = [k for k in few if k <= number]
    header = ["Expected best of", *(f"{k}{' trials' * (k == budgets[-1])}" for k in budgets)]
    rows = [[clean(arm.label), *_expected_cells(tuning, arm, budgets)] for arm in tuning.arms]
    return [header, *rows]


def _expected_cells(tuning: TuningResult, arm: TunedArm, budgets: Sequence[int]) -> Iterator[str]:
    for k in budgets:
        value = arm.expected[k - 1]
        yield metric_text(tuning.metric, value) if math.isfinite(value) else MISSING


def json_tuning(tuned: TunedComparison) -> str:
    """Everything in a tuning and its verdicts, unrounded."""
    return codec.encode_document(json_fields(tuned)).decode()


def json_fields(tuned: TunedComparison) -> dict[str, object]:
    """The keys of the JSON document of a tuning."""
    shown = [each for each in (tuned.written, tuned.best) if each is not None]
    return {
        "headlines": tuned.headlines,
        "tuning": tuning_fields(tuned.tuning),
        "comparisons": tuple(map(comparison_fields, shown)),
    }


def tuning_fields(tuning: TuningResult) -> dict[str, object]:
    """The trials of a tuning for JSON."""
    return {
        "axes": tuple({"key": axis.key, "points": axis.points} for axis in tuning.axes),
        "metric": tuning.metric,
        "seeds": tuning.seeds,
        "epochs": tuning.epochs,
        "arms": tuple(_arm_fields(tuning, arm) for arm in tuning.arms),
        "crossings": tuple(crossings(tuning)),
        "warnings": tuple(edge_warnings(tuning)),
    }


def _arm_fields(tuning: TuningResult, arm: TunedArm) -> dict[str, object]:
    best = arm.best
    return {
        "label": arm.label,
        "trials": tuple(_trial_fields(tuning, trial) for trial in arm.trials),
        "best": arm.trials.index(best) if best else None,
        "expected_best": arm.expected,
    }


def _trial_fields(tuning: TuningResult, trial: Trial) -> dict[str, object]:
    return {
        "point": points_of(tuning, trial),
        "overrides": trial.overrides,
        "as_written": trial.written,
        "values": trial.values,
        "mean": trial.value.mean,
        "std": trial.value.std,
        "run": trial.run,
        "seconds": trial.seconds,
    }


def trial_lines(tuning: TuningResult) -> list[dict[str, object]]:
    """A line for each trial and seed, unrounded."""
    keys = [axis.key for axis in tuning.axes]
    return [
        {
            "label": arm.label,
            **dict(zip(keys, points_of(tuning, trial), strict=True)),
            "overrides": " ".join(trial.overrides),
            "as_written": trial.written,
            "best": trial is arm.best,
            "seed": seed,
            f"validation_{tuning.metric}": value,
            "run": trial.run,
        }
        for arm in tuning.arms
        for trial in arm.trials
        for seed, value in zip(tuning.seeds, trial.values, strict=True)
    ]


def points_of(tuning: TuningResult, trial: Trial) -> tuple[str, ...]:
    """The point of a trial on each axis, as text."""
    return tuple(axis.points[i] for axis, i in zip(tuning.axes, trial.point, strict=True))
