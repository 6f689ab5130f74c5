"""``cnnbench compare``: tables of runs, and a verdict on each against the baseline."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.options import (
    All,
    Alpha,
    Baseline,
    DataDir,
    Format,
    MetricOption,
    MinEffect,
    OverOption,
    ResultsDir,
    Runs,
    TestOption,
    Verbose,
    test_name,
)
from cnnbench.cli.over import judged_over, print_over, refuse_with_over, sweep_selection
from cnnbench.cli.terminal import computing, print_document, stdout, tell, warn
from cnnbench.comparisons.comparability import judgeable, run_path
from cnnbench.comparisons.comparison import Comparison, compare_groups, run_values
from cnnbench.comparisons.comparison import compare as compare_runs
from cnnbench.comparisons.merge import all_seeds, pooled
from cnnbench.comparisons.over.points import OverComparison
from cnnbench.comparisons.thresholds import (
    TIME,
    Limit,
    Threshold,
    ThresholdResult,
    ThresholdStatus,
    check_limit,
    check_threshold,
    parse_threshold,
    validate_threshold,
)
from cnnbench.comparisons.verdict import ANY, Criteria
from cnnbench.comparisons.verdict_text import parse_effect
from cnnbench.errors import IncomparableError, UsageError, or_list
from cnnbench.report.columns import TableOptions, sort_runs
from cnnbench.report.comparison import markdown, terminal_table
from cnnbench.report.csv_json import csv_text, json_text
from cnnbench.report.latex import latex
from cnnbench.runner.predictions import compute_predictions, missing_predictions
from cnnbench.runs.find import Selection, find_runs, newest_finished, newest_group
from cnnbench.runs.folder import RunEntry
from cnnbench.runs.over import common_datasets
from cnnbench.runs.records import Direction, RunResult
from cnnbench.spec.vocabulary import METRIC
from cnnbench.system import commands

BROKEN, INCONCLUSIVE = 3, 4  # exit codes


def compare(  # noqa: PLR0913, PLR0917 - one parameter per option
    runs: Runs = None,
    baseline: Baseline = None,
    metric: MetricOption = None,
    alpha: Alpha = 0.05,
    min_effect: MinEffect = "0",
    test: TestOption = None,
    over: OverOption = None,
    anytime: Annotated[
        bool,
        typer.Option(
            "--anytime",
            help="Combine all runs of each experiment, and judge by a test that is valid after any"
            " number of seeds.",
        ),
    ] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 3 if the interval exceeds a limit, with 4 if that is inconclusive:"
            " accuracy:-0.2pp, train_s:+10%, 'test_accuracy<95%' (repeatable).",
            metavar="LIMIT",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Add the training time to this value of the metric: 0.98 or 98%.",
            metavar="VALUE",
        ),
    ] = None,
    sort_by: Annotated[
        str | None,
        typer.Option(
            help="Sort by a column, the best run first.",
            metavar="COLUMN",
        ),
    ] = None,
    only_changed: Annotated[
        bool,
        typer.Option("--only-changed", help="Omit columns whose cells are all equal."),
    ] = False,
    precision: Annotated[
        int | None,
        typer.Option(min=0, max=12, help="Decimal places in tables.", metavar="N"),
    ] = None,
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.TABLE,  # noqa: A002
    verbose: Verbose = False,
    every: All = False,
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions",
            help="Compute the results for each image that runs of older versions lack, from their"
            " weights, and store them.",
        ),
    ] = False,
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Compare runs: accuracy, time, cost, and a verdict."""
    thresholds = [parse_threshold(text) for text in fail_if or ()]
    effect = parse_effect(min_effect)
    criteria = Criteria(baseline, metric, alpha, effect, target, test_name(test), anytime)
    if over is not None and len(runs or ()) != 1:
        refused: dict[str, object] = {"--all": every, "--target": target, "--sort-by": sort_by}
        refused |= {"--anytime": anytime, "--only-changed": only_changed}
        refused |= {"--precision": precision is not None, "--predictions": predictions}
        refuse_with_over(refused)
        _compare_over(judged_over(runs, over, criteria, results_dir), thresholds, format)
        return
    compared = partial(side_by_side, runs, criteria, results_dir, every=every, over=over)
    comparisons, selection = compared()
    if predictions and _completed(selection.runs, data_dir):
        comparisons, selection = compared()
    warn(selection.warnings)
    if sort_by is not None:
        comparisons = tuple(sort_runs(comparisons, sort_by))
    _check(thresholds, selection.runs)
    _print(comparisons, format, TableOptions(precision, only_changed, verbose))
    if thresholds:
        _judge(thresholds, comparisons, selection.runs, criteria)
    elif format is Format.TABLE and len(selection.runs) == 1:
        start = commands.cnnbench("run", "OTHER.yaml", *commands.results_dir_option(results_dir))
        tell(f"A verdict takes a second run: {start}")
    if format is Format.TABLE and not runs:
        _advise_datasets(selection.known, results_dir)


