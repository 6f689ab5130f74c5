"""Progress of runs: bars on a terminal, a line per epoch or per seed elsewhere."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import NamedTuple, assert_never

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from cnnbench.cli.screen.tally import (
    RunProgress,
    Tally,
    counts_text,
    left_text,
    seconds_left,
    shortened,
)
from cnnbench.formatting import clean, epochs_text, escape_controls, percent_text, seconds_text
from cnnbench.report.layer_table import layer_table
from cnnbench.report.sparkline import sparkline
from cnnbench.runs.records import EpochRecord, RunRecord, SeedSummary
from cnnbench.spec.experiment import Precision
from cnnbench.spec.loader import Loaded
from cnnbench.spec.metrics import DEFAULT_METRICS, metric_text, words
from cnnbench.system import commands
from cnnbench.system.ascii_forms import in_encoding
from cnnbench.system.progress import CountDone, Display, FileWork, ProgressLines, shown_by
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Remark,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)

WIDTH = 80  # columns of a log
BFLOAT16_ON_CPU = (
    "train.precision: bfloat16 was slower than float32 on a CPU: 5,400 images/s instead of 13,900"
    " (Keras' MNIST convnet, 2 cores with bfloat16 products);"
    f" `{commands.cnnbench('bench')}` compares both."
)
_EVERY = 0.05  # seconds between two updates of a bar for files
MOST_BARS = 8  # of runs
BAR = 24  # columns of a short bar, of the time left, and of the gaps between them


def count_event(work: RunProgress, event: Event) -> None:
    """Counts an event of a training.

    Args:
      work: the run.
      event: the event.
    """
    match event:
        case Resumed(records=records):
            work.done = len(records)
        case Compiled(compile_s=compile_s):
            work.compile_s = compile_s
        case EpochRecord(seed=seed):
            work.add_epoch(seed, event.train_s + event.eval_s, monotonic())
        case SeedDone(summary=summary):
            work.running.discard(summary.seed)
            work.seeds_done += 1
            work.done = max(work.done, work.seeds_done * work.epochs)


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """Prints a line; a terminal wraps it between words unless it has a command to copy."""
    whole = not console.is_terminal or "cnnbench " in text
    text = escape_controls(text)
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=whole)


class Silent:
    """A listener that prints notes only, for `--quiet`.

    Args:
      console: where notes are printed; never where results are.

    Attributes:
      folder: the run's folder, once its files are complete.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.folder: Path | None = None

    def loaded(self, loaded: Loaded) -> None:
        """Prints nothing."""

    def note(self, text: str) -> None:
        """Prints a note, such as one on a stand-in dataset."""
        self.say(text, "yellow")

    def say(self, text: str, style: str | None = None) -> None:
        """Prints a line, as `print_line`."""
        print_line(self.console, text, style)

    def started(self, record: RunRecord, num_steps: int) -> None:
        """Prints nothing."""

    def event(self, event: Event) -> None:
        """Prints nothing."""

    def look(self, text: str) -> None:
        """Prints nothing."""

    def running(self, text: str) -> None:
        """Prints nothing."""

    def failed(self, reason: str) -> None:
        """Prints why the run cannot be trained."""
        self.note(f"failed: {reason}")

    def finished(self, folder: Path) -> None:
        """Remembers the folder; where it is printed depends on the command."""
        self.folder = folder


