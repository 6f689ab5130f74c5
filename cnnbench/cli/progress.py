"""How a run looks while it runs: bars on a terminal, a line an epoch elsewhere."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, assert_never

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cnnbench.formatting import clean, epochs_text, seconds_text, visible
from cnnbench.report.layer_table import layer_table
from cnnbench.report.sparkline import sparkline
from cnnbench.runner.recorder import Listener
from cnnbench.runs.records import EpochRecord, RunRecord, SeedSummary
from cnnbench.spec.loader import Loaded
from cnnbench.spec.metrics import metric_text, words
from cnnbench.training.events import (
    Checkpoint,
    Compiled,
    Event,
    Resumed,
    SeedDone,
    Snapshot,
    StepDone,
    Trained,
    Tuning,
)

BESIDE = 15  # columns of a short bar, the time that is left, and what is between


class Silent:
    """A listener that says nothing but warnings, for `--quiet`.

    Args:
      console: where notes go; never where results go.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def loaded(self, loaded: Loaded) -> None:
        """Says nothing."""

    def note(self, text: str) -> None:
        """A stand-in dataset is worth a word even when quiet."""
        self.say(text, "yellow")

    def say(self, text: str, style: str | None = None) -> None:
        """Prints a line, broken between words on a terminal unless a command is to be copied."""
        whole = not self.console.is_terminal or "cnnbench " in text
        text = visible(text)
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=whole)

    def started(self, record: RunRecord, num_steps: int) -> None:
        """Says nothing."""

    def event(self, event: Event) -> None:
        """Says nothing."""

    def finished(self, folder: Path) -> None:
        """Says nothing."""


class Lines(Silent):
    """One line an epoch, for files and pipes.

    Args:
      console: where they go.
      several: whether other runs write there too, so that a line has to say whose it is.
      tables: whether networks are shown first.
    """

    def __init__(self, console: Console, *, several: bool = False, tables: bool = True) -> None:
        super().__init__(console)
        self.epochs, self.several, self.tables, self.prefix = 0, several, tables, ""

    def loaded(self, loaded: Loaded) -> None:
        """Prints the layer table."""
        experiment = loaded.experiment
        self.prefix = f"{clean(experiment.type_title)}: " if self.several else ""
        if not self.tables:
            return
        if loaded.plan is not None:
            self.console.print(layer_table(loaded.plan, experiment.type_title))
        else:
            self.say(f"{experiment.type_title}: {experiment.model.python}")

    def started(self, record: RunRecord, num_steps: int) -> None:  # noqa: ARG002 - bars use it
        """Prints what is about to be trained."""
        self.epochs = record.epochs
        self._say_what(record)
        self.say(f"{self.prefix}compiling ...")

    def _say_what(self, record: RunRecord) -> None:
        """Says what is trained, and where its images come from."""
        self.say(start_line(record))
        self.say(f"{self.prefix}images: {record.dataset.source}")

    def event(self, event: Event) -> None:
        """Prints a line for each epoch."""
        match event:
            case Tuning():
                self.say(f"{self.prefix}measuring which engine is the fastest, once ...")
            case Compiled():
                self.say(self.prefix + compiled_line(event))
            case Resumed():
                self.say(self.prefix + resumed_line(event))
            case EpochRecord():
                self.say(self.prefix + epoch_line(event, self.epochs))
            case SeedDone(summary=summary):
                if not summary.final:  # nothing was said of its worth yet
                    self.say(self.prefix + seed_line(summary))
            case StepDone() | Snapshot() | Checkpoint() | Trained():
                pass
            case _:
                assert_never(event)

    def finished(self, folder: Path) -> None:
        """Says where the files are; a path that is broken could not be copied."""
        self.console.print(
            f"wrote {visible(str(folder))}", highlight=False, markup=False, soft_wrap=True
        )


