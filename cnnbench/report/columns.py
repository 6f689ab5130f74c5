"""Columns of comparisons: their cells, sort keys, notes and raw values in CSV and JSON.

There are two kinds of rows: a run after an epoch (`Row`), and the cost of a run (`CostRow`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from cnnbench.comparisons.comparison import CODE, Comparison, CostRow, Row
from cnnbench.comparisons.time_to_target import TimeToTarget, target_title
from cnnbench.errors import KnownNames, UsageError, or_list
from cnnbench.formatting import (
    MISSING,
    bytes_text,
    clean,
    count_text,
    flops_text,
    percent_text,
    seconds_text,
)
from cnnbench.runs.cost import Cost
from cnnbench.runs.records import Direction
from cnnbench.spec.metrics import METRICS, heading, is_fraction, metric_text, words
from cnnbench.statistics.estimates import Estimate

R = TypeVar("R", bound=Row | CostRow)
T = TypeVar("T")
CellValue = float | str | None


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Display options of a comparison.

    Args:
      precision: decimal places of measured values; chosen by size if None.
      only_changed: omit columns whose cells are equal in every row.
      verbose: show every timing warning instead of one line.
      brief: omit footnotes.
    """

    precision: int | None = None
    only_changed: bool = False
    verbose: bool = False
    brief: bool = False