def _advise_datasets(known: Sequence[RunEntry], results_dir: Path) -> None:
    """Says how to compare experiments that were trained on several datasets."""
    names, datasets = common_datasets(known)
    if names:
        words = ["--over", f"dataset={','.join(datasets)}"]
        where = commands.results_dir_option(results_dir)
        tell(f"Over datasets: {commands.cnnbench('compare', *names, *words, *where)}")


def side_by_side(
    runs: Sequence[str] | None,
    criteria: Criteria,
    results_dir: Path,
    *,
    every: bool = False,
    command: str = "compare",
    over: str | None = None,
) -> tuple[tuple[Comparison, ...], Selection]:
    """Compares runs: those named, or the newest comparable ones.

    Args:
      runs: names of runs; the newest if empty.
      criteria: how they are judged.
      results_dir: folder of all runs.
      every: compare the newest run of every experiment, in groups.
      command: the command that shows all groups, for the message that some are left out.
      over: compare the runs of one experiment at several values of a key.

    Raises:
      UsageError: `every` with names of runs.
      CnnbenchError: as `find_runs` and `compare_runs`.
    """
    if criteria.anytime and not runs:
        raise UsageError("--anytime: no run given; name the experiments to combine the runs of.")
    if runs and every:
        raise UsageError(f"--all: cannot be combined with '{runs[0]}'; remove one of them.")
    if over is not None:
        selection = sweep_selection(runs, over, results_dir)
        return (compare_runs(selection.runs, criteria),), selection
    if runs:
        selection = find_runs(runs, results_dir)
        if criteria.anytime:
            selection = replace(selection, runs=tuple(all_seeds(selection.runs, results_dir)))
        elif all(name == run.record.name for name, run in zip(runs, selection.runs, strict=True)):
            selection = _pooled(selection, results_dir)
        return (compare_runs(selection.runs, criteria),), selection
    if every:
        selection = newest_finished(results_dir)
    else:
        selection = newest_group(results_dir, criteria.baseline, command)
    if not selection.runs:
        start = commands.cnnbench("run", "standard", *commands.results_dir_option(results_dir))
        reasons = "".join(f"\n{text}" for text in selection.warnings)  # unreadable runs
        raise IncomparableError(f"no finished run to compare; start one with: {start}{reasons}")
    if every:
        return compare_groups(selection.runs, criteria), selection
    return (compare_runs(selection.runs, criteria),), selection


def _pooled(selection: Selection, results_dir: Path) -> Selection:
    """Unites the batches of seeds of each experiment that is named, and says so."""
    if len({run.record.name for run in selection.runs}) < len(selection.runs):
        return selection  # two runs of one experiment are compared with each other
    runs, notes = pooled(selection.runs, results_dir)
    return replace(selection, runs=tuple(runs), warnings=(*selection.warnings, *notes))


def _completed(runs: Sequence[RunResult], data_dir: Path | None) -> bool:
    """Computes the results for each image that runs lack; False if none does."""
    lacking = [run for run in runs if missing_predictions(run)]
    if lacking:
        with computing():
            for run in lacking:
                compute_predictions(run, data_dir, lambda text: warn([text]))
    return bool(lacking)