class Bars(Lines):
    """A bar over all epochs and seeds, with rate and time left, for terminals.

    Args:
      progress: where the bar is, below those of other runs.
      several: whether there are others.
      tables: whether networks are shown first.
    """

    def __init__(self, progress: Progress, *, several: bool = False, tables: bool = True) -> None:
        super().__init__(progress.console, several=several, tables=tables)
        self.progress = progress
        self.task: TaskID | None = None
        self.record: RunRecord | None = None
        self.num_steps, self.done = 1, 0  # steps of an epoch, epochs of all seeds
        self.place, self.value, self.rate, self.curve = "reading data", "", "", ""
        self.curves: dict[int, list[float]] = {}

    def loaded(self, loaded: Loaded) -> None:
        """Prints the layer table and starts the bar."""
        super().loaded(loaded)
        self.task = self.progress.add_task("", total=None, said=Said(), rate="", curve="")
        self._update()
        self.progress.start()

    def started(self, record: RunRecord, num_steps: int) -> None:
        """Says what is about to be trained."""
        self.record, self.num_steps, self.done = record, num_steps, 0
        self._say_what(record)
        self.place = "compiling"
        self._update()

    def event(self, event: Event) -> None:
        """Moves the bar."""
        match event:
            case Tuning():
                super().event(event)
                self.place = "measuring"
                self._update()
            case Compiled():
                super().event(event)
                self.place = "training"
                self._update(total=self._steps(), completed=0)
            case Resumed(records=records):
                super().event(event)
                self.done = len(records)
                for record in records:
                    self.curve = self._curve(record)
                self._update(completed=self.done * self.num_steps)
            case StepDone(seed=seed, epoch=epoch, step=step):
                self._move(seed, epoch, step * event.at_once)
            case EpochRecord(seed=seed, epoch=epoch):
                self.value, self.curve = headline(event), self._curve(event)
                self.rate = f"{event.samples_per_s:,.0f} images/s"
                self.done += 1
                self._move(seed, epoch, 0)
            case SeedDone():
                super().event(event)
            case Snapshot() | Checkpoint() | Trained():
                pass
            case _:
                assert_never(event)

    def finished(self, folder: Path) -> None:
        """Takes the bar away."""
        self.close()
        super().finished(folder)

    def close(self) -> None:
        """Takes the bar away, also after an error."""
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None
        if not self.progress.tasks:
            self.progress.stop()

    def _curve(self, record: EpochRecord) -> str:
        """The course of a seed so far."""
        values = self.curves.setdefault(record.seed, [])
        values.append(_shown_value(record))
        return sparkline(values, self.console.encoding) if len(values) > 1 else ""

    def _steps(self) -> int:
        record = self.record
        return len(record.seeds) * record.epochs * self.num_steps if record else 1

    def _move(self, seed: int, epoch: int, step: int) -> None:
        if self.record is None:
            return
        seeds = f"seed {seed} " if len(self.record.seeds) > 1 else ""
        self.place = f"{seeds}epoch {epoch}/{self.record.epochs}"
        self._update(completed=self.done * self.num_steps + step)

    def _update(self, **counts: float | None) -> None:
        """Moves the bar, and sees anew what finds room beside all of them."""
        if self.task is None:
            return
        said = Said(self.prefix, self.place, self.value, self.rate, self.curve)
        self.progress.update(self.task, said=said, **counts)  # type: ignore[arg-type]
        tasks = self.progress.tasks
        lines = status([task.fields["said"] for task in tasks], self.console.width - BESIDE)
        for task, (text, rate, curve) in zip(tasks, lines, strict=True):
            self.progress.update(task.id, description=text, rate=rate, curve=curve)


class Said(NamedTuple):
    """What there is to say beside a bar; `title` and `value` come with their punctuation."""

    title: str = ""
    place: str = ""
    value: str = ""
    rate: str = ""
    curve: str = ""


