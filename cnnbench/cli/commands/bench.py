"""``cnnbench bench``: training speed of a network in several frameworks."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from cnnbench.bench import session
from cnnbench.bench.by_layer import measure_by_layer
from cnnbench.bench.by_layer_report import json_by_layer, markdown_by_layer, terminal_by_layer
from cnnbench.bench.report import Report, json_text, markdown, terminal_table
from cnnbench.bench.scheduler import Settings
from cnnbench.cli.completion import complete_datasets
from cnnbench.cli.options import (
    CoresOption,
    DataDir,
    Engine,
    EngineOption,
    Format,
    Specs,
    option_overrides,
    split_words,
)
from cnnbench.cli.processes import limit_cores
from cnnbench.cli.terminal import print_document, start_jax, stdout, tell
from cnnbench.errors import UsageError
from cnnbench.spec.loader import Loaded
from cnnbench.system import commands

BenchFormat = Literal[Format.TABLE, Format.JSON, Format.MD]


def bench(  # noqa: PLR0913, PLR0917 - one parameter per option
    specs: Specs,
    against: Annotated[
        str | None,
        typer.Option(
            help="Frameworks: torch, keras, flax; default: those that are installed.",
            metavar="NAME,NAME",
            show_default=False,
        ),
    ] = None,
    format: Annotated[BenchFormat, typer.Option(help="Output format.")] = Format.TABLE,  # noqa: A002
    output: Annotated[
        Path, typer.Option(help="Folder for reports in JSON and Markdown.", metavar="DIR")
    ] = Path("results/bench"),
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset that replaces the experiment's.",
            metavar="NAME",
            autocompletion=complete_datasets,
        ),
    ] = None,
    data_dir: DataDir = None,
    cores: CoresOption = None,
    engine: EngineOption = Engine.AUTO,
    by_layer: Annotated[
        bool,
        typer.Option(
            "--by-layer",
            help="Show what each layer costs in a training step, and what limits it.",
        ),
    ] = False,
    rounds: Annotated[
        int, typer.Option(min=3, help="Maximum number of timed rounds.", metavar="N")
    ] = 7,
    budget: Annotated[
        float,
        typer.Option(min=1, help="Time budget per experiment.", metavar="SECONDS"),
    ] = 300.0,
) -> None:
    """Benchmark training speed against PyTorch, Keras and plain Flax."""
    limit_cores(cores)
    paths, overrides = split_words(specs)
    overrides += option_overrides(None, None, dataset)
    if by_layer:
        _by_layer(session.load_all(paths, overrides, data_dir), data_dir, against, engine, format)
        return
    families = session.choose_families(against)
    experiments = session.load_all(paths, overrides, data_dir)
    if families.missing:
        missing = ", ".join(families.missing)
        _note(f"not installed: {missing}; run {commands.pip_install('cnnbench[peers]')}.")
    start_jax()
    session.make_folder(output)
    started_at = datetime.now(UTC)
    settings = Settings(rounds, budget)
    command = ["cnnbench", *sys.argv[1:]]
    benchmarks = []
    for loaded in experiments:
        task = session.make_task(loaded, data_dir, _note)
        benchmarks.append(session.measure(task, families.chosen, settings, _note, engine=engine))
        report = session.make_report(benchmarks, families.chosen, command, started_at)
        kept = session.write_report(report, output)  # later experiments may fail
    _print(report, format)
    _note(f"wrote {kept} and {kept.stem}.md")


def _by_layer(
    experiments: Sequence[Loaded],
    data_dir: Path | None,
    against: str | None,
    engine: Engine,
    format: BenchFormat,  # noqa: A002
) -> None:
    """Measures and prints the layers of each experiment.

    Raises:
      UsageError: other frameworks are named, too.
    """
    if against:
        message = "--against: cannot be combined with --by-layer, which measures cnnbench alone"
        raise UsageError(f"{message}; remove one of them.")
    start_jax(all_cores=True)
    found = []
    for loaded in experiments:
        found.append(measure_by_layer(session.make_task(loaded, data_dir, _note), engine))
        if format is Format.TABLE:
            stdout().print(terminal_by_layer(found[-1]))
        elif format is Format.MD:
            print_document(markdown_by_layer(found[-1]))
    if format is Format.JSON:
        print_document(json_by_layer(found), "json")


def _print(report: Report, format: BenchFormat) -> None:  # noqa: A002
    match format:
        case Format.TABLE:
            stdout().print(terminal_table(report))
        case Format.MD:
            print_document(markdown(report))
        case Format.JSON:
            print_document(json_text(report), "json")


def _note(text: str) -> None:
    tell(text)
