"""Speed comparisons as terminal tables, Markdown and JSON."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cnnbench.bench.frameworks.interface import TorchSettings
from cnnbench.bench.measurements import (
    IMAGES,
    OWN,
    OWN_BFLOAT16,
    Band,
    Benchmark,
    Measurement,
    Ratio,
    VariantStatus,
)
from cnnbench.formatting import clean, escape_markdown
from cnnbench.report import table as report_table
from cnnbench.report.table import WrappedTable
from cnnbench.runs import codec
from cnnbench.runs.records import Environment
from cnnbench.spec.metrics import is_fraction

if TYPE_CHECKING:
    from rich.console import Group

MIB = 2**20
FAMILY_TITLES = {"torch": "PyTorch", "keras": "Keras", "flax": "plain Flax NNX"}
SETTINGS_TITLES = {
    TorchSettings.TUNED: "PyTorch, tuned",
    TorchSettings.JEMALLOC: "PyTorch, tuned, with jemalloc",
    TorchSettings.TCMALLOC: "PyTorch, tuned, with tcmalloc",
    TorchSettings.BFLOAT16: "PyTorch, tuned, in bfloat16",
    TorchSettings.DEFAULT: "PyTorch, default settings",
}
TUNED_NOTE = (
    "Tuned: PyTorch keeps freed memory, pins a thread to each core, flushes denormals,",
    "and uses fused optimizers.",
)
ABOVE_ALL = "Above 100%: Winograd needs fewer operations than counted, or the machine was busy."
TIMES_NOTE = (
    f"Time: seconds per {IMAGES:,} training images, median over rounds.",
    "Ratio: time relative to cnnbench in the same round (95% CI); above 1, cnnbench is faster.",
    "Compile: seconds of the first step. Memory: peak resident memory of the training process,",
    "in MiB.",
)


@dataclass(frozen=True, slots=True)
class Report:
    """Results of one run of the benchmark, with its environment.

    Args:
      benchmarks: one for each network.
      environment: software, machine and command.
      versions: versions of the frameworks, by package.
      started_at: start time, with its time zone.
    """

    benchmarks: tuple[Benchmark, ...]
    environment: Environment
    versions: Mapping[str, str]
    started_at: datetime


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table; `heading` is a shorter header for the terminal."""

    header: str
    cell: Callable[[Benchmark, Measurement], str]
    heading: str | None = None


def terminal_table(report: Report) -> "Group":
    """A table with notes for each network."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for benchmark in report.benchmarks:
        parts += [Text(benchmark_heading(benchmark), style="bold"), _rich_table(benchmark)]
        parts += [Text("\n".join([*notes(benchmark), ""]), style="dim")]
    last = f"{' '.join(_legend(report))}\n{machine_note(report)}\n"
    return Group(*parts, Text(last, style="dim"))


def markdown(report: Report) -> str:
    """The tables in Markdown."""
    parts = []
    for benchmark in report.benchmarks:
        lines = [f"- {escape_markdown(note)}\n" for note in notes(benchmark)]
        rows = [[c.cell(benchmark, m) for c in _COLUMNS] for m in benchmark.measured]
        body = markdown_table([_header(c, benchmark, narrow=False) for c in _COLUMNS], rows)
        parts.append(
            f"### {escape_markdown(benchmark_heading(benchmark))}\n\n{body}\n{''.join(lines)}"
        )
    last = [" ".join(_legend(report)), escape_markdown(machine_note(report)), ""]
    return "\n".join([*parts, *last])


def _legend(report: Report) -> tuple[str, ...]:
    """Explanation of the columns, and of tuned variants if there are any."""
    settings = {m.settings for benchmark in report.benchmarks for m in benchmark.measured}
    return TIMES_NOTE + (TUNED_NOTE if settings - {TorchSettings.DEFAULT} else ())


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with the first column left-aligned and the others right-aligned."""
    return report_table.markdown_table(headers, rows, "|---|" + "---:|" * (len(headers) - 1))


def json_text(report: Report) -> str:
    """All measurements, unrounded, with derived values, as JSON."""
    fields = {
        "started_at": report.started_at,
        "machine": report.environment,
        "versions": report.versions,
        "specs": {b.name: _json(b) for b in report.benchmarks},
    }
    return codec.encode_document(fields).decode()


def benchmark_heading(benchmark: Benchmark) -> str:
    """Network, dataset and batch size as a heading.

    >>> benchmark_heading(Benchmark("a", "Tiny CNN", "mnist_5k", 4000, 500, 1, None, ()))
    'Tiny CNN: mnist_5k, 4,000 training images, batch size 500'
    """
    data = f"{benchmark.dataset}, {benchmark.num_train:,} training images"
    return f"{benchmark.title}: {data}, batch size {benchmark.batch_size}"


