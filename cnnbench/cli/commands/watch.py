"""``cnnbench watch``: shows an experiment file whenever it is saved; Enter compares quickly."""

import os
import select
import sys
from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Annotated, Protocol, Self

import typer

from cnnbench.cli.commands.show import print_layers
from cnnbench.cli.completion import complete_datasets, complete_experiments
from cnnbench.cli.looks import check_seed_test
from cnnbench.cli.options import (
    DataDir,
    Device,
    DeviceOption,
    Engine,
    EngineOption,
    TestOption,
    option_overrides,
    spec_path,
    test_name,
)
from cnnbench.cli.progress import listening
from cnnbench.cli.terminal import stderr, stdout, tell
from cnnbench.comparisons.comparison import JUDGED, Comparison, compare
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import criteria_words, verdict_lines
from cnnbench.data.catalog import EMBEDDED
from cnnbench.errors import CnnbenchError, UsageError
from cnnbench.report.columns import TableOptions
from cnnbench.report.comparison import terminal_table
from cnnbench.runner.distributed import run_requests
from cnnbench.runner.run import Request, check_all
from cnnbench.spec.diff import Differences, differences
from cnnbench.spec.inheritance import lineage
from cnnbench.spec.loader import Loaded, load_experiment
from cnnbench.system import commands
from cnnbench.system.signals import handle_signals

POLL_S = 0.1
BRIEF = TableOptions(brief=True)  # a short screen has no room for footnotes
ENTER, LEAVE = ("\n", "\r"), ("q", "Q", "\x04")
Stamp = tuple[tuple[int, int, int] | None, ...]
END = "\x04"  # Ctrl-D; also returned at the end of the input


def watch(  # noqa: PLR0913, PLR0917 - one parameter per option
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="Experiment file or name.",
            autocompletion=complete_experiments,
        ),
    ],
    seeds: Annotated[int, typer.Option(help="Number of seeds.", metavar="N", min=2)] = 6,
    epochs: Annotated[int, typer.Option(help="Number of epochs.", metavar="N", min=1)] = 5,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Dataset to train on; default: mnist_5k, or the experiment's own images.",
            metavar="NAME",
            autocompletion=complete_datasets,
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = Device.AUTO,
    engine: EngineOption = Engine.FAST,  # auto-tuning takes longer than it saves
    test: TestOption = None,
    once: Annotated[bool, typer.Option("--once", help="Check and show once, then exit.")] = False,
    results_dir: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder for these runs, separate from those of other commands."
        ),
    ] = Path("results/.watch"),
    data_dir: DataDir = None,
) -> None:
    """Check a file on every save; press Enter for a quick comparison."""
    file = spec_path(spec)
    if once or not file.is_file():
        load_experiment(file, data_dir=data_dir)
        _print(read_draft(file, data_dir), file)
        return
    if find_spec("termios") is None:  # Windows
        raise UsageError("watch: needs a Unix terminal; use --once to show the file once.")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("watch: needs a terminal; use --once to show the file once.")
    quick = QuickCompare(
        seeds,
        epochs,
        dataset,
        device.value,
        engine.value,
        results_dir,
        data_dir,
        Criteria(test=test_name(test)),
    )
    with handle_signals(), Keyboard() as keys:
        follow(WatchView(file, quick), keys)


@dataclass(frozen=True, slots=True)
class QuickCompare:
    """Settings of a quick comparison: the options of the command.

    If `dataset` is None, uses that of the experiment.
    """

    seeds: int
    epochs: int
    dataset: str | None
    device: str
    engine: str
    results_dir: Path
    data_dir: Path | None
    criteria: Criteria = JUDGED

    def __str__(self) -> str:
        epochs = "epoch" if self.epochs == 1 else "epochs"
        data = f" on {self.dataset}" if self.dataset else ""
        return f"{self.epochs} {epochs}{data} with {self.seeds} seeds"

    def for_data(self, loaded: Loaded | None) -> "QuickCompare":
        """Returns settings with the embedded digits, unless the experiment has its own images."""
        if self.dataset or (loaded and loaded.experiment.dataset.name is None):
            return self
        return replace(self, dataset=EMBEDDED)

    def whole(self, parent: Path, path: Path) -> str:
        """Returns the command line that compares them with all data and epochs."""
        data = () if self.data_dir is None else ("--data-dir", self.data_dir)
        words = criteria_words(self.criteria)
        return commands.cnnbench("run", parent, path, "--seeds", "6", *words, *data)

    def requests(self, paths: tuple[Path, Path]) -> list[Request]:
        """Returns a request for each; finished trainings are not repeated."""
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
    """The content of a file at one time.

    Args:
      files: the file, its parent, and so on.
      stamp: their stamp before they were read, so that no later change is missed.
      loaded: the experiment; None if it is invalid.
      issues: its errors as text; empty if it is valid.
      parent: the experiment that it extends; None if that cannot be loaded.
      found: differences from the parent.
      obstacle: why the two cannot be compared; empty if they can.
    """

    files: tuple[Path, ...]
    stamp: Stamp
    loaded: Loaded | None = None
    issues: str = ""
    parent: Loaded | None = None
    found: Differences | None = None
    obstacle: str = ""


