"""``cnnbench new`` and ``cnnbench schema``: help with writing experiment files."""

from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.completion import complete_datasets, complete_experiments
from cnnbench.cli.options import DataDir, ResultsDir
from cnnbench.cli.terminal import print_document, tell, write_file
from cnnbench.data.own.folder import few
from cnnbench.errors import SpecError, UsageError, cannot_write
from cnnbench.formatting import clean
from cnnbench.layers.base import shape_text
from cnnbench.spec.json_schema import FILE, block_names, schema_text
from cnnbench.spec.scaffold.extending import Scaffold, scaffold_experiment
from cnnbench.spec.shipped import ENDINGS, find_named
from cnnbench.system import commands
from cnnbench.system.files import write_atomic

if TYPE_CHECKING:
    from cnnbench.data.inspection.survey import Survey


def new(
    parent: Annotated[
        str | None,
        typer.Argument(
            metavar="PARENT",
            help="Experiment to extend: a name such as modified, or a file.",
            autocompletion=complete_experiments,
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="File to write. With --data, it may be omitted: it is named after the data.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Instead of PARENT: a folder of images, array files, or the name of a dataset.",
            metavar="DATA",
            autocompletion=complete_datasets,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the experiment; default: that of the file.", metavar="NAME"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Create an experiment file that extends another one, or that fits a dataset."""
    if data is not None:
        if file is not None:
            raise UsageError(
                f"--data: an experiment for a dataset extends no other; remove {parent} or --data."
            )
        _new_for_data(data, parent, name, force, data_dir, results_dir)
        return
    if parent is None or file is None:
        what = "PARENT" if parent is None else "FILE"
        command = commands.cnnbench("new")
        usage = f"{command} PARENT FILE, or {command} FILE --data FOLDER"
        raise UsageError(f"{command}: {what} is missing; write: {usage}")
    _refuse_existing(file, force=force)
    replaces = file.exists()
    scaffold = scaffold_experiment(file, _file_of(parent), name)
    _refuse_runs(scaffold, results_dir, replaces=replaces)
    _write(scaffold)
    tell(f"wrote {file}, which extends {scaffold.parent}", err=False)
    if scaffold.copies:
        tell(f"copied {', '.join(map(str, scaffold.copies))}", err=False)
    both = (scaffold.parent or "", file, "--seeds", "6", *commands.results_dir_option(results_dir))
    tell("Edit it, then run:\n", err=False)
    tell(f"    {commands.cnnbench('watch', file)}", err=False)
    tell(f"    {commands.cnnbench('run', *both)}", err=False)


def _new_for_data(
    data: str,
    file: str | None,
    name: str | None,
    force: bool,
    data_dir: Path | None,
    results_dir: Path,
) -> None:
    """Writes an experiment for a dataset, and prints what it was derived from."""
    from cnnbench.data.inspection.survey import survey
    from cnnbench.data.places import find_place
    from cnnbench.spec.scaffold.for_data import (
        default_path,
        scaffold_for_arrays,
        scaffold_for_folder,
    )

    place = find_place(data, data_dir)
    path = default_path(place) if file is None else _with_ending(Path(file))
    _refuse_existing(path, force=force)
    replaces = path.exists()
    if place.key == "folder":
        found = survey(Path(place.value))
        scaffold = scaffold_for_folder(path, place, found, name)
        lines = list(_found_lines(found))
    else:
        info = place.info(data_dir)
        scaffold = scaffold_for_arrays(path, place, info, name)
        lines = [
            f"{place.value}: images of {shape_text(info.shape)}, {info.num_classes:,} classes."
        ]
    _refuse_runs(scaffold, results_dir, replaces=replaces)
    _write(scaffold)
    for line in lines:
        tell(line, err=False)
    tell(f"wrote {path}", err=False)
    tell("Next:\n", err=False)
    own = () if data_dir is None else ("--data-dir", data_dir)
    picture = ("-o", path.with_suffix(".png"))
    tell(f"    {commands.cnnbench('data', 'inspect', place.value, *picture, *own)}", err=False)
    options = (*own, *commands.results_dir_option(results_dir))
    tell(f"    {commands.cnnbench('run', path, *options)}", err=False)
    tell(f"    {commands.cnnbench('new', path, path.with_name('my_idea.yaml'))}", err=False)


def _found_lines(found: "Survey") -> Iterator[str]:
    """What was found in a folder of images, a line each."""
    from cnnbench.report.data_inspection import header_lines

    (least, low), *_, (most, high) = sorted(found.counts.items(), key=itemgetter(1))
    classes = f"{low:,} ({clean(least)}) to {high:,} ({clean(most)}) per class"
    each = f"{low:,} per class" if low == high else classes
    yield f"Found {found.num_images:,} images in {len(found.counts):,} classes, {each}."
    if found.is_sample:
        yield f"Of {len(found.headers):,} of them:"
    yield from header_lines(found.headers)
    if found.broken:
        yield f"Cannot be read: {few([clean(name) for name in found.broken])}."


def _with_ending(file: Path) -> Path:
    """The path of an experiment file, of which a name is enough."""
    return file if file.suffix in ENDINGS else file.with_name(f"{file.name}.yaml")


def _refuse_existing(file: Path, *, force: bool) -> None:
    if file.exists() and not force:
        raise UsageError(f"{file}: already exists; name another file, or add --force.")


def _refuse_runs(scaffold: Scaffold, results_dir: Path, *, replaces: bool) -> None:
    if not replaces and (results_dir / scaffold.name).exists():
        message = f"{results_dir / scaffold.name} has runs of another experiment with that name"
        raise UsageError(f"{message}; choose another name with --name.")


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