class Lines(Silent):
    """A log for files and pipes: a line per epoch, or per seed if there are several.

    Args:
      console: where lines are printed.
      several: True if other runs print there too, so that lines need a title.
      tables: True to print the layers of each network first.
      verbose: True to print every epoch of several seeds, and details.
      tally: the runs of the command.
      work: the run, if the tally has it already.
    """

    def __init__(
        self,
        console: Console,
        *,
        several: bool = False,
        tables: bool = True,
        verbose: bool = False,
        tally: Tally | None = None,
        work: RunProgress | None = None,
    ) -> None:
        super().__init__(console)
        self.tally, self.work = tally or Tally(), work or RunProgress(1, 1)
        self.several, self.tables, self.verbose = several, tables, verbose
        self.title, self.num_seeds, self.epochs, self.seeds_done = "", 1, 0, 0
        self.ended: list[EpochRecord] = []  # of a seed
        self.precision: Precision = "float32"

    @property
    def prefix(self) -> str:
        """The title in front of a message; empty for a single run."""
        return f"{self.title}: " if self.title else ""

    def loaded(self, loaded: Loaded) -> None:
        """Prints the layer table."""
        experiment = loaded.experiment
        self.precision = experiment.train.precision
        self.work.seeds, self.work.epochs = len(experiment.seeds), experiment.train.epochs
        self._counted()
        if self.several:
            self.title = in_encoding(clean(experiment.type_title), self.console.encoding)
        if not self.tables:
            return
        if loaded.plan is not None:
            table = layer_table(loaded.plan, experiment.type_title, blocks=loaded.blocks)
            self.console.print(table, "")
        else:
            self.say(f"{experiment.type_title}: {experiment.model.python}")

    def started(self, record: RunRecord, num_steps: int) -> None:  # noqa: ARG002 - bars use it
        """Prints what is about to be trained."""
        self._begin(record)
        self.say(f"{self.prefix}compiling ...")

    def _begin(self, record: RunRecord) -> None:
        self.num_seeds, self.epochs, self.seeds_done = len(record.seeds), record.epochs, 0
        self.work.seeds, self.work.epochs = len(record.seeds), record.epochs
        self.say(start_line(record))
        if self.precision == "bfloat16" and record.environment.device_kind == "cpu":
            self.note(f"{self.prefix}{BFLOAT16_ON_CPU}")
        for change in record.dataset.changes:
            self.say(f"{self.prefix}{change}")
        if self.verbose:
            self.say(f"{self.prefix}images from {record.dataset.source}")
            self.say(f"{self.prefix}device {record.environment.device}")

    def event(self, event: Event) -> None:
        """Prints what an event reports."""
        count_event(self.work, event)
        self._print(event)
        if isinstance(event, EpochRecord | SeedDone):
            self._say_counts()

    def _counted(self) -> None:
        """Adds the run to those of the command; that of bars does so itself."""
        self.tally.add(self.work)

    def _say_counts(self) -> None:
        """Prints from time to time what is done and left."""
        if text := self.tally.line(monotonic()):
            self._log(text)

    def failed(self, reason: str) -> None:
        """Prints why the run cannot be trained, and counts it as failed."""
        self.work.fail()
        self.note(f"{self.prefix}failed: {reason}")

    def finished(self, folder: Path) -> None:
        """Counts the run as done, with the seeds that it has if a rule stopped it."""
        self.work.finish(self.work.seeds_done or None)
        super().finished(folder)

    def _print(self, event: Event) -> None:
        match event:
            case Tuning():
                self.say(f"{self.prefix}auto-tuning the engine ...")
            case Remark(text=text):
                self.note(f"{self.title}: {text}")
            case Compiled():
                self.say(self.prefix + compiled_line(event, verbose=self.verbose))
            case Resumed():
                self.say(self.prefix + resumed_line(event, self.num_seeds * self.epochs))
            case EpochRecord():
                self.ended.append(event)
                if self._logs_epochs():
                    seeds = self.num_seeds > 1
                    self._log(epoch_line(event, self.epochs, self.title, seeds, self._width()))
            case SeedDone(summary=summary):
                self.seeds_done += 1
                if self._logs_seeds(summary):
                    place = self.seeds_done, self.num_seeds
                    self._log(seed_line(summary, place, self.title, self._width()))
                if any(epoch.data_s for epoch in self.ended):
                    self._log(f"{self.prefix}{waited_text(self.ended)}")
                self.ended = []
            case StepDone() | Snapshot() | Checkpoint() | Trained():
                pass
            case _:
                assert_never(event)

    def look(self, text: str) -> None:
        """Prints the verdict so far."""
        self.say(text)

    def _logs_epochs(self) -> bool:
        return self.verbose or self.num_seeds == 1

    def _logs_seeds(self, summary: SeedSummary) -> bool:
        """Returns True for one of several seeds, or if the last epoch does not say the result."""
        chosen = summary.chosen_epoch is not None
        return self.verbose or self.num_seeds > 1 or chosen or not summary.final

    def _log(self, line: str) -> None:
        self.console.print(escape_controls(line), highlight=False, markup=False, soft_wrap=True)

    def _width(self) -> int:
        return self.console.width if self.console.is_terminal else WIDTH