def _compare_over(
    over: OverComparison, thresholds: Sequence[Threshold | Limit], form: Format
) -> None:
    """Prints comparisons at several values, then the outcome of each limit at each value."""
    for threshold in thresholds:
        if isinstance(threshold, Limit) or threshold.metric not in {over.metric, TIME}:
            message = f"--fail-if: with --over, limits are changes of {over.metric} or {TIME}"
            raise UsageError(f"{message}; write, for example, {over.metric}:-0.2pp.")
    print_over(over, form)
    results = [
        (row, check_threshold(threshold, row.verdict))
        for threshold in thresholds
        if isinstance(threshold, Threshold)
        for row in over.rows
    ]
    for row, result in results:
        tell(f"{over.short}={row.value}: {result.text}")
    _exit({result.outcome for _, result in results})


def _exit(outcomes: Collection[ThresholdStatus]) -> None:
    """Exits with 3 or 4 unless all limits are kept."""
    if ThresholdStatus.FAILED in outcomes:
        raise typer.Exit(BROKEN)
    if ThresholdStatus.INCONCLUSIVE in outcomes:
        raise typer.Exit(INCONCLUSIVE)


def _check(thresholds: Sequence[Threshold | Limit], runs: Sequence[RunResult]) -> None:
    """Raises UsageError if a run lacks the metric of a limit."""
    own = {run_path(run.record): judgeable(run.summary) for run in runs if run.summary}
    known = [*dict.fromkeys(metric for metrics in own.values() for metric in metrics), TIME]
    directions = {metric: d for metrics in own.values() for metric, d in metrics.items()}
    for threshold in thresholds:
        if threshold.metric not in known:
            hint = METRIC.hint(threshold.metric, known)
            message = f"--fail-if: no run has '{threshold.metric}'{hint}"
            raise UsageError(f"{message}; write {or_list(known)}.")
        for path, metrics in own.items():
            if threshold.metric not in {*metrics, TIME}:
                message = f"--fail-if: {path} has no '{threshold.metric}'"
                names = or_list([*metrics, TIME])
                raise UsageError(f"{message}; write {names}, or name runs that have it.")
        validate_threshold(threshold, directions.get(threshold.metric, Direction.LOWER))


def _judge(
    thresholds: Sequence[Threshold | Limit],
    comparisons: Sequence[Comparison],
    runs: Sequence[RunResult],
    criteria: Criteria,
) -> None:
    """Prints the outcome of each limit; exits with 3 or 4 unless all are kept.

    Raises:
      UsageError: there is no run but the baseline.
    """
    outcomes = []
    for threshold in thresholds:
        results = list(_results(threshold, comparisons, runs, criteria))
        if not results:
            message = "--fail-if: there is no run to compare with the baseline"
            raise UsageError(f"{message}; name two runs.")
        for result in results:
            tell(result.text)
        outcomes += [result.outcome for result in results]
    _exit(outcomes)


def _results(
    threshold: Threshold | Limit,
    comparisons: Sequence[Comparison],
    runs: Sequence[RunResult],
    criteria: Criteria,
) -> Iterator[ThresholdResult]:
    """A change is checked on every run but the baseline, a limit on every run."""
    timed, metric = threshold.metric == TIME, threshold.metric
    if isinstance(threshold, Limit):
        for label, values, overlap in run_values(runs, None if timed else metric):
            yield check_limit(threshold, label, values, criteria.alpha, overlap)
        return
    judged = comparisons
    if not timed:
        judged = compare_groups(runs, replace(criteria, metric=metric, min_effect=ANY, target=None))
    for comparison in judged:
        for verdict in comparison.verdicts:
            yield check_threshold(threshold, verdict)


def _print(comparisons: Sequence[Comparison], format: Format, look: TableOptions) -> None:  # noqa: A002
    match format:
        case Format.TABLE:
            stdout().print(terminal_table(comparisons, wide=True, look=look))
        case Format.MD:
            print_document(markdown(comparisons, wide=True, look=look))
        case Format.CSV:
            print_document(csv_text(comparisons))
        case Format.JSON:
            print_document(json_text(comparisons), "json")
        case Format.LATEX:
            print_document(latex(comparisons, look))
        case Format.HTML:
            from cnnbench.report.html import table_page

            print_document(table_page(comparisons), "html")
