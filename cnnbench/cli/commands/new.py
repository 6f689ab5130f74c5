"""``cnnbench new`` and ``cnnbench schema``: help with writing experiment files."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.completion import complete_experiments
from cnnbench.cli.options import ResultsDir
from cnnbench.cli.terminal import print_document, tell, write_file
from cnnbench.errors import SpecError, UsageError, cannot_write
from cnnbench.spec.json_schema import FILE, block_names, schema_text
from cnnbench.spec.scaffold import Scaffold, scaffold_experiment
from cnnbench.spec.shipped import find_named
from cnnbench.system import commands
from cnnbench.system.files import write_atomic


def new(
    parent: Annotated[
        str,
        typer.Argument(
            metavar="PARENT",
            help="Experiment to extend: a name such as modified, or a file.",
            autocompletion=complete_experiments,
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the experiment; default: that of the file.", metavar="NAME"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Create an experiment file that extends another one."""
    replaces = file.exists()
    if replaces and not force:
        raise UsageError(f"{file}: already exists; name another file, or add --force.")
    scaffold = scaffold_experiment(file, _file_of(parent), name)
    if not replaces and (results_dir / scaffold.name).exists():
        message = f"{results_dir / scaffold.name} has runs of another experiment with that name"
        raise UsageError(f"{message}; choose another name with --name.")
    _write(scaffold)
    tell(f"wrote {file}, which extends {scaffold.parent}", err=False)
    if scaffold.copies:
        tell(f"copied {', '.join(map(str, scaffold.copies))}", err=False)
    both = (Path(scaffold.parent), file, "--seeds", "6", *commands.results_dir_option(results_dir))
    tell("Edit it, then run:\n", err=False)
    tell(f"    {commands.cnnbench('watch', file)}", err=False)
    tell(f"    {commands.cnnbench('run', *both)}", err=False)


def _write(scaffold: Scaffold) -> None:
    """Writes the file, copies of its parents, and the schema that its first line names.

    Raises:
      StoreError: the disk cannot be written.
    """
    folder = scaffold.path.parent
    try:
        for place, source in scaffold.copies.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, source.read_bytes())
        write_atomic(scaffold.path, scaffold.text.encode())
        write_atomic(folder / FILE, schema_text(block_names(_readers(folder))).encode())
    except OSError as error:
        raise cannot_write(scaffold.path, error, "name a file in another folder") from error


def _readers(folder: Path) -> list[Path]:
    """Files whose first line names the schema in their folder, and that can be read."""
    found = []
    for path in sorted(folder.glob("*.y*ml")):
        with suppress(OSError, SpecError):
            if FILE.encode() in path.read_bytes().partition(b"\n")[0]:
                block_names([path])
                found.append(path)
    return found


def schema(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="Experiments whose blocks and parameters are completed, too: names or files.",
            autocompletion=complete_experiments,
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write instead of standard output.", metavar="FILE"
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of experiment files, for editors."""
    text = schema_text(block_names(map(_file_of, experiments or [])))
    if output is None:
        print_document(text, "json")
    else:
        write_file("--output", output, text.encode())


def _file_of(word: str) -> Path:
    """The file of an experiment given by name or path."""
    named = find_named(word)
    return named.path if named else Path(word)