PLAIN = TableOptions()


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """A raw value in a file.

    Args:
      name: the CSV column or JSON key.
      value: computes it from a row; None if unknown.
      meaning: for docs/reference/tables.md.
      parts: meanings of the keys of a value that is an object.
    """

    name: str
    value: Callable[[T], object]
    meaning: str
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FileFields(Generic[R]):
    """Raw values of a column in CSV and JSON."""

    csv: tuple[Field[R], ...] = ()
    json: tuple[Field[R], ...] = ()


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A column of tables and files, with its documentation.

    Args:
      name: its name for `--sort-by`.
      header: its header.
      cell: formats a row's cell.
      value: sort key of a row; None if unknown.
      meaning: description for docs/reference/tables.md.
      files: raw values for CSV and JSON.
      note: footnote of the table; empty if there is none.
      heading: header broken over lines for narrow terminals; `header` if None.
      falling: True if the largest value comes first.
      always: True if `--only-changed` keeps it.
      wide: True if only wide tables have it.
      shown: False if no row has a value; files have it nevertheless.
      note_last: True if the footnote follows those of the whole table.
      synonyms: other names that `--sort-by` accepts.
      near: words for which `--sort-by` suggests it.
    """

    name: str
    header: str
    cell: Callable[[R], str]
    value: Callable[[R], CellValue]
    meaning: str
    files: FileFields[R]
    note: str = ""
    heading: str | None = None
    falling: bool = False
    always: bool = False
    wide: bool = False
    shown: bool = True
    note_last: bool = False
    synonyms: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


def epoch_columns(
    comparison: Comparison, *, wide: bool, look: TableOptions = PLAIN
) -> list[Column[Row]]:
    """Returns the columns of the table of first and last epochs.

    Args:
      comparison: the comparison.
      wide: include seeds, test value, parameters and images per second.
      look: display options.
    """
    columns = [make(comparison, look.precision) for make in EPOCH_COLUMNS]
    found = [column for column in columns if column.shown and (wide or not column.wide)]
    return _shown(found, comparison.rows, look)


def cost_columns(comparison: Comparison, look: TableOptions = PLAIN) -> list[Column[CostRow]]:
    """Returns the columns of the table of costs."""
    columns = [make(comparison, look.precision) for make in COST_COLUMNS]
    return _shown([column for column in columns if column.shown], comparison.costs, look)


def epoch_files(comparison: Comparison) -> list[Column[Row]]:
    """Returns the columns of epochs in the order of CSV and JSON, also those not shown."""
    older = [make(comparison, None) for make in _IN_FILES]
    return older + [make(comparison, None) for make in EPOCH_COLUMNS if make not in _IN_FILES]


def cost_files(comparison: Comparison) -> list[Column[CostRow]]:
    """Returns the columns of costs in the order of CSV and JSON, also those not shown."""
    return [make(comparison, None) for make in COST_COLUMNS]


def _same(*fields: Field[R]) -> FileFields[R]:
    return FileFields(fields, fields)


def _estimated(
    name: str, of: Callable[[R], Estimate | None], what: str, but: str = ""
) -> FileFields[R]:
    """Makes fields of an estimate: mean and standard deviation in CSV, every seed in JSON."""
    empty, null = (f"; {word} {but}" if but else "" for word in ("empty", "null"))
    return FileFields(
        csv=(
            Field(
                f"{name}_mean",
                lambda row: e.mean if (e := of(row)) else None,
                f"{what}, mean over seeds{empty}",
            ),
            Field(
                f"{name}_std",
                lambda row: e.std if (e := of(row)) else None,
                "its sample standard deviation; empty with one seed",
            ),
        ),
        json=(Field(name, of, f"{what}, see below{null}"),),
    )


def _run(_: Comparison, __: int | None) -> Column[Row]:
    return Column(
        "type",
        "Type",
        lambda row: clean(row.label),
        lambda row: row.label,
        "`title` of the experiment; numbered if several runs share it",
        _same(
            Field("name", lambda row: row.run.name, "name of the experiment"),
            Field("title", lambda row: row.run.title, "its title"),
            Field("run_id", lambda row: row.run.run_id, "RUN-ID"),
            Field(
                "stand_in_for",
                lambda row: row.run.dataset.stand_in_for,
                "the unavailable dataset that was replaced; empty or null if there is none",
            ),
            Field(
                "device",
                lambda row: row.run.environment.device_model,
                "model name of the hardware that trained",
            ),
        ),
        always=True,
        synonyms=("name",),
        near=("experiment", "title", "network", "model"),
    )


_CHOSEN = "the epochs that the validation images chose, to which the values refer"


def _epoch(_: Comparison, __: int | None) -> Column[Row]:
    number: Field[Row] = Field("epoch", lambda row: row.epoch, "number of the epoch")

    def chosen(row: Row) -> float | None:
        return row.chosen.mean if row.chosen else None

    return Column(
        "epoch",
        "Epoch",
        lambda row: row.epoch_text,
        lambda row: row.epoch,
        "first and last epoch",
        FileFields(
            (number, Field("chosen_epoch", chosen, f"mean over seeds of {_CHOSEN}")),
            (number, Field("chosen_epochs", lambda r: r.chosen and r.chosen.values, _CHOSEN)),
        ),
        always=True,
    )


def _value(comparison: Comparison, digits: int | None) -> Column[Row]:
    metric, header = comparison.metric, heading(comparison.shown_metric)
    others = METRICS[metric].other_names if metric in METRICS else ()
    return Column(
        metric,
        header,
        lambda row: row.lost or estimate_text(metric, row.value, digits),
        lambda row: row.value.mean,
        "or Loss: the headline metric on the validation set; mean and, with two or more seeds, ±"
        " sample standard deviation (n - 1) over seeds",
        _estimated("value", lambda row: row.value, "the headline metric on the split of `images`"),
        f"{header}: {comparison.dataset.judged_on} set; {_spread_words(comparison)}.",
        falling=comparison.direction is Direction.HIGHER,
        synonyms=() if comparison.validates else ("test",),
        near=(*others, f"val_{metric}", f"validation_{metric}"),
    )


def _time(comparison: Comparison, digits: int | None) -> Column[Row]:
    times = [row.train_s.mean for row in comparison.rows]
    return Column(
        "time",
        "Time",
        lambda row: seconds_text(row.train_s.mean, digits, times),
        lambda row: row.train_s.mean,
        "`train_s` of that epoch, mean over seeds",
        _estimated("train_s", lambda row: row.train_s, "seconds of training in that epoch"),
        f"Time: one training epoch, excluding compilation and evaluation{_mean_over(comparison)}.",
        near=("train_time", "duration", "seconds", "epoch_time"),
    )


def _seeds(comparison: Comparison, _: int | None) -> Column[Row]:
    return Column(
        "seeds",
        "Seeds",
        lambda row: str(len(row.run.seeds)),
        lambda row: len(row.run.seeds),
        "number of seeds, if any run has several (in `run` only if they differ)",
        FileFields(
            (Field("num_seeds", lambda row: len(row.run.seeds), "number of seeds"),),
            (
                Field(
                    "seeds",
                    lambda row: row.run.seeds,
                    "the seeds, in the order of the values below",
                ),
            ),
        ),
        falling=True,
        wide=len({len(row.run.seeds) for row in comparison.rows}) == 1,
        shown=has_spread(comparison),
    )


def _code(comparison: Comparison, digits: int | None) -> Column[Row]:
    return Column(
        "code",
        "Code",
        lambda row: estimate_text(CODE, row.code, digits) if row.code else "",
        lambda row: row.code.mean if row.code else None,
        "`code_accuracy` after the last epoch, if any network has a code",
        _estimated(
            "code",
            lambda row: row.code,
            "`code_accuracy`",
            "except in the last epoch of a network with a code",
        ),
        "Code: test accuracy of a linear probe on the code.",
        falling=True,
        shown=any(row.code for row in comparison.rows),
        note_last=True,
    )


def _test(comparison: Comparison, digits: int | None) -> Column[Row]:
    metric = comparison.metric
    return Column(
        "test",
        "Test",
        lambda row: (row.lost or metric_text(metric, row.test.mean, digits)) if row.test else "",
        lambda row: row.test.mean if row.test else None,
        "the headline metric on the test set after the last epoch, mean over seeds"
        " (`compare` only)",
        _estimated(
            "test",
            lambda row: row.test,
            "the headline metric on the test set",
            "except in the last epoch",
        ),
        f"Test: {comparison.end}{_mean_over(comparison)}.",
        falling=comparison.direction is Direction.HIGHER,
        wide=True,
        shown=comparison.validates,  # otherwise the headline values are test values
        near=("test_accuracy", "test_acc"),
    )


def _views(comparison: Comparison, _: int | None) -> Column[Row]:
    return Column(
        "tta",
        "TTA",
        lambda row: row.run.test_augment or "none",
        lambda row: row.run.test_augment,
        "`evaluation.augment`, if any run has test-time augmentation",
        _same(
            Field(
                "test_augment",
                lambda row: row.run.test_augment or None,
                "test-time augmentation of the metrics; empty or null for none",
            )
        ),
        "TTA: test-time augmentation of validation and test images (mean of logits).",
        always=True,
        shown=any(row.run.test_augment for row in comparison.rows),
        near=("test_augment", "test_time_augmentation", "augment"),
    )


def _parameters(_: Comparison, __: int | None) -> Column[Row]:
    return Column(
        "params",
        "Params",
        lambda row: f"{row.num_params:,}",
        lambda row: row.num_params,
        "`num_params` (`compare` only)",
        _same(
            Field("num_params", lambda row: row.num_params, "number of trainable parameters"),
        ),
        wide=True,
        synonyms=("parameters",),
        near=("num_params", "size", "weights"),
    )


def _images_per_s(_: Comparison, __: int | None) -> Column[Row]:
    return Column(
        "images/s",
        "Images/s",
        lambda row: count_text(row.images_per_s),
        lambda row: row.images_per_s,
        "`samples_per_s`, median over all epochs and seeds (`compare` only)",
        _same(
            Field(
                "images_per_s",
                lambda row: row.images_per_s,
                "training images per second, median over all epochs and seeds",
            )
        ),
        "Images/s: median over epochs.",
        heading="Images\n/s",
        falling=True,
        wide=True,
        near=("speed", "throughput", "images_per_s", "fps"),
    )


def _data_wait(comparison: Comparison, digits: int | None) -> Column[Row]:
    some = 1 if digits is None else digits
    return Column(
        "data_wait",
        "Data wait",
        lambda row: MISSING if (share := row.data_wait) is None else percent_text(share, some),
        lambda row: row.data_wait,
        "share of training and evaluation in which the device waited for images, over all epochs"
        " and seeds, if any run streams them",
        _same(
            Field(
                "data_wait",
                lambda row: row.data_wait,
                "`data_s` of all epochs relative to their `train_s` and `eval_s`; empty or null if"
                " images are not streamed",
            )
        ),
        "Data wait: share of training and evaluation in which the device waited for streamed"
        " images.",
        heading="Data\nwait",
        shown=any(row.data_wait is not None for row in comparison.rows),
        near=("data_s", "data_time", "input", "waited", "loading"),
    )


def _engine(comparison: Comparison, _: int | None) -> Column[Row]:
    forms = {_form(row) for row in comparison.rows}
    return Column(
        "engine",
        "Engine",
        lambda row: _form(row) or MISSING,
        _form,
        "algorithms of convolutions and pooling (`--engine`); shown if they differ between runs,"
        " whose times then say nothing about the networks",
        _same(
            Field("engine", _form, "as `engine.form` in `run.json`; empty or null if it is unknown")
        ),
        "Engine: algorithms of convolutions and pooling, which affect time and rounding.",
        wide=True,
        shown=len(forms) > 1,
        near=("algorithm", "form", "backend"),
    )


def _form(row: Row) -> str | None:
    return row.run.engine.form if row.run.engine else None


Maker = Callable[[Comparison, int | None], Column[R]]
"""Makes a column of a comparison with a number of decimal places."""

EPOCH_COLUMNS: tuple[Maker[Row], ...] = (
    _run,
    _epoch,
    _value,
    _views,
    _time,
    _seeds,
    _code,
    _test,
    _parameters,
    _images_per_s,
    _data_wait,
    _engine,
)
# Files keep the order of earlier versions; new columns follow.
_IN_FILES = (
    _run,
    _seeds,
    _epoch,
    _value,
    _time,
    _parameters,
    _images_per_s,
    _test,
    _code,
)


_Text = Callable[[float, int | None, Sequence[float]], str]


def _field(name: str) -> Callable[[CostRow], float | None]:
    return lambda row: getattr(row.cost, name) if row.cost else None


def _known(text: _Text, value: float | None, digits: int | None, others: Sequence[float]) -> str:
    return MISSING if value is None else text(value, digits, others)


def _target_text(target: TimeToTarget | None, digits: int | None, others: Sequence[float]) -> str:
    """Formats the median, and the share of seeds that reached the target unless all did."""
    if target is None:
        return MISSING
    time = seconds_text(_seconds(target), digits, others)
    time = f"> {time}" if target.median_s is None else time
    return time if target.reached == target.seeds else f"{time}, {target.reached}/{target.seeds}"


def _seconds(target: TimeToTarget) -> float:
    return target.longest_s if target.median_s is None else target.median_s


def _target_s(row: CostRow) -> float | None:
    return row.target.median_s if row.target else None


def _cost_run(_: Comparison, __: int | None) -> Column[CostRow]:
    measured = {each.name: "see `summary.json`" for each in dataclasses.fields(Cost)}
    return Column(
        "type",
        "Type",
        lambda row: clean(row.label),
        lambda row: row.label,
        "as above",
        FileFields(
            json=(
                Field("label", lambda row: row.label, "label of the run, as in tables"),
                Field("run_id", lambda row: row.run.run_id, "RUN-ID"),
                Field(
                    "cost",
                    lambda row: row.cost,
                    "as in `summary.json`; null in runs of older versions",
                    measured,
                ),
            )
        ),
        always=True,
        synonyms=("name",),
        near=("experiment", "title", "network", "model"),
    )


def _quantity(
    names: tuple[str, ...],
    header: str,
    text: _Text,
    fields: tuple[str, ...],
    meaning: str,
    note: str = "",
    near: tuple[str, ...] = (),
) -> Maker[CostRow]:
    """Makes a column of the first field of `Cost`, in the same unit as the others."""
    of = _field(fields[0])

    def make(comparison: Comparison, digits: int | None) -> Column[CostRow]:
        rows = comparison.costs
        known = [_field(f)(row) for f in fields for row in rows]
        others = [v for v in known if v is not None]
        return Column(
            names[0],
            header,
            lambda row: _known(text, of(row), digits, others),
            of,
            meaning,
            FileFields(csv=(Field(fields[0], of, f"see `{fields[0]}` in `summary.json`"),)),
            note if any(row.cost for row in rows) else "",
            header.replace(" ", "\n"),
            synonyms=names[1:],
            near=near,
        )

    return make


def _mfu(comparison: Comparison, digits: int | None) -> Column[CostRow]:
    """Makes the column of model FLOPs utilization, against a measured peak.

    Source: Chowdhery et al., "PaLM", 2022, appendix B, https://arxiv.org/abs/2204.02311. As there,
    the model's operations are counted, not those that an algorithm such as Winograd's needs.
    """
    known = any(row.cost for row in comparison.costs)
    over = any((row.product_share or 0) > 1 and _is_winograd(row) for row in comparison.costs)
    note = "MFU: training FLOPs relative to the device's peak matmul throughput"
    note += "; Winograd computes fewer than are counted, hence > 100%." if over else "."
    return Column(
        "mfu",
        "MFU",
        lambda row: MISSING if (p := row.product_share) is None else percent_text(p, digits),
        lambda row: row.product_share,
        "model FLOPs utilization: training FLOPs per second relative to the device's measured"
        " peak matmul throughput; above 100% is possible with `--engine fast` and `winograd`,"
        " because Winograd's algorithm needs fewer operations than are counted",
        _same(
            Field(
                "product_share",
                lambda row: row.product_share,
                "training FLOPs per second relative to the device's peak matmul throughput; empty"
                " or null for a Python model",
            )
        ),
        note if known else "",
        falling=True,
        synonyms=("peak",),
        near=("utilization", "efficiency", "product_share"),
    )


def _is_winograd(row: CostRow) -> bool:
    return row.run.engine is not None and row.run.engine.multiplies_less


def _target(comparison: Comparison, digits: int | None) -> Column[CostRow]:
    targets = [row.target for row in comparison.costs if row.target]
    title = target_title(comparison.metric, targets[0].target) if targets else "VALUE"
    times = [_seconds(target) for target in targets]
    return Column(
        "target",
        f"To {title}",
        lambda row: _target_text(row.target, digits, times),
        _target_s,
        "with `--target VALUE`: training time until the metric reached it on the validation set",
        _TARGET_FILES,
        f"To {title}: training time to that {words(comparison.metric)}, median over seeds; m/n"
        " seeds reached it if not all did, > if fewer than half."
        + ("" if comparison.validates else " Without a validation set, tested once per seed."),
        shown=bool(targets),
    )


_TARGET_FILES: FileFields[CostRow] = FileFields(
    (
        Field("target", lambda row: row.target and row.target.target, "the value of `--target`"),
        Field(
            "target_s",
            _target_s,
            "median seconds of training until it was reached; empty if unknown",
        ),
        Field(
            "target_reached",
            lambda row: row.target and row.target.reached,
            "seeds that reached it",
        ),
    ),
    (
        Field(
            "target",
            lambda row: row.target,
            "training time to `--target`; null without one",
            {
                "target": "the value",
                "reached": "seeds that reached it",
                "seeds": "seeds that were trained one at a time",
                "median_s": "median seconds of training; null if fewer than half reached it",
                "longest_s": "seconds of the longest training",
            },
        ),
    ),
)


def _best_epoch(comparison: Comparison, digits: int | None) -> Column[CostRow]:
    metric = words(f"validation_{comparison.metric}")
    some = 1 if has_spread(comparison) else 0

    def of(row: CostRow) -> float | None:
        return row.best_epoch.mean if row.best_epoch else None

    def cell(row: CostRow) -> str:
        known = (best := of(row)) is not None and math.isfinite(best)
        return f"{best:.{some if digits is None else digits}f}" if known else MISSING

    return Column(
        "best",
        "Best epoch",
        cell,
        of,
        "epoch with the best value of the headline metric on the validation set, mean over seeds;"
        " shown if it is not the last epoch of every run",
        _estimated(
            "best_epoch",
            lambda row: row.best_epoch,
            "epoch with the best value of the headline metric on the validation set, the first in"
            " case of a tie",
            "without a validation set",
        ),
        f"Best epoch: epoch with the best {metric}{_mean_over(comparison)}.",
        heading="Best\nepoch",
        shown=any((of(row) or math.nan) < row.run.epochs for row in comparison.costs),
        near=("best_epoch", "epoch_to_best", "epochs_to_best"),
    )


COST_COLUMNS: tuple[Maker[CostRow], ...] = (
    _cost_run,
    _quantity(
        ("forward",),
        "Forward",
        flops_text,
        ("forward_flops",),
        "FLOPs per image of the forward pass, in thousands (k), millions (M) or billions (G); see"
        " [how costs are measured](#how-costs-are-measured)",
        "Forward, Backward: FLOPs per image, counted by XLA.",
    ),
    _quantity(
        ("backward",),
        "Backward",
        flops_text,
        ("backward_flops",),
        "FLOPs per image of the backward pass",
    ),
    _quantity(
        ("memory",),
        "Memory",
        bytes_text,
        ("memory_bytes",),
        "memory of a training step",
        "Memory: of a training step.",
        near=("mem", "ram"),
    ),
    _quantity(
        ("p50", "latency"),
        "Latency p50",
        seconds_text,
        ("latency_p50_s", "latency_p90_s"),
        "inference on one image, median",
        "Latency: inference on one image.",
    ),
    _quantity(
        ("p90",),
        "Latency p90",
        seconds_text,
        ("latency_p90_s", "latency_p50_s"),
        "inference on one image, 90th percentile",
    ),
    _mfu,
    _target,
    _best_epoch,
)


def has_spread(comparison: Comparison) -> bool:
    """Returns True if any run has several seeds."""
    return any(len(row.run.seeds) > 1 for row in comparison.rows)


def _mean_over(comparison: Comparison) -> str:
    return "; mean over seeds" if has_spread(comparison) else ""


def _spread_words(comparison: Comparison) -> str:
    match sorted({len(row.run.seeds) for row in comparison.rows}):
        case [1]:
            return "one seed, so no standard deviation"
        case [number]:
            return f"mean ± standard deviation over {number} seeds"
    return "mean ± standard deviation over seeds"


def _shown(columns: list[Column[R]], rows: Sequence[R], look: TableOptions) -> list[Column[R]]:
    if not look.only_changed:
        return columns
    return [c for c in columns if c.always or len({c.cell(row) for row in rows}) > 1]


def sort_runs(comparisons: Sequence[Comparison], name: str) -> list[Comparison]:
    """Sorts runs by a column of either table, the best first.

    The best run has the highest accuracy, the lowest loss, the lowest time or cost, or the most
    images per second. Runs are sorted by their last epoch; unknown values come last.

    Args:
      comparisons: each is sorted on its own; one without the column is left as is.
      name: name or header of the column; case and spaces are ignored.

    Raises:
      UsageError: no comparison has such a column.
    """
    keys = [_keys(comparison) for comparison in comparisons]
    if not any(_spelt(name) in found for found in keys):
        words = [word for comparison in comparisons for word in _words(comparison)]
        names = dict.fromkeys(key for key, _ in words)
        near = _noun(comparisons).hint(name, [*names, *(header for _, header in words)])
        message = f"--sort-by: there is no column '{name}'{near}"
        raise UsageError(f"{message}; write {or_list(names)}, or a table header.")
    pairs = zip(comparisons, keys, strict=True)
    return [_sorted(comparison, found.get(_spelt(name))) for comparison, found in pairs]


SortKey = Callable[[str], tuple[bool, float | str]]


def _noun(comparisons: Sequence[Comparison]) -> KnownNames:
    """Returns the words that suggest a column."""
    near: dict[str, tuple[str, ...]] = {}
    for comparison in comparisons:
        near |= {c.name: c.near for c in epoch_columns(comparison, wide=True)}
        near |= {c.name: c.near for c in cost_columns(comparison)}
    return KnownNames(near)


def _spelt(word: str) -> str:
    return "".join(word.lower().split())


def _words(comparison: Comparison) -> list[tuple[str, str]]:
    """Returns names and headers of the columns shown."""
    of_epochs = [(c.name, c.header) for c in epoch_columns(comparison, wide=True)]
    return of_epochs + [(c.name, c.header) for c in cost_columns(comparison)]


def _keys(comparison: Comparison) -> dict[str, SortKey]:
    """Returns sort keys of labels by every name of a column."""
    last = {row.label: row for row in comparison.rows}
    costs = {row.label: row for row in comparison.costs}
    keys: dict[str, SortKey] = {}
    for cost in _known_columns(COST_COLUMNS, comparison, comparison.costs):
        keys |= dict.fromkeys(_called(cost), partial(_key, cost, costs))
    for column in _known_columns(EPOCH_COLUMNS, comparison, comparison.rows):
        keys |= dict.fromkeys(_called(column), partial(_key, column, last))
    return keys


def _known_columns(
    makers: Sequence[Maker[R]], comparison: Comparison, rows: Sequence[R]
) -> list[Column[R]]:
    """Returns the columns with a value, also those not shown because they add nothing."""
    columns = [make(comparison, None) for make in makers]
    return [c for c in columns if c.shown or any(c.value(row) is not None for row in rows)]


def _called(column: Column[R]) -> list[str]:
    return [_spelt(name) for name in (column.name, column.header, *column.synonyms)]


def _sorted(comparison: Comparison, key: SortKey | None) -> Comparison:
    if key is None:
        return comparison
    labels = sorted(dict.fromkeys(row.label for row in comparison.rows), key=key)
    order = {label: place for place, label in enumerate(labels)}
    return replace(
        comparison,
        rows=tuple(sorted(comparison.rows, key=lambda row: order[row.label])),
        costs=tuple(sorted(comparison.costs, key=lambda row: order[row.label])),
    )


def _key(column: Column[R], rows: Mapping[str, R], label: str) -> tuple[bool, float | str]:
    value = column.value(rows[label])
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True, 0.0
    return False, -value if column.falling and not isinstance(value, str) else value


def estimate_text(metric: str, estimate: Estimate, digits: int | None = None) -> str:
    """Formats mean and standard deviation, as in `98.97 ± 0.05%`.

    A standard deviation that rounds to zero is written as an upper bound.

    >>> estimate_text("accuracy", Estimate((0.98, 0.98), 0.98, 0.0))
    '98.00 ± <0.01%'
    """
    value, std = metric_text(metric, estimate.mean, digits), estimate.std
    if std is None or math.isnan(std):
        return value
    if is_fraction(metric):
        spread = _spread(100 * std, 2 if digits is None else digits)
        return f"{value.removesuffix('%')} ± {spread}%"
    if digits is not None:
        return f"{value} ± {_spread(std, digits)}"
    return f"{value} ± {std:#.2g}" if std else f"{value} ± 0"


def _spread(std: float, digits: int) -> str:
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if std < least / 2 else f"{std:.{digits}f}"