class Board:
    """The bars of a command: one for the epochs of each run, and one for the seeds of all.

    Of many runs, those that are trained have a bar.

    Args:
      console: the terminal.
      tally: the runs of the command.
    """

    def __init__(self, console: Console, tally: Tally | None = None) -> None:
        self.progress = make_progress(console)
        self.tally = tally or Tally()
        self.result = ""  # the difference so far and its interval
        self._seeds: TaskID | None = None
        self._runs: dict[TaskID, RunProgress] = {}

    @property
    def works(self) -> list[RunProgress]:
        """The runs of the command."""
        return self.tally.works

    def add(self, work: RunProgress) -> TaskID:
        """Adds the bar of a run, above the bar of all seeds."""
        self.tally.add(work)
        task = self._add()
        self._runs[task] = work
        if self._seeds is not None:
            self.progress.remove_task(self._seeds)
            self._seeds = None
        if sum(each.seeds for each in self.works) > 1:
            self._seeds = self._add()
        self.progress.start()
        return task

    def _add(self) -> TaskID:
        return self.progress.add_task("", total=None, said=Said(), rate="", curve="", left="")

    def update(self, task: TaskID, said: "Said", **counts: float | None) -> None:
        """Moves the bar of a run, and fits the texts of all bars into the terminal."""
        self.progress.update(task, said=said, **counts)  # type: ignore[arg-type]
        left = left_text(seconds_left(self.works))
        if self._seeds is None:
            self.progress.update(task, left=left)
        else:
            self._update_seeds(left)
        self._show_running()
        tasks = [each for each in self.progress.tasks if each.visible]
        texts = status([task.fields["said"] for task in tasks], self.progress.console.width - BAR)
        for each, (text, rate, curve) in zip(tasks, texts, strict=True):
            self.progress.update(each.id, description=text, rate=rate, curve=curve)

    def _show_running(self) -> None:
        """Hides the bars of runs that wait, if there are many, or few lines on the terminal."""
        most = max(1, min(MOST_BARS, self.progress.console.height - 2))
        shown = list(self._runs)
        if len(shown) > most:
            shown = [task for task, work in self._runs.items() if work.running][:most]
        for task in self.progress.tasks:
            if task.id in self._runs and task.visible != (task.id in shown):
                self.progress.update(task.id, visible=task.id in shown)

    def _update_seeds(self, left: str) -> None:
        assert self._seeds is not None
        total = sum(work.seeds for work in self.works)
        result = f", {self.result}" if self.result else ""
        room = self.progress.console.width - BAR - cell_len(result)
        self.progress.update(
            self._seeds,
            said=Said(place=counts_text(self.works, room) + result),
            completed=sum(work.seeds if work.ended else work.share for work in self.works),
            total=total,
            left=left,
        )

    def remove(self, task: TaskID) -> None:
        """Removes the bar of a run; the last one takes the bar of all seeds with it."""
        del self._runs[task]
        self.progress.remove_task(task)
        if not self._runs:
            if self._seeds is not None:
                self.progress.remove_task(self._seeds)
                self._seeds = None
            self.progress.stop()


