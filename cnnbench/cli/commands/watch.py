"""``cnnbench watch``: an experiment file as it is saved, and on Enter a quick comparison."""

import os
import select
import sys
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Annotated, Protocol, Self

import typer
from rich.console import RenderableType

from cnnbench.cli.commands.show import print_layers
from cnnbench.cli.completion import complete_datasets, complete_experiments
from cnnbench.cli.options import (
    DataDir,
    Device,
    DeviceOption,
    Engine,
    EngineOption,
    option_overrides,
    spec_path,
)
from cnnbench.cli.progress import listening
from cnnbench.cli.terminal import stderr, stdout, tell
from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.verdict_text import verdict_lines
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.report.comparison import terminal_table
from cnnbench.runner.run import Request, check_all, run_by_turns
from cnnbench.spec.diff import Differences, differences
from cnnbench.spec.inheritance import lineage
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system import commands
from cnnbench.system.signals import handle_signals

POLL_S = 0.1
ENTER, LEAVE = ("\n", "\r"), ("q", "Q", "\x04")
Stamp = tuple[tuple[int, int, int] | None, ...]
END = "\x04"  # Ctrl-D, and what stands for the end of the input


def watch(  # noqa: PLR0913, PLR0917 - one parameter per option
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="The experiment file, or its name.",
            autocompletion=complete_experiments,
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Seeds to compare.", metavar="N", min=2)] = 6,
    epochs: Annotated[int, typer.Option(help="Passes over the data.", metavar="N", min=1)] = 5,
    dataset: Annotated[
        str,
        typer.Option(help="What to train on.", metavar="NAME", autocompletion=complete_datasets),
    ] = "mnist_5k",
    device: DeviceOption = Device.AUTO,
    engine: EngineOption = Engine.FAST,  # measuring takes longer than it would save
    once: Annotated[bool, typer.Option("--once", help="Check and show, then end.")] = False,
    results_dir: Annotated[
        Path, typer.Option(help="Where runs are kept; not where other commands look.")
    ] = Path("results/.watch"),
    data_dir: DataDir = None,
) -> None:
    """Check and show a file as it is saved; Enter compares it with the one it extends."""
    file = spec_path(spec)
    if once or not file.is_file():
        load_experiment(file, data_dir=data_dir)
        _print(read_draft(file, data_dir), file)
        return
    if find_spec("termios") is None:  # Windows
        raise UsageError("watch: reads keys of a Unix terminal; add --once to show it once.")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("watch: reads keys, and this is no terminal; add --once to show it once.")
    quick = QuickCompare(seeds, epochs, dataset, device.value, engine.value, results_dir, data_dir)
    with handle_signals(), Keyboard() as keys:
        follow(WatchView(file, quick), keys)


@dataclass(frozen=True, slots=True)
class QuickCompare:
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

    def requests(self, paths: tuple[Path, Path]) -> list[Request]:
        """A training of each; what has been trained already is not trained again."""
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


@dataclass(frozen=True, slots=True)
class Draft:
    """What a file says at a moment.

    Args:
      files: the file, the one that it extends, and so on.
      stamp: theirs before they were read, so that no later change is missed.
      loaded: the experiment; None where it is wrong.
      issues: what is wrong with it, as text; empty where nothing is.
      parent: the experiment that it extends; None where that cannot be had.
      found: how it differs from that.
      obstacle: why the two cannot be trained and compared; empty where they can.
    """

    files: tuple[Path, ...]
    stamp: Stamp
    loaded: Loaded | None = None
    issues: str = ""
    parent: Loaded | None = None
    found: Differences | None = None
    obstacle: str = ""


def read_draft(path: Path, data_dir: Path | None = None) -> Draft:
    """Reads and checks a file, whatever is wrong with it.

    Args:
      path: the file.
      data_dir: where datasets outside the built-in table are looked up.
    """
    first = stamp([path])
    files = lineage(path)
    stamped = first + stamp(files[1:])
    try:
        loaded = load_experiment(path, data_dir=data_dir)
    except CnnbenchError as error:
        obstacle = "Nothing is trained before that is mended"
        return Draft(files, stamped, issues=str(error), obstacle=obstacle)
    if len(files) == 1:
        obstacle = f"{path} extends no other file, so there is nothing to compare it with"
        return Draft(files, stamped, loaded, obstacle=obstacle)
    try:
        parent = load_experiment(files[1], data_dir=data_dir)
    except CnnbenchError as error:
        why = f"{files[1]} is no experiment by itself ({str(error).splitlines()[0]})"
        obstacle = f"{why}, so there is nothing to compare with"
        return Draft(files, stamped, loaded, obstacle=obstacle)
    found = differences(parent, loaded)
    return Draft(files, stamped, loaded, "", parent, found, _obstacle(loaded, parent, found))