def read_draft(path: Path, data_dir: Path | None = None) -> Draft:
    """Reads and checks a file; never raises an error about its content.

    Args:
      path: the file.
      data_dir: folder of datasets outside the built-in table.
    """
    first = stamp([path])
    files = lineage(path)
    stamped = first + stamp(files[1:])
    try:
        loaded = load_experiment(path, data_dir=data_dir)
    except CnnbenchError as error:
        obstacle = "Fix the errors above to enable training"
        return Draft(files, stamped, issues=str(error), obstacle=obstacle)
    if len(files) == 1:
        obstacle = f"{path} extends no other file to compare it with"
        return Draft(files, stamped, loaded, obstacle=obstacle)
    try:
        parent = load_experiment(files[1], data_dir=data_dir)
    except CnnbenchError as error:
        issue = str(error).splitlines()[0]
        obstacle = f"{files[1]} is not a complete experiment to compare with ({issue})"
        return Draft(files, stamped, loaded, obstacle=obstacle)
    found = differences(parent, loaded)
    return Draft(files, stamped, loaded, "", parent, found, _obstacle(loaded, parent, found))


def _obstacle(loaded: Loaded, parent: Loaded, found: Differences) -> str:
    if loaded.experiment.model.python or parent.experiment.model.python:
        # Python imports a module once, and would train an outdated class.
        run = commands.cnnbench("run")
        return f"Compare Python models with `{run}`, which reloads their source"
    if not found.lines:
        return f"No differences from {parent.experiment.type_title} yet"
    return ""


def stamp(files: Iterable[Path]) -> Stamp:
    """Returns a value that changes when a file is saved, also by an editor that replaces it."""
    return tuple(_stamp(file) for file in files)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except (OSError, ValueError):  # replaced at the moment; a null byte in a name
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class WatchView:
    """The display of a file on a terminal.

    Args:
      path: the file.
      quick: settings of comparisons.
    """

    def __init__(self, path: Path, quick: QuickCompare) -> None:
        self.path, self.quick = path, quick
        self.draft: Draft | None = None
        self.verdicts: list[str] = []

    def stamp(self) -> Hashable:
        """Returns a value that changes when the file or one of its parents is saved."""
        return stamp(self.draft.files if self.draft else [self.path])

    def draw(self) -> Hashable:
        """Clears the terminal, and shows layers or errors."""
        self.draft = read_draft(self.path, self.quick.data_dir)
        stdout().clear()
        _print(self.draft, self.path)
        for line in self.verdicts:
            _say(f"Before the last change: {line}\n")
        return self.draft.stamp

    def enter(self) -> None:
        """Trains the file and its parent, and prints table and verdict."""
        if self.draft and not self.draft.obstacle:
            parent, path, quick = self.draft.files[1], self.path, self._settings()
            try:
                comparison = _compare(quick.requests((parent, path)), quick.criteria)
            except CnnbenchError as error:
                _say(f"{error}\n")
            else:
                self.verdicts = verdict_lines(comparison.verdicts)
                stdout().print(terminal_table([comparison], wide=False, look=BRIEF))
                tell(f"That was a quick comparison: {quick}. For a full one, run:\n", err=False)
                tell(f"    {quick.whole(parent, path)}\n", err=False)

    def ask(self) -> None:
        """Prints the available keys."""
        obstacle = self.draft.obstacle if self.draft else ""
        if obstacle:
            _say(f"{obstacle}. Press q to quit.")
        else:
            _say(f"Press Enter to train both ({self._settings()}), q to quit.")

    def _settings(self) -> QuickCompare:
        return self.quick.for_data(self.draft.loaded if self.draft else None)


def _print(draft: Draft, path: Path) -> None:
    if draft.loaded:
        print_layers(draft.loaded, path, draft.parent, draft.found)
    else:
        _say(f"{draft.issues}\n")


def _say(text: str) -> None:
    """Prints text, wrapped between words."""
    stdout().print(text, highlight=False, markup=False)


def _compare(requests: list[Request], criteria: Criteria) -> Comparison:
    """Trains and compares experiments as `cnnbench run` does.

    Raises:
      CnnbenchError: one cannot be trained, or they are not comparable so.
    """
    check_all(requests)
    check_seed_test(criteria.test, requests)
    with listening(stderr(), len(requests), tables=False) as listeners:
        return compare(run_requests(requests, listeners), criteria)


class Keys(Protocol):
    """A source of keys."""

    def key(self, seconds: float) -> str:
        """Returns the next key; empty if none is pressed within `seconds`."""

    def lent(self) -> AbstractContextManager[None]:
        """Suspends reading keys while its body runs."""


class View(Protocol):
    """A display of something that changes."""

    def stamp(self) -> Hashable:
        """Returns a value that changes whenever the display is outdated."""

    def draw(self) -> Hashable:
        """Refreshes the display, and returns the stamp from before it was read."""

    def enter(self) -> None:
        """Handles Enter."""

    def ask(self) -> None:
        """Prints the available keys."""


def follow(view: View, keys: Keys) -> None:
    """Refreshes a display whenever something is saved, until a key quits.

    Nothing is drawn while it changes: an editor may empty a file before it writes it, or replace
    it, and the content in between is not what the user wrote.

    Args:
      view: the display.
      keys: the source of keys.
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
            view.ask()  # not earlier: keys pressed before reading resumes are lost


class Keyboard:
    """Reads single keys from standard input, a terminal, until the `with` block ends."""

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
        """Returns the next key; empty if none is pressed within `seconds`."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return ""
        return os.read(self.descriptor, 1).decode(errors="replace") or END

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Restores the terminal while the body runs; keys pressed meanwhile are discarded.

        A second Ctrl-C ends the process at once, and must not leave a terminal without echo.
        """
        import termios
        import tty

        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self.usual)
        try:
            yield
        finally:
            tty.setcbreak(self.descriptor, termios.TCSAFLUSH)