class Bars(Lines):
    """A bar over the epochs of a seed, with accuracy and rate, for terminals.

    Args:
      board: the bars of the command.
      several: True if there are other runs.
      tables: True to print the layers of each network first.
      verbose: True to print a line per epoch and seed, too.
      work: the run, if the tally of the board has it already.
    """

    def __init__(
        self,
        board: Board,
        *,
        several: bool = False,
        tables: bool = True,
        verbose: bool = False,
        work: RunProgress | None = None,
    ) -> None:
        console = board.progress.console
        super().__init__(
            console, several=several, tables=tables, verbose=verbose, tally=board.tally, work=work
        )
        self.board = board
        self.task: TaskID | None = None
        self.num_steps, self.whole = 1, 0  # steps per epoch, whole epochs over all seeds
        self.place, self.value, self.rate, self.curve = "", "", "", ""
        self.curves: dict[int, list[float]] = {}
        self.parts: dict[int, float] = {}  # of the epoch of each seed that is trained

    def _counted(self) -> None:
        """The board adds the run."""

    def _say_counts(self) -> None:
        """The bar of all seeds shows the counts."""

    def loaded(self, loaded: Loaded) -> None:
        """Prints the layer table and starts the bar."""
        super().loaded(loaded)
        self.place = "waiting" if self.board.works else "reading data"
        self.task = self.board.add(self.work)
        self._update()

    def started(self, record: RunRecord, num_steps: int) -> None:
        """Prints what is about to be trained."""
        self.num_steps, self.whole = num_steps, 0
        self._begin(record)
        self.place = "compiling"
        self._update()

    def event(self, event: Event) -> None:
        """Moves the bar."""
        super().event(event)
        match event:
            case Tuning():
                self.place = "auto-tuning"
                self._update()
            case Compiled():
                self.place = "training"
                self._update(total=self.epochs, completed=0)
            case Resumed(records=records):
                self.whole = len(records)
                self.work.done = self.whole
                for record in records:
                    self.curve = self._curve(record)
                self._update()
            case StepDone():
                self._step(event)
            case EpochRecord(seed=seed, epoch=epoch):
                self._epoch(event)
                self._move(seed, epoch, epoch)
            case SeedDone(summary=SeedSummary(seed=seed)):
                # A seed that diverged has no further epochs.
                self.whole = max(self.whole, self.seeds_done * self.epochs)
                self.parts.pop(seed, None)
                self._count(seed)
                self.work.running.discard(seed)
                self._update()
            case Snapshot() | Checkpoint() | Trained() | Remark():
                pass
            case _:
                assert_never(event)

    def _count(self, seed: int) -> None:
        """Counts what is trained, and the seed as one that is running."""
        self.work.running.add(seed)
        self.work.done = self.whole + sum(self.parts.values())

    def finished(self, folder: Path) -> None:
        """Removes the bar."""
        super().finished(folder)
        self.close()

    def close(self) -> None:
        """Removes the bar, also after an error."""
        if self.task is not None:
            self.board.remove(self.task)
            self.task = None

    def failed(self, reason: str) -> None:
        """Removes the bar of a run that failed."""
        super().failed(reason)
        self._update()
        self.close()

    def running(self, text: str) -> None:
        """Shows the difference so far next to the bar of all seeds."""
        self.board.result = text
        self._update()

    def _logs_epochs(self) -> bool:
        return self.verbose

    def _logs_seeds(self, summary: SeedSummary) -> bool:  # noqa: ARG002
        return self.verbose

    def _step(self, done: StepDone) -> None:
        seed, part = done.seed, done.step / self.num_steps
        self.parts[seed] = part * done.at_once
        if seed not in self.work.running:  # what is shown is of an earlier seed
            self.value, self.curve = "", self.curve if seed in self.curves else ""
        self._count(seed)
        self._move(seed, done.epoch, done.epoch - 1 + part)

    def _epoch(self, record: EpochRecord) -> None:
        self.value, self.curve = headline(record), self._curve(record)
        self.rate = f"{record.samples_per_s:,.0f} images/s"
        self.whole += 1
        self.parts.pop(record.seed, None)
        self.work.done = self.whole + sum(self.parts.values())

    def _curve(self, record: EpochRecord) -> str:
        """Draws the learning curve of a seed so far."""
        values = self.curves.setdefault(record.seed, [])
        values.append(_shown_value(record))
        return sparkline(values, self.console.encoding) if len(values) > 1 else ""

    def _move(self, seed: int, epoch: int, completed: float) -> None:
        seeds = f"seed {seed} " if self.num_seeds > 1 else ""
        self.place = f"{seeds}epoch {epoch}/{self.epochs}"
        if len(self.work.running) > 1:
            self.place = f"{len(self.work.running)} seeds running"
            completed = self.work.done / self.work.seeds
        self._update(completed=completed)

    def _update(self, **counts: float | None) -> None:
        if self.task is not None:
            said = Said(self.prefix, self.place, self.value, self.rate, self.curve)
            self.board.update(self.task, said, **counts)


