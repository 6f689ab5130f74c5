"""``--over``: comparisons at several values of a key, and the command that trains missing runs."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnbench.cli.options import Format, option_overrides
from cnnbench.cli.terminal import print_document, stdout, warn
from cnnbench.comparisons.labels import overrides
from cnnbench.comparisons.over.points import OverComparison, compare_over
from cnnbench.comparisons.verdict import Criteria
from cnnbench.errors import IncomparableError, UsageError
from cnnbench.formatting import enumeration
from cnnbench.report.over.files import csv_over, json_over
from cnnbench.report.over.latex import latex_over
from cnnbench.report.over.table import markdown_over, terminal_over
from cnnbench.runs.find import Selection
from cnnbench.runs.folder import RESOLVED_FILE, read_run
from cnnbench.runs.over import (
    DATASET,
    ArmRuns,
    Over,
    OverRuns,
    find_over,
    full_key,
    in_order,
    parse_over,
    short_key,
)
from cnnbench.runs.records import RunRecord, RunResult
from cnnbench.runs.settings import read_settings, settings_of
from cnnbench.spec.shipped import find_shipped
from cnnbench.system import commands

if TYPE_CHECKING:  # comparisons must not wait for it
    from cnnbench.runner.run import Request

_SHOWN = 4  # missing runs in a message


def over_runs(
    runs: Sequence[str] | None, text: str, results_dir: Path
) -> tuple[OverRuns, tuple[tuple[RunResult, ...], ...]]:
    """Finds and reads the runs at each value of a key.

    Args:
      runs: names of experiments.
      text: value of `--over`.
      results_dir: folder of all runs.

    Raises:
      UsageError: no experiment is named, or the option is invalid.
      IncomparableError: a run is missing; the message has the command that trains it.
      StoreError: a run cannot be read.
    """
    over = parse_over(text)
    if not runs:
        example = commands.cnnbench("compare", "A", "B", "--over", over.text)
        raise UsageError(f"--over: no experiment is named; write, for example, {example}.")
    found = find_over(runs, over, results_dir)
    read = read_over(found, over, results_dir)
    warn(found.warnings)
    return found, read


def read_over(found: OverRuns, over: Over, results_dir: Path) -> tuple[tuple[RunResult, ...], ...]:
    """Reads the runs at each value.

    Raises:
      UsageError: there is a single value.
      IncomparableError, StoreError: as `over_runs`.
    """
    if found.missing:
        raise IncomparableError(_missing_text(found, results_dir))
    if len(found.values) < 2:
        message = f"--over {over.text}: a single value"
        raise UsageError(f"{message}; name several, as in {short_key(found.key)}=VALUE,VALUE.")
    read = [tuple(read_run(entry.path) for entry in row if entry) for row in found.chosen]
    return tuple(read)


def judged_over(
    runs: Sequence[str] | None, text: str, criteria: Criteria, results_dir: Path
) -> OverComparison:
    """Compares experiments at each value of a key, as `over_runs` reads them.

    Raises:
      IncomparableError: runs at one value are not comparable.
    """
    return selected_over(runs, text, criteria, results_dir)[0]


def selected_over(
    runs: Sequence[str] | None, text: str, criteria: Criteria, results_dir: Path
) -> tuple[OverComparison, Selection]:
    """As `judged_over`, with the runs that are compared."""
    found, groups = over_runs(runs, text, results_dir)
    return compare_over(found.key, found.values, groups, criteria), _selection(found, groups)


def sweep_selection(runs: Sequence[str] | None, text: str, results_dir: Path) -> Selection:
    """The runs of a single experiment at several values of a key, to be compared with the best.

    Raises:
      CnnbenchError: as `over_runs`.
    """
    return _selection(*over_runs(runs, text, results_dir))


def _selection(found: OverRuns, groups: Sequence[Sequence[RunResult]]) -> Selection:
    paths = tuple(entry.path for row in found.chosen for entry in row if entry)
    return Selection(tuple(run for row in groups for run in row), (), paths)


def over_requests(requests: "Sequence[Request]", text: str) -> "list[Request]":
    """Requests for each experiment at each value, value by value.

    Each records a command line with its own value only.

    Args:
      requests: the experiments.
      text: value of `--over`.

    Raises:
      UsageError: there are no values, or an experiment has no such key.
      SpecError: an experiment is invalid.
    """
    over = parse_over(text)
    if not over.values:
        raise UsageError(f"--over {over.key}: no values; write {over.key}=VALUE,VALUE.")
    keys = [_key_in(request, over.key) for request in requests]
    for request, key in zip(requests, keys, strict=True):
        if set_too := next((text for text in request.overrides if _sets(text, key)), None):
            message = f"--over {over.key}: '{set_too}' sets the same key"
            raise UsageError(f"{message}; remove one of them.")
    return [
        dataclasses.replace(
            request,
            overrides=[*request.overrides, *_changes(key, value)],
            command=_narrowed(request.command, f"{key}={value}"),
            again=commands.with_needed(request.command),
        )
        for value in over.values
        for request, key in zip(requests, keys, strict=True)
    ]


def _sets(override: str, key: str) -> bool:
    """True if an override sets a key.

    >>> _sets("train.epochs=3", "train.epochs"), _sets("model.a.rate=0", "model.b.rate")
    (True, False)
    """
    return override.partition("=")[0].strip() in {key, key.removesuffix(".name")}


def _key_in(request: "Request", key: str) -> str:
    settings = settings_of(request.load().experiment.model_dump(mode="json"))
    return full_key(key, settings, str(request.path))


def _changes(key: str, value: str) -> list[str]:
    """The overrides of one value."""
    return option_overrides(None, None, value) if key == DATASET else [f"{key}={value}"]


def _narrowed(command: Sequence[str], setting: str) -> list[str]:
    """A command line whose `--over` has one value."""
    words: list[str] = []
    for word in command:
        if words and words[-1] == "--over":
            words.append(setting)
        else:
            words.append(f"--over={setting}" if word.startswith("--over=") else word)
    return words


def print_trained(
    results: Sequence[RunResult], text: str, arms: int, criteria: Criteria, form: Format
) -> bool:
    """Prints the comparison at each value of runs that were just trained.

    Args:
      results: as of `over_requests`.
      text: value of `--over`.
      arms: number of experiments.
      criteria: settings of the verdicts.
      form: `table` or `json`.

    Returns:
      False if runs are missing, or there is nothing to compare.
    """
    over = parse_over(text)
    if arms < 2 or len(over.values) < 2 or len(results) != arms * len(over.values):
        return False
    key = full_key(over.key, read_settings(results[0].path, nulls=True), results[0].record.name)
    groups = [results[start : start + arms] for start in range(0, len(results), arms)]
    by_value = dict(zip(over.values, groups, strict=True))
    values = in_order(over.values)
    ordered = [by_value[value] for value in values]
    print_over(compare_over(key, values, ordered, criteria), form)
    return True


def refuse_with_over(options: Mapping[str, object]) -> None:
    """Refuses options that comparisons at several values do not have.

    Raises:
      UsageError: one is set.
    """
    for name, value in options.items():
        if value:
            raise UsageError(f"{name}: cannot be combined with --over; remove one of them.")


def print_over(over: OverComparison, format: Format) -> None:  # noqa: A002
    """Prints a comparison."""
    match format:
        case Format.TABLE:
            stdout().print(terminal_over(over))
        case Format.MD:
            print_document(markdown_over(over))
        case Format.CSV:
            print_document(csv_over(over))
        case Format.JSON:
            print_document(json_over(over), "json")
        case Format.LATEX:
            print_document(latex_over(over))
        case Format.HTML:
            from cnnbench.report.over.page import over_table_page

            print_document(over_table_page(over), "html")


def _missing_text(found: OverRuns, results_dir: Path) -> str:
    """Which runs are missing, and the command that trains them."""
    total = len(found.values) * len(found.arms)
    key, missing = short_key(found.key), found.missing
    names = [f"{arm} at {key}={value}" for arm, value in missing[:_SHOWN]]
    names += [f"{len(missing) - _SHOWN} more"] * (len(missing) > _SHOWN)
    are = "run is" if len(missing) == 1 else "runs are"
    message = f"--over: {len(missing)} of {total} {are} missing: {enumeration(names)}"
    return f"{message}; train with: {training_command(found, results_dir)}"


def training_command(found: OverRuns, results_dir: Path) -> str:
    """The command that trains the missing runs, and no others.

    Args:
      found: the runs.
      results_dir: folder of all runs.
    """
    arms = list(dict.fromkeys(arm for arm, _ in found.missing))
    values = list(dict.fromkeys(value for _, value in found.missing))
    whole = len(arms) * len(values) == len(found.missing)
    over = Over(short_key(found.key), tuple(values))
    known = [arm for arm in found.arms if arm.argument in arms]
    specs, changes = _specs(known, found.key)
    needed = [] if whole else ["--needed"]
    options = [*changes, "--over", over.text, *needed, *commands.results_dir_option(results_dir)]
    return commands.cnnbench("run", *specs, *options)


def _specs(arms: Sequence[ArmRuns], key: str) -> tuple[list[str | Path], list[str]]:
    """Experiment files, and overrides that make them what was trained.

    The files of the commands that trained the newest runs, if their overrides are the same; else
    the resolved experiments of these runs.
    """
    newest = [arm.runs[-1][0] if arm.runs else None for arm in arms]
    records = [entry.record for entry in newest if entry]
    changed = {
        tuple(each.text for each in overrides(record) if each.key != key) for record in records
    }
    written = [
        arm.spec or (_spec_word(entry.record) if entry else arm.argument)
        for arm, entry in zip(arms, newest, strict=True)
    ]
    if len(changed) <= 1 and all(written):
        words = [word for text in next(iter(changed), ()) for word in text.split(" ", 1)]
        return [word for word in written if word], words
    return [
        entry.path / RESOLVED_FILE if entry else arm.argument
        for arm, entry in zip(arms, newest, strict=True)
    ], []


def _spec_word(record: RunRecord) -> str | None:
    """The experiment file in the command line of a run; None if it is unknown or gone."""
    for word in record.environment.command[2:]:
        named = Path(word).stem == record.name and "=" not in word
        if named and (os.path.isfile(word) or find_shipped(word)):  # noqa: PTH113
            return word
    return None
