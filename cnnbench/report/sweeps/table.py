"""The table of a sweep: a row for each trial, the best first, and sentences below it."""

import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.comparisons.sweeps.results import SweepResult, SweepRow
from cnnbench.formatting import MISSING, clean, diverged_text, enumeration, seconds_text
from cnnbench.report.columns import estimate_text
from cnnbench.report.table import terminal_grid
from cnnbench.spec.metrics import heading, metric_text, words
from cnnbench.system import commands

if TYPE_CHECKING:
    from rich.console import RenderableType

BUDGETS = (1, 2, 5, 10, 20, 50, 100)  # columns of the expected best, for many trials
WIDTH = 80  # columns
_MOST = 6  # columns of the expected best


def score_text(result: SweepResult, row: SweepRow) -> str:
    """The metric of a trial over its seeds, or how many of them diverged."""
    if not row.scores:
        return "failed" if row.error else "not trained"
    lost = sum(not math.isfinite(value) for value in row.scores)
    text = diverged_text(lost, len(row.scores))
    return text or estimate_text(result.metric, row.trial.value)


def metric_heading(result: SweepResult) -> str:
    """The heading of the metric, which says on what images; without results, there is none."""
    if not result.metric:
        return "Result"
    return heading(result.metric if result.by_test else f"validation_{result.metric}")


def sweep_grid(result: SweepResult) -> list[list[str]]:
    """The cells of the table, headers first."""
    several = len(result.titles) > 1
    first = ["Type"] if several else []
    header = ["Trial", *first, *result.keys, metric_heading(result), "Seeds", "Time"]
    rows = []
    for row in result.shown:
        title = [clean(row.title)] if several else []
        time = seconds_text(row.seconds) if row.scores else MISSING
        seeds = str(len(row.scores)) if row.scores else MISSING
        cells = [str(row.number), *title, *map(clean, row.values)]
        rows.append([*cells, score_text(result, row), seeds, time])
    return [header, *rows]


def expected_grid(result: SweepResult) -> list[list[str]]:
    """The cells of the table of the expected best by number of trials, headers first."""
    number = max(len(result.of(title)) for title in result.titles)
    budgets = _budgets(number)
    header = ["Expected best of", *(f"{k}{' trials' * (k == budgets[-1])}" for k in budgets)]
    return [header, *([clean(t), *_expected(result, t, budgets)] for t in result.titles)]


def _budgets(number: int) -> list[int]:
    """Numbers of trials whose expected best is shown.

    >>> _budgets(4), _budgets(12), _budgets(300)
    ([1, 2, 3, 4], [1, 2, 5, 10, 12], [1, 10, 20, 50, 100, 300])
    """
    if number <= _MOST:
        return list(range(1, number + 1))
    first, *others, last = sorted({*(k for k in BUDGETS if k < number), number})
    return [first, *others[-(_MOST - 2) :], last]


def _expected(result: SweepResult, title: str, budgets: list[int]) -> Iterator[str]:
    values = result.expected(title) if result.of(title) else ()
    for k in budgets:
        known = k <= len(values) and math.isfinite(values[k - 1])
        yield metric_text(result.metric, values[k - 1]) if known else MISSING


def notes(result: SweepResult) -> Iterator[str]:
    """What the table means, a sentence each, and the best trial."""
    yield from meanings(result)
    yield from winner(result)


def meanings(result: SweepResult) -> Iterator[str]:
    """What the table means, a sentence each."""
    number = len(result.trained)
    seeds = {row.seeds for row in result.trained}
    images = "test" if result.by_test else "validation"
    if number:
        yield f"{metric_heading(result)}: {images} set; {_spread_text({len(s) for s in seeds})}."
    yield "Time: training and evaluation, all seeds."
    yield from dropped(result)
    if result.by_test:
        yield "Ranked by the test images, since there are no validation images."


def dropped(result: SweepResult) -> Iterator[str]:
    """The trials that left a race, which has one experiment, before they had all seeds."""
    planned = {n: len(trial.runs[0].seeds) for n, trial in enumerate(result.plan.trials, start=1)}
    rows = [row for row in result.trained if len(row.seeds) < planned[row.number]]
    if rows and len(result.plan.names) == 1:
        which = enumeration([str(number) for number in sorted(row.number for row in rows)])
        several = f"Trials {which} were" if len(rows) > 1 else f"Trial {which} was"
        yield f"{several} dropped by the race: decided worse than the leader."


def winner(result: SweepResult) -> Iterator[str]:
    """The best of several trials, in a sentence."""
    best, number = result.best, len(result.trained)
    if best is not None and number > 1:
        value = f"{words(result.metric)} {score_text(result, best)}"
        yield f"Best of {number}: {best_label(result)}, {value}; as the winner, it is optimistic."


def _spread_text(numbers: Collection[int]) -> str:
    """What the value of a trial is, by the numbers of seeds.

    >>> _spread_text({1}), _spread_text({3}), _spread_text({1, 3})[-17:]
    ('one seed', 'mean ± standard deviation over 3 seeds', 'over 1 to 3 seeds')
    """
    low, high = min(numbers), max(numbers)
    if high == 1:
        return "one seed"
    several = f"{low} to {high}" if low < high else f"{high}"
    return f"mean ± standard deviation over {several} seeds"


def best_label(result: SweepResult) -> str:
    """The best trial by name."""
    best = result.best
    assert best
    title = f"{clean(best.title)} " if len(result.titles) > 1 else ""
    pairs = zip(result.keys, best.values, strict=True)
    return title + " ".join(f"{key}={clean(value)}" for key, value in pairs)


def terminal_sweep(result: SweepResult) -> "Iterator[RenderableType]":
    """Yields what a terminal shows: trials, expected best, and sentences."""
    from rich.text import Text

    header, *rows = sweep_grid(result)
    wide = _width(header, rows) > WIDTH
    if wide:
        header = [name.replace(" ", "\n") for name in header]
    yield terminal_grid(header, rows, wide=wide, first=1 + (len(result.titles) > 1))
    if len(result.trained) > 1:
        header, *rows = expected_grid(result)
        if wide:
            yield Text()
        yield terminal_grid(header, rows, wide=wide)
        if wide:
            yield Text()
    for line in notes(result):
        yield Text(line)


def _width(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Columns of a table with lines between its columns."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(header, *rows, strict=True)]
    return sum(widths) + 3 * len(widths) + 1


def failures(result: SweepResult) -> Iterator[str]:
    """The trials that failed, those of one reason together."""
    reasons: dict[str, dict[int, None]] = {}
    for row in result.rows:
        if row.error:
            reasons.setdefault(row.error, {})[row.number] = None
    for reason, numbers in reasons.items():
        which = enumeration([str(number) for number in sorted(numbers)])
        yield f"Trial{'s' * (len(numbers) > 1)} {which} failed: {clean(reason)}"


def next_steps(result: SweepResult, results_dir: Path) -> list[str]:
    """What to do with a sweep: train what is missing, and confirm the winner."""
    lines = []
    where = commands.results_dir_option(results_dir)
    number = max(len(result.rows), result.plan.number)  # with trials that are not proposed yet
    if missing := number - len(result.trained):
        again = commands.command_line(commands.with_needed(result.plan.command))
        verb, them = ("is", "it") if missing == 1 else ("are", "them")
        lines.append(f"{missing} of {number} {verb} not trained; train {them} with: {again}")
    if result.best is not None and len(result.trained) > 1:
        confirm = commands.cnnbench("confirm", result.plan.sweep, *where)
        lines.append(f"Confirm it with fresh seeds: {confirm}")
    return lines