class TrialBars(Bars):
    """A bar without the lines on data and compilation that are the same for all trials.

    Args:
      board: the bar's board.
      said: the title of the trial.
      work: the seeds and epochs of the trial; None if nobody counts them.
    """

    def __init__(self, board: Board, said: str, work: RunProgress | None = None) -> None:
        super().__init__(board, several=True, tables=False, work=work)
        self._said = said

    def loaded(self, loaded: Loaded) -> None:
        """Starts the bar."""
        super().loaded(loaded)
        self.title = self._said
        self._update()

    def say(self, text: str, style: str | None = None) -> None:
        """Prints notes only."""
        if style is not None:
            super().say(text, style)


class Said(NamedTuple):
    """Texts next to a bar; `title` and `value` include their punctuation."""

    title: str = ""
    place: str = ""
    value: str = ""
    rate: str = ""
    curve: str = ""


def status(lines: Sequence[Said], room: int) -> list[tuple[str, str, str]]:
    """Fits the texts of bars into a terminal: description, rate and curve of each.

    Titles are shortened last.

    Args:
      lines: the texts of each bar.
      room: columns for all of them.

    >>> said = Said("Standard CNN: ", "epoch 2/3", ", accuracy 90.00%", "2,000 images/s", "_@")
    >>> status([said], 55)
    [('Standard CNN: epoch 2/3, accuracy 90.00%', '2,000 images/s', '')]
    >>> status([said], 31)
    [('Standar...: epoch 2/3, 90.00%', '', '')]
    """
    brief = [line._replace(value=re.sub("^, [a-z]+ ", ", ", line.value)) for line in lines]
    for said, with_rate, with_curve in (
        (lines, True, True),
        (lines, True, False),
        (lines, False, False),
        (brief, False, False),
    ):
        texts = ["".join(line[:3]) for line in said]
        rates = [line.rate if with_rate else "" for line in said]
        curves = [line.curve if with_curve else "" for line in said]
        if sum(max(map(cell_len, column)) for column in (texts, rates, curves)) <= room:
            return list(zip(texts, rates, curves, strict=True))
    return [(_shortened(line, room), "", "") for line in brief]


def _shortened(line: Said, room: int) -> str:
    rest = line.place + line.value
    if not line.title or cell_len(line.title + rest) <= room:
        return line.title + rest
    width = room - cell_len(rest) - 2
    return f"{cut(shortened(line.title.removesuffix(': '), width), width)}: {rest}"


def cut(text: str, width: int) -> str:
    """Cuts a text to a number of terminal columns, at least those of the ellipsis.

    >>> cut("Convolutional autoencoder", 12), cut("CNN", 12)
    ('Convolut...', 'CNN')
    """
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 3:
        text = text[:-1]
    return f"{text.rstrip()}..."