def _obstacle(loaded: Loaded, parent: Loaded, found: Differences) -> str:
    if loaded.experiment.model.python or parent.experiment.model.python:
        # Python imports a module once, and would train yesterday's class.
        run = commands.cnnbench("run")
        return f"A Python model is compared by `{run}`, which reads its source again"
    if not found.lines:
        return f"Nothing is different from {parent.experiment.type_title} yet"
    return ""


def stamp(files: Iterable[Path]) -> Stamp:
    """What changes when one of the files is saved, also by an editor that replaces it."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):  # gone for the moment; a null byte in a name
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class WatchView:
    """A file on a terminal.

    Args:
      path: the file.
      quick: how it is compared.
    """

    def __init__(self, path: Path, quick: QuickCompare) -> None:
        self.path, self.quick = path, quick
        self.draft: Draft | None = None
        self.verdicts: list[str] = []

    def stamp(self) -> Hashable:
        """Another one whenever the file, or one that it extends, was saved."""
        return stamp(self.draft.files if self.draft else [self.path])

    def draw(self) -> Hashable:
        """Clears the terminal, and shows the layers or what is wrong."""
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

    def _table(self, comparison: Comparison) -> RenderableType:
        self.verdicts = verdict_lines(comparison.verdicts)
        return terminal_table([comparison], wide=False)

    def ask(self) -> None:
        """Says what can be done."""
        obstacle = self.draft.obstacle if self.draft else ""
        what = f"{obstacle}." if obstacle else f"Enter trains both: {self.quick}."
        _say(f"{what} Saving redraws, q ends.")


def _print(draft: Draft, path: Path) -> None:
    if draft.loaded:
        print_layers(draft.loaded, path, draft.parent, draft.found)
    else:
        _say(f"{draft.issues}\n")


def _say(text: str) -> None:
    """Prints text that is broken between words."""
    stdout().print(text, highlight=False, markup=False)


def _compare(requests: list[Request]) -> Comparison:
    """As `cnnbench run` and `cnnbench compare` do.

    Raises:
      CnnbenchError: one cannot be trained, or they cannot be compared.
    """
    check_all(requests)
    with listening(stderr(), len(requests), tables=False) as listeners:
        return compare(run_by_turns(requests, listeners))


class Keys(Protocol):
    """Where keys come from."""

    def key(self, seconds: float) -> str:
        """The next key; empty where none is pressed in so many seconds."""

    def lent(self) -> AbstractContextManager[None]:
        """Keys are not read for as long."""


class View(Protocol):
    """What is followed, and where it is shown."""

    def stamp(self) -> Hashable:
        """Another one whenever what is followed was saved."""

    def draw(self) -> Hashable:
        """Shows it, and returns the stamp that it had when it was read."""

    def enter(self) -> None:
        """What Enter is for."""

    def ask(self) -> None:
        """Says which keys there are."""


def follow(view: View, keys: Keys) -> None:
    """Draws whenever something was saved, until a key ends it.

    Nothing is drawn while it changes: an editor may empty a file before it writes it, or put a
    new one in its place, and what is there in between is not what anybody wrote.

    Args:
      view: what is followed.
      keys: where keys come from.
    """
    drawn = before = view.draw()
    view.ask()
    while (key := keys.key(POLL_S)) not in LEAVE:
        now = view.stamp()
        if now != drawn and (now == before or key in ENTER):
            drawn = now = view.draw()
            view.ask()
        before = now
        if key in ENTER:
            with keys.lent():
                view.enter()
            view.ask()  # no sooner: what is pressed before the keys are back is lost


class Keyboard:
    """Standard input in a mode for keys, until the `with` block ends. It is a terminal."""

    def __init__(self) -> None:
        self.descriptor = sys.stdin.fileno()

    def __enter__(self) -> Self:
        import termios
        import tty

        self.usual = termios.tcgetattr(self.descriptor)
        tty.setcbreak(self.descriptor, termios.TCSANOW)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import termios

        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.usual)

    def key(self, seconds: float) -> str:
        """The next key; empty where none is pressed in so many seconds."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return ""
        return os.read(self.descriptor, 1).decode(errors="replace") or END

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Gives the terminal back for as long; keys that are pressed meanwhile do not count.

        A second Ctrl-C ends the process at once, and must not leave a terminal without an echo.
        """
        import termios
        import tty

        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.usual)
        try:
            yield
        finally:
            tty.setcbreak(self.descriptor, termios.TCSAFLUSH)
