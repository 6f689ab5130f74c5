"""``cnnbench watch``: an experiment file as it is saved, and on Enter a quick comparison."""

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.commands.data import DataDir
from cnnbench.cli.commands.show import print_layers
from cnnbench.cli.options import (
    Device,
    DeviceOption,
    Engine,
    EngineOption,
    option_overrides,
    spec_path,
)
from cnnbench.cli.terminal import stderr, stdout, tell
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.system import commands
from cnnbench.system.signals import handle_signals

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cnnbench.cli.draft import Draft
    from cnnbench.compare.comparison import Comparison
    from cnnbench.runner.run import Request


def watch(  # noqa: PLR0913, PLR0917 - one parameter per option
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="The experiment file, or its name.")],
    seeds: Annotated[int, typer.Option(help="Seeds to compare.", metavar="N", min=2)] = 6,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", metavar="N", min=1)] = 5,
    dataset: Annotated[str, typer.Option(help="What to train on.", metavar="NAME")] = "mnist_5k",
    device: DeviceOption = Device.AUTO,
    engine: EngineOption = Engine.FAST,  # measuring takes longer than it would save
    once: Annotated[bool, typer.Option("--once", help="Check and show, then end.")] = False,
    results_dir: Annotated[
        Path, typer.Option(help="Where runs are kept; not where other commands look.")
    ] = Path("results/.watch"),
    data_dir: DataDir = None,
) -> None:
    """Check and show a file as it is saved; Enter compares it with the one it extends."""
    from cnnbench.cli.draft import read_draft
    from cnnbench.spec.loader import load_experiment

    file = spec_path(spec)
    if once or not file.is_file():
        load_experiment(file, data_dir=data_dir)
        _print(read_draft(file, data_dir), file)
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("watch: reads keys, and this is no terminal; add --once to show it once.")
    from cnnbench.cli.file_changes import follow
    from cnnbench.cli.keyboard import Keyboard

    quick = Quick(seeds, epochs, dataset, device.value, engine.value, results_dir, data_dir)
    with handle_signals(), Keyboard() as keys:
        follow(Sheet(file, quick), keys)


@dataclass(frozen=True, slots=True)
class Quick:
    """How two experiments are compared in a minute; the options of the command."""

    seeds: int
    epochs: int
    dataset: str
    device: str
    engine: str
    results_dir: Path
    data_dir: Path | None

    def __str__(self) -> str:
        epochs = "epoch" if self.epochs == 1 else "epochs"
        return f"{self.epochs} {epochs} on {self.dataset} with {self.seeds} seeds"

    def whole(self, parent: Path, path: Path) -> str:
        """The command line that compares them with all data and epochs."""
        data = () if self.data_dir is None else ("--data-dir", self.data_dir)
        return commands.cnnbench("run", parent, path, "--seeds", "6", *data)

    def requests(self, paths: "tuple[Path, Path]") -> "list[Request]":
        """A training of each; what has been trained already is not trained again."""
        from cnnbench.runner.run import Request

        overrides = option_overrides(str(self.seeds), self.epochs, self.dataset)
        return [
            Request(
                path,
                overrides,
                results_dir=self.results_dir,
                data_dir=self.data_dir,
                device=self.device,
                engine=self.engine,
                command=["cnnbench", *sys.argv[1:]],
                needed=True,
            )
            for path in paths
        ]


class Sheet:
    """A file on a terminal.

    Args:
      path: the file.
      quick: how it is compared.
    """

    def __init__(self, path: Path, quick: Quick) -> None:
        self.path, self.quick = path, quick
        self.draft: Draft | None = None
        self.verdicts: list[str] = []

    def stamp(self) -> Hashable:
        """Another one whenever the file, or one that it extends, was saved."""
        from cnnbench.cli.draft import stamp

        return stamp(self.draft.files if self.draft else [self.path])

    def draw(self) -> Hashable:
        """Clears the terminal, and shows the layers or what is wrong."""
        from cnnbench.cli.draft import read_draft

        self.draft = read_draft(self.path, self.quick.data_dir)
        stdout().clear()
        _print(self.draft, self.path)
        for line in self.verdicts:
            _say(f"Before it was saved: {line}\n")
        return self.draft.stamp

    def enter(self) -> None:
        """Trains the file and what it extends, and says what came of it."""
        if self.draft and not self.draft.obstacle:
            parent, path = self.draft.files[1], self.path
            try:
                table = self._table(_compare(self.quick.requests((parent, path))))
            except CnnbenchError as error:
                _say(f"{error}\n")
            else:
                console = stdout()
                console.print(table)
                tell(f"That was quick: {self.quick}. With all data and epochs:\n", err=False)
                tell(f"    {self.quick.whole(parent, path)}\n", err=False)
                if len(console.render_lines(table)) > console.height - 8:
                    for line in self.verdicts:  # which have left the screen
                        _say(f"{line}\n")

    def _table(self, comparison: "Comparison") -> "RenderableType":
        from cnnbench.compare.verdict_text import verdict_lines
        from cnnbench.report.comparison import terminal_table

        self.verdicts = verdict_lines(comparison.verdicts)
        return terminal_table([comparison], wide=False)

    def ask(self) -> None:
        """Says what can be done."""
        obstacle = self.draft.obstacle if self.draft else ""
        what = f"{obstacle}." if obstacle else f"Enter trains both: {self.quick}."
        _say(f"{what} Saving redraws, q ends.")


def _print(draft: "Draft", path: Path) -> None:
    if draft.loaded:
        print_layers(draft.loaded, path, draft.parent, draft.found)
    else:
        _say(f"{draft.issues}\n")


def _say(text: str) -> None:
    """Prints text that is broken between words."""
    stdout().print(text, highlight=False, markup=False)


def _compare(requests: "list[Request]") -> "Comparison":
    """As `cnnbench run` and `cnnbench compare` do.

    Raises:
      CnnbenchError: one cannot be trained, or they cannot be compared.
    """
    from cnnbench.cli.progress import listening
    from cnnbench.compare.comparison import compare
    from cnnbench.runner.run import check_all, run_by_turns

    check_all(requests)
    with listening(stderr(), len(requests), tables=False) as listeners:
        return compare(run_by_turns(requests, listeners))