class FileBars:
    """Shows slow work on files as a bar; other bars are hidden meanwhile.

    Args:
      bars: the bars of the command.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    @contextmanager
    def showing(self, work: FileWork) -> Iterator[CountDone]:
        """Shows the bar until the work is done."""
        bars, said = self._bars, Said(place=work.text(0))
        others = [task.id for task in bars.tasks if task.visible]
        for other in others:
            bars.update(other, visible=False)
        task = bars.add_task(said.place, total=work.total, said=said, rate="", curve="", left="")
        start = monotonic()
        due = start

        def count(done: int) -> None:
            nonlocal due
            if (now := monotonic()) >= due:
                due = now + _EVERY
                text, left = work.text(done), _left(work, done, now - start)
                bars.update(task, completed=done, description=text, left=left)

        try:
            yield count
        finally:
            bars.remove_task(task)
            for other in others:
                bars.update(other, visible=True)


def _left(work: FileWork, done: int, seconds: float) -> str:
    """Time left, after the first second."""
    if not work.total or not done or seconds < 1:
        return ""
    return left_text(seconds * max(0, work.total - done) / done)


def make_listeners(
    console: Console, number: int, *, quiet: bool, tables: bool = True, verbose: bool = False
) -> list[Silent]:
    """Makes a listener for each of several runs, of the kind that suits a console."""
    several = number > 1
    tables = tables and (verbose or not several)
    if quiet:
        return [Silent(console) for _ in range(number)]
    if not console.is_terminal:
        tally = Tally()
        return [
            Lines(console, several=several, tables=tables, verbose=verbose, tally=tally)
            for _ in range(number)
        ]
    board = Board(console)
    return [Bars(board, several=several, tables=tables, verbose=verbose) for _ in range(number)]


@contextmanager
def listening(
    console: Console,
    number: int,
    *,
    quiet: bool = False,
    tables: bool = True,
    verbose: bool = False,
) -> Iterator[list[Silent]]:
    """Makes listeners as `make_listeners` does, and shows them."""
    listeners = make_listeners(console, number, quiet=quiet, tables=tables, verbose=verbose)
    with shown(listeners):
        yield listeners


@contextmanager
def shown(listeners: Sequence[Silent]) -> Iterator[None]:
    """Shows slow work on files in the same place as listeners, and removes their bars at the end.

    Args:
      listeners: of runs that are trained at the same time.
    """
    try:
        with shown_by(_file_display(listeners[0])):
            yield
    finally:
        for listener in listeners:
            if isinstance(listener, Bars):
                listener.close()


def _file_display(listener: Silent) -> Display | None:
    match listener:
        case Bars():
            return FileBars(listener.board.progress)
        case Lines():
            return ProgressLines(listener.say)
        case _:
            return None


def make_progress(console: Console) -> Progress:
    """Makes bars that disappear at the end."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[curve]}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
        transient=True,
    )


def start_line(record: RunRecord) -> str:
    """Describes what is trained, on what, where."""
    data = record.dataset
    name = data.name + (f" (stand-in for {data.stand_in_for})" if data.stand_in_for else "")
    sizes = f"{data.num_train:,}/{data.num_validation:,}/{data.num_test:,}"
    seeds = f"{len(record.seeds)} seeds" if len(record.seeds) > 1 else f"seed {record.seeds[0]}"
    epochs = record.epochs_text
    where = record.environment.device_kind
    views = f", TTA {record.test_augment}" if record.test_augment else ""
    split = f", {record.split_text}" if record.split_text else ""
    return f"{record.title}: {name} {sizes}{split}, {epochs}, {seeds}, on {where}{views}"


def compiled_line(event: Compiled, *, verbose: bool = False) -> str:
    """Describes what was compiled, how it will train, and why so."""
    engine = event.strategy if verbose else event.strategy.partition(",")[0]
    reason = f" ({event.engine.reason})" if event.engine and event.engine.reason else ""
    return (
        f"compiled in {event.compile_s:.1f} s ({event.compile_cache} cache):"
        f" {event.num_params:,} parameters, engine {engine}{reason}"
    )


def resumed_line(event: Resumed, total: int) -> str:
    """Says how much was trained before.

    Args:
      event: the event.
      total: epochs of all seeds.
    """
    done = len(event.records)
    if not done:
        return "no epoch was finished; starting from scratch"
    return f"resuming after {done} of {epochs_text(total)}"


def seed_line(
    summary: SeedSummary, place: tuple[int, int], title: str = "", width: int = WIDTH
) -> str:
    """Describes a finished seed in a line.

    Args:
      summary: the seed.
      place: number of seeds that are done, and of all.
      title: the run; empty if there is one only.
      width: columns of the line.
    """
    number, total = place
    where = f"seed {summary.seed}" + (f" ({number}/{total})" if total > 1 else "")
    if summary.diverged is not None:
        values = [(f"diverged in epoch {summary.diverged}, the loss is not finite", 0)]
    else:
        split = "val " if summary.final else "test "
        found = dict(summary.final or summary.test)
        named = {"loss": found.pop("loss")} | found
        values = [
            (f"{split}{words(name)} {metric_text(name, value)}", abs(rank - 1))
            for rank, (name, value) in enumerate(named.items())
        ]
        if summary.chosen_epoch is not None and summary.num_epochs is not None:
            values.append((_chosen_text(summary.chosen_epoch, summary.num_epochs), len(values)))
        values.append((seconds_text(summary.train_s), len(values)))
    return fitted(title, where, values, width)