def notes(benchmark: Benchmark) -> list[str]:
    """Notes below a table, one line each."""
    lines = best_notes(benchmark)
    own, product = benchmark.own, benchmark.product
    if own is not None:
        rounds = f"{len(own.seconds)} rounds of {own.images:,} images"
        lines.append(f"Measured: {rounds}, variants interleaved, each in its own process.")
    if own is not None and product is not None:
        share = 100 * (benchmark.product_share(own) or 0)
        peak = f"{product.flops / 1e9:,.0f} GFLOP/s of {product.library}'s matrix product"
        size = f"{product.size} x {product.size}, float32"
        lines.append(f"Throughput: cnnbench reaches {share:.0f}% of the {peak} ({size}).")
        if share > 100:
            lines.append(ABOVE_ALL)
    if (band := benchmark.band()) is not None and own is not None:
        lines.append(_band_note(band, own.steps))
    for m in benchmark.measurements:
        if m.outcome is not VariantStatus.MEASURED:
            lines.append(f"{m.outcome.capitalize()}: {m.variant}: {clean(m.reason)}")
    return lines


def best_notes(benchmark: Benchmark) -> list[str]:
    """The fastest variant of each framework with its ratio, one line each.

    For PyTorch, the fastest of all, tuned or not, then the fastest with default settings.
    """
    lines = []
    for family in dict.fromkeys(m.family for m in benchmark.measurements if m.family != OWN):
        best, title = benchmark.best(family), FAMILY_TITLES.get(family, family)
        default = benchmark.best(family, {TorchSettings.DEFAULT})
        tuned = "tuned " if best is not None and best is not default else ""
        lines += _best_note(benchmark, f"Fastest {tuned}{title} variant", best)
        if default is not best:
            lines += _best_note(benchmark, f"Fastest {title} variant, default settings", default)
    return lines + _bfloat16_notes(benchmark)


def _best_note(benchmark: Benchmark, name: str, best: Measurement | None) -> list[str]:
    ratio = benchmark.ratio(best)
    if best is None or ratio is None:
        return []
    return [f"{name}: {best.variant}, ratio {ratio_with_interval(ratio)}."]


def _bfloat16_notes(benchmark: Benchmark) -> list[str]:
    """Our time in bfloat16 relative to float32, and PyTorch's relative to ours in bfloat16."""
    own = benchmark.ratio(benchmark.find(OWN_BFLOAT16))
    best = benchmark.best("torch", {TorchSettings.BFLOAT16})
    ratio = benchmark.ratio(best, OWN_BFLOAT16)
    if own is None:
        return []
    lines = [f"bfloat16: {OWN_BFLOAT16} takes {ratio_with_interval(own)} times as long as {OWN}."]
    if best is not None and ratio is not None:
        name = f"Fastest PyTorch variant in bfloat16: {best.variant}"
        lines.append(f"{name}, ratio to {OWN_BFLOAT16} {ratio_with_interval(ratio)}.")
    return lines


def _band_note(band: Band, steps: int) -> str:
    if is_fraction(band.metric):
        spread = f"{100 * band.low:.1f} to {100 * band.high:.1f}%"
        allowed = f"{100 * band.tolerance:.0f} points of cnnbench"
    else:
        spread, allowed = f"{band.low:.4g} to {band.high:.4g}", f"{band.tolerance:.2g} of cnnbench"
    found = f"{band.metric} {spread} on test images after {steps} steps"
    if band.outside:
        return f"Different results: {found}; not within {allowed}: {', '.join(band.outside)}."
    return f"Equivalent results: {found}, all within {allowed}."


def machine_note(report: Report) -> str:
    """Machine and package versions; command and commit are in the JSON form."""
    machine = report.environment
    versions = {"jax": machine.jax, "flax": machine.flax} | dict(report.versions)
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    day = report.started_at.date().isoformat()
    return f"Machine: {machine.device_model}, {machine.num_cpus} CPUs; {packages}; {day}."


def ratio_with_interval(ratio: Ratio) -> str:
    """A ratio with its interval.

    >>> from cnnbench.statistics.estimates import Interval
    >>> ratio_with_interval(Ratio(2.134, Interval(2.0512, 2.21)))
    '2.13 (2.05-2.21)'
    """
    low, high = ratio.interval.low, ratio.interval.high
    return f"{_digits(ratio.value)} ({_digits(low)}-{_digits(high)})"


def _digits(value: float) -> str:
    """A number with three significant digits.

    >>> _digits(0.8812), _digits(12.345), _digits(123.45)
    ('0.88', '12.3', '123')
    """
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _ratio_cell(benchmark: Benchmark, measurement: Measurement) -> str:
    ratio = benchmark.ratio(measurement)
    return "" if ratio is None or measurement.variant == OWN else ratio_with_interval(ratio)


def _epochs_cell(benchmark: Benchmark, measurement: Measurement) -> str:
    epochs = measurement.steps * benchmark.batch_size / benchmark.num_train
    return f"{epochs:.2f}" if epochs < 10 else f"{epochs:.0f}"