def status(lines: Sequence[Said], room: int) -> list[tuple[str, str, str]]:
    """Text, rate and curve of each bar, as much as finds room beside all of them.

    Titles are shortened last.

    Args:
      lines: what there is to say, a line each.
      room: characters.

    >>> said = Said("Standard CNN: ", "epoch 2/3", ", accuracy 90.00%", "2,000 images/s", "_@")
    >>> status([said], 55)
    [('Standard CNN: epoch 2/3, accuracy 90.00%', '2,000 images/s', '')]
    >>> status([said], 31)
    [('Standard...: epoch 2/3, 90.00%', '', '')]
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
        if sum(max(map(len, column)) for column in (texts, rates, curves)) <= room:
            return list(zip(texts, rates, curves, strict=True))
    return [(_shortened(line, room), "", "") for line in brief]


def _shortened(line: Said, room: int) -> str:
    rest = line.place + line.value
    if len(line.title + rest) <= room:
        return line.title + rest
    width = max(3, room - len(rest) - 2)
    return f"{textwrap.shorten(line.title.removesuffix(': '), width, placeholder='...')}: {rest}"


def make_listeners(
    console: Console, number: int, *, quiet: bool, tables: bool = True
) -> list[Listener]:
    """A listener for each of several runs, of the kind that fits a console."""
    several = number > 1
    if quiet:
        return [Silent(console) for _ in range(number)]
    if not console.is_terminal:
        return [Lines(console, several=several, tables=tables) for _ in range(number)]
    progress = make_progress(console)
    return [Bars(progress, several=several, tables=tables) for _ in range(number)]


@contextmanager
def listening(
    console: Console, number: int, *, quiet: bool = False, tables: bool = True
) -> Iterator[list[Listener]]:
    """Listeners as `make_listeners` makes them, whose bars go whatever happens."""
    listeners = make_listeners(console, number, quiet=quiet, tables=tables)
    try:
        yield listeners
    finally:
        for listener in listeners:
            if isinstance(listener, Bars):
                listener.close()


def make_progress(console: Console) -> Progress:
    """Bars that vanish when they are done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[curve]}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


def start_line(record: RunRecord) -> str:
    """What is trained, on what, where."""
    data = record.dataset
    name = data.name + (f" (stand-in for {data.stand_in_for})" if data.stand_in_for else "")
    sizes = f"{data.num_train:,}/{data.num_validation:,}/{data.num_test:,}"
    seeds = f"{len(record.seeds)} seeds" if len(record.seeds) > 1 else f"seed {record.seeds[0]}"
    epochs = epochs_text(record.epochs)
    return f"{record.title}: {name} {sizes}, {epochs}, {seeds}, on {record.environment.device}"


def compiled_line(event: Compiled) -> str:
    """What was compiled, and how it will train."""
    return (
        f"compiled {event.num_params:,} parameters in {event.compile_s:.1f} s"
        f" ({event.compile_cache}); engine {event.strategy}"
    )


def resumed_line(event: Resumed) -> str:
    """How much was trained before; epochs of several seeds are added up."""
    seeds = len({record.seed for record in event.records})
    of = f" of {seeds} seeds" if seeds > 1 else ""
    return f"resuming after {epochs_text(len(event.records))}{of}"


def seed_line(summary: SeedSummary) -> str:
    """How a seed ended whose epochs are not judged."""
    values = {"loss": summary.test["loss"]} | dict(summary.test)
    told = [f"{words(name)} {metric_text(name, value)}" for name, value in values.items()]
    return f"seed {summary.seed}: on the test images {', '.join(told)}"


def headline(record: EpochRecord) -> str:
    """The value that says most about an epoch."""
    if "accuracy" in record.metrics:
        return f", accuracy {metric_text('accuracy', record.metrics['accuracy'])}"
    if record.validation_loss is None:
        return f", train loss {metric_text('loss', record.train_loss)}"
    return f", loss {metric_text('loss', record.validation_loss)}"


def _shown_value(record: EpochRecord) -> float:
    """The number that `headline` shows."""
    return record.metrics.get("accuracy", record.course("loss"))


def epoch_line(record: EpochRecord, epochs: int) -> str:
    """An epoch in a line."""
    values = [f"train loss {metric_text('loss', record.train_loss)}"]
    if record.validation_loss is not None:
        values.append(f"validation loss {metric_text('loss', record.validation_loss)}")
    values += [
        f"{words(name)} {metric_text(name, value)}" for name, value in record.metrics.items()
    ]
    return (
        f"seed {record.seed}, epoch {record.epoch}/{epochs}: {', '.join(values)}"
        f", {seconds_text(record.train_s)}, {record.samples_per_s:,.0f} images/s"
    )