def _chosen_text(epoch: int, last: int) -> str:
    """Describes the epoch of the final values.

    >>> _chosen_text(7, 7), _chosen_text(7, 10)
    ('after 7 epochs', 'epoch 7 of 10')
    """
    return f"after {epochs_text(last)}" if epoch == last else f"epoch {epoch} of {last}"


def headline(record: EpochRecord) -> str:
    """Formats the most important value of an epoch."""
    if name := _headline_metric(record):
        return f", {words(name)} {metric_text(name, record.metrics[name])}"
    if record.validation_loss is None:
        return f", train loss {metric_text('loss', record.train_loss)}"
    return f", loss {metric_text('loss', record.validation_loss)}"


def _shown_value(record: EpochRecord) -> float:
    """Returns the number that `headline` formats."""
    name = _headline_metric(record)
    return record.metrics[name] if name else record.course("loss")


def _headline_metric(record: EpochRecord) -> str:
    """The metric of an epoch that verdicts of its task compare by default; empty for the loss."""
    firsts = {names[0] for names in DEFAULT_METRICS.values() if names}
    return next((name for name in record.metrics if name in firsts), "")


def epoch_line(
    record: EpochRecord,
    epochs: int,
    title: str = "",
    with_seed: bool = True,
    width: int = WIDTH,
) -> str:
    """Describes an epoch in a line.

    Args:
      record: the epoch.
      epochs: number of epochs of a seed.
      title: the run; empty if there is one only.
      with_seed: True to name the seed.
      width: columns of the line; values that do not fit are left out, the least important first.
    """
    values = [(f"train loss {metric_text('loss', record.train_loss)}", 2)]
    if record.validation_loss is not None:
        values.append((f"val loss {metric_text('loss', record.validation_loss)}", 1))
    for rank, (name, value) in enumerate(record.metrics.items()):
        values.append((f"{words(name)} {metric_text(name, value)}", 4 + rank if rank else 0))
    values.append((seconds_text(record.train_s), 3))
    values.append((f"{record.samples_per_s:,.0f} images/s", 4 + len(values)))
    seed = f"seed {record.seed}, " if with_seed else ""
    return fitted(title, f"{seed}epoch {record.epoch}/{epochs}", values, width)


def waited_text(epochs: Sequence[EpochRecord]) -> str:
    """Says how long the device waited for streamed images.

    >>> waited_text([EpochRecord(0, 1, 0.5, 0.25, {}, 9.5, 0.5, 2000.0, data_s=0.05)])
    'waited 0.5% of the epoch for data'
    """
    share = sum(each.data_s for each in epochs) / sum(e.train_s + e.eval_s for e in epochs)
    what = "epoch" if len(epochs) == 1 else "epochs"
    return f"waited {percent_text(share, 1)} of the {what} for data"


def fitted(title: str, place: str, values: Sequence[tuple[str, int]], width: int) -> str:
    """Fits a line of a log into a number of columns.

    Args:
      title: the run; empty if there is one only. It is shortened last.
      place: epoch and seed.
      values: texts with their ranks; those of the highest ranks are left out first.
      width: number of columns.

    >>> values = [("train loss 0.5000", 2), ("val loss 0.2500", 1), ("accuracy 90.00%", 0)]
    >>> fitted("CNN", "epoch 1/3", values, 50)
    'CNN, epoch 1/3: val loss 0.2500, accuracy 90.00%'
    """
    kept = list(values)
    while len(kept) > 1 and cell_len(_joined(title, place, kept)) > width:
        kept.remove(max(kept, key=lambda value: value[1]))
    line = _joined(title, place, kept)
    if cell_len(line) <= width or not title:
        return line
    rest = cell_len(line) - cell_len(title)
    return _joined(cut(shortened(title, width - rest), width - rest), place, kept)


def _joined(title: str, place: str, values: Sequence[tuple[str, int]]) -> str:
    where = ", ".join(filter(None, (title, place)))
    return f"{where}: {', '.join(text for text, _ in values)}"