def _metric_cell(benchmark: Benchmark, measurement: Measurement) -> str:
    band = benchmark.band()
    if band is None or not measurement.metrics:
        return ""
    value = measurement.metrics[band.metric]
    return f"{100 * value:.1f}%" if is_fraction(band.metric) else f"{value:#.4g}"


def _header(column: _Column, benchmark: Benchmark, *, narrow: bool) -> str:
    band = benchmark.band()
    if column.header == "Accuracy" and band and band.metric == "loss":
        return "Loss"
    return column.heading or column.header if narrow else column.header


_COLUMNS = (
    _Column("Framework", lambda _, m: m.variant),
    _Column("Epoch", _epochs_cell),
    _Column("Accuracy", _metric_cell, "Acc."),
    _Column("Time", lambda _, m: _digits(m.seconds_per_10k)),
    _Column("Ratio", _ratio_cell),
    _Column("Compile", lambda _, m: f"{m.compile_s:.1f}"),
    _Column("Memory", lambda _, m: f"{m.peak_memory_bytes / MIB:,.0f}", "Mem."),
)


def _rich_table(benchmark: Benchmark) -> WrappedTable:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for i, column in enumerate(_COLUMNS):
        header = _header(column, benchmark, narrow=True)
        table.add_column(header, justify="right" if i else "left", no_wrap=bool(i))
    for title, members in _groups(benchmark):
        if title:
            table.add_row(Text(title))
        for measurement in members:
            name, *cells = (column.cell(benchmark, measurement) for column in _COLUMNS)
            table.add_row(Text(_short(measurement) if title else name), *map(Text, cells))
    return WrappedTable(table)


def _groups(benchmark: Benchmark) -> list[tuple[str, list[Measurement]]]:
    """Consecutive variants with the same heading; only PyTorch's have one."""
    groups: list[tuple[str, list[Measurement]]] = []
    for measurement in benchmark.measured:
        title = SETTINGS_TITLES[measurement.settings] if measurement.family == "torch" else ""
        if not groups or groups[-1][0] != title:
            groups.append((title, []))
        groups[-1][1].append(measurement)
    return groups


def _short(measurement: Measurement) -> str:
    """Name of a PyTorch variant below the heading of its settings."""
    words = measurement.variant.removeprefix("torch-").removeprefix(f"{measurement.settings}-")
    return f"  {words}"


def _json(benchmark: Benchmark) -> dict[str, object]:
    own, best = benchmark.own, benchmark.best("torch")
    default, bfloat16 = (
        benchmark.best("torch", {t}) for t in (TorchSettings.DEFAULT, TorchSettings.BFLOAT16)
    )
    ratio, to_default = benchmark.ratio(best), benchmark.ratio(default)
    to_bfloat16 = benchmark.ratio(bfloat16, OWN_BFLOAT16)
    fields: dict[str, object] = {
        "title": benchmark.title,
        "dataset": benchmark.dataset,
        "num_train": benchmark.num_train,
        "batch_size": benchmark.batch_size,
        "training_flops": benchmark.training_flops,
        "ratio_to_best_torch": ratio and ratio.value,
        "ratio_to_best_torch_interval_95": ratio and ratio.interval,
        "best_torch": best and best.variant,
        "ratio_to_best_default_torch": to_default and to_default.value,
        "ratio_to_best_default_torch_interval_95": to_default and to_default.interval,
        "best_default_torch": default and default.variant,
        "ratio_to_best_bfloat16_torch": to_bfloat16 and to_bfloat16.value,
        "ratio_to_best_bfloat16_torch_interval_95": to_bfloat16 and to_bfloat16.interval,
        "best_bfloat16_torch": bfloat16 and bfloat16.variant,
        "seconds_per_10k": own and own.seconds_per_10k,
        "gemm_share": own and benchmark.product_share(own),
        "gemm": benchmark.product,
        "compile_s": own and own.compile_s,
        "peak_memory_bytes": own and own.peak_memory_bytes,
        "band": benchmark.band(),
        "peers": {m.variant: _json_measurement(benchmark, m) for m in benchmark.measurements},
    }
    return fields


def _json_measurement(benchmark: Benchmark, measurement: Measurement) -> dict[str, object]:
    m = measurement
    if m.outcome is not VariantStatus.MEASURED:
        return {
            "family": m.family,
            "settings": m.settings,
            "outcome": m.outcome,
            "reason": m.reason,
        }
    return {
        "family": m.family,
        "settings": m.settings,
        "outcome": m.outcome,
        "seconds_per_10k": m.seconds_per_10k,
        "ratio": benchmark.ratio(m),
        "gemm_share": benchmark.product_share(m),
        "prepare_s": m.prepare_s,
        "compile_s": m.compile_s,
        "peak_memory_bytes": m.peak_memory_bytes,
        "metrics": m.metrics,
        "steps": m.steps,
        "round_images": m.images,
        "round_seconds": m.seconds,
    }
