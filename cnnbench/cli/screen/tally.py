"""Counts of trials and seeds, and the time left."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class RunProgress:
    """Epochs of a run that are trained and still to be trained.

    Args:
      seeds: number of seeds.
      epochs: epochs of each seed.
      done: epochs trained, over all seeds; the last one in part.
      seconds: what `timed` epochs took, with the writing of checkpoints between two of them.
      timed: epochs trained by this command.
      running: seeds that are trained at this time, with `--on` several.
      trial: number of the trial of a sweep; 0 without one.
      seeds_done: number of seeds that are trained.
      ended: True if nothing is left, also because it failed.
      failed: True if it cannot be trained.
      compile_s: seconds of compilation; None before it.
      recorded: when the last epoch of each seed was recorded, in seconds on any clock.
    """

    seeds: int
    epochs: int
    done: float = 0.0
    seconds: float = 0.0
    timed: int = 0
    running: set[int] = field(default_factory=set)
    trial: int = 0
    seeds_done: int = 0
    ended: bool = False
    failed: bool = False
    compile_s: float | None = None
    recorded: dict[int, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Epochs that are still to be trained."""
        return 0.0 if self.ended else max(0.0, self.seeds * self.epochs - self.done)

    @property
    def share(self) -> float:
        """Seeds that are done, the last ones in part."""
        return self.done / self.epochs if self.epochs else 0.0

    def add_epoch(self, seed: int, seconds: float, now: float) -> None:
        """Counts an epoch.

        Args:
          seed: its seed.
          seconds: training and evaluation.
          now: the time.

        >>> work = RunProgress(1, 9)
        >>> work.add_epoch(0, 2.0, now=50.0), work.add_epoch(0, 2.0, now=52.5)
        (None, None)
        >>> work.seconds
        4.5
        """
        self.running.add(seed)
        self.done += 1
        self.timed += 1
        self.seconds += max(seconds, now - self.recorded.get(seed, now))
        self.recorded[seed] = now

    def finish(self, seeds: int | None = None) -> None:
        """Records that nothing is left.

        Args:
          seeds: number of seeds, if a rule stopped the run before it had all; the others no longer
            count.

        >>> work = RunProgress(14, 3)
        >>> work.finish(7)
        >>> work.seeds_done, work.seeds, work.done
        (7, 7, 21)
        """
        self.seeds = self.seeds if seeds is None else seeds
        self.done, self.seeds_done, self.ended = self.seeds * self.epochs, self.seeds, True
        self.running.clear()

    def fail(self) -> None:
        """Records that it cannot be trained."""
        self.ended = self.failed = True
        self.running.clear()


def seconds_left(works: Iterable[RunProgress]) -> float | None:
    """Estimates the time left from the epochs so far; None before the first of them.

    A run that has not started is assumed to be as fast as the others, also to compile.

    >>> seconds_left([RunProgress(2, 10, done=5, seconds=10.0, timed=5), RunProgress(1, 10)])
    50.0
    >>> seconds_left([RunProgress(2, 10, done=5, seconds=10.0, timed=5, running={0, 1})])
    15.0
    """
    works = list(works)
    rates = [work.seconds / work.timed for work in works if work.timed]
    if not rates:
        return None
    usual = sum(rates) / len(rates)
    compiled = [work.compile_s for work in works if work.compile_s is not None]
    waiting = sum(work.left > 0 and work.compile_s is None for work in works)
    fixed = waiting * sum(compiled) / len(compiled) if compiled else 0.0
    at_a_time = max(1, sum(len(work.running) for work in works))
    epochs = sum(w.left * (w.seconds / w.timed if w.timed else usual) for w in works)
    return (fixed + epochs) / at_a_time


def left_text(seconds: float | None) -> str:
    """Formats the time left.

    >>> left_text(42.4), left_text(3723), left_text(None)
    ('0:42 left', '1:02:03 left', '')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{clock} left"


def trials_done(works: Sequence[RunProgress]) -> tuple[int, int, int]:
    """Numbers of trials that are trained, that failed, and of all.

    >>> one, other = RunProgress(1, 2, trial=1), RunProgress(1, 2, trial=1)
    >>> one.finish()
    >>> trials_done([one, other, RunProgress(1, 2, trial=2, ended=True, failed=True)])
    (0, 1, 2)
    """
    runs: dict[int, list[RunProgress]] = {}
    for work in works:
        if work.trial:
            runs.setdefault(work.trial, []).append(work)
    failed = sum(any(work.failed for work in own) for own in runs.values())
    ended = sum(all(work.ended and not work.failed for work in own) for own in runs.values())
    return ended, failed, len(runs)


def counts_text(works: Sequence[RunProgress], room: int = 80) -> str:
    """Trials and seeds that are done, running and failed.

    Args:
      works: the runs.
      room: number of columns; if they are too few, numbers are written as in `3/12`.

    >>> works = [RunProgress(2, 9, trial=n) for n in (1, 2, 3)]
    >>> works[0].finish(), works[1].fail(), works[2].running.update({0, 1})
    (None, None, None)
    >>> counts_text(works)
    '1 of 3 trials, 1 failed, 2 of 6 seeds, 2 running'
    >>> counts_text(works, 45)
    '1/3 trials, 1 failed, 2/6 seeds, 2 running'
    """
    done, failed, trials = trials_done(works)
    failed = failed or sum(work.failed for work in works)
    running = sum(len(work.running) for work in works)
    seeds = sum(work.seeds_done for work in works), sum(work.seeds for work in works)
    parts = [
        f"{done} of {trials} trials" if trials else "",
        f"{failed} failed" if failed and trials else "",
        f"{seeds[0]} of {seeds[1]} seeds",
        f"{running} running" if running > 1 else "",
        f"{failed} failed" if failed and not trials else "",
    ]
    text = ", ".join(filter(None, parts))
    return text if len(text) <= room else text.replace(" of ", "/")


class Tally:
    """Runs of a command, and when a line on them was printed.

    Args:
      works: the runs, those of trials that have not begun, too.
      every: seconds between two lines.
    """

    def __init__(self, works: Sequence[RunProgress] = (), every: float = 60.0) -> None:
        self.works = list(works)
        self._every, self._due = every, 0.0

    def add(self, work: RunProgress) -> None:
        """Adds a run, unless it is known."""
        if not any(work is known for known in self.works):
            self.works.append(work)

    def begin(self, trial: int) -> list[RunProgress]:
        """The runs of a trial."""
        return [work for work in self.works if work.trial == trial]

    def fail(self, trial: int) -> None:
        """Records that a trial failed."""
        for work in self.begin(trial):
            work.fail()

    def line(self, now: float) -> str:
        """Counts and time left, if it is time to print them; else empty.

        Args:
          now: seconds on any clock.
        """
        if not self._due:
            self._due = now + self._every
        if now < self._due or sum(work.seeds for work in self.works) < 2:
            return ""
        self._due = now + self._every
        return self.text()

    def text(self) -> str:
        """Counts and time left."""
        left = seconds_left(self.works)
        return ", ".join(filter(None, (counts_text(self.works), left_text(left) if left else "")))


def shortened(title: str, width: int) -> str:
    """Shortens a title of settings to a number of columns, their names before their values.

    Words of a name become their initials, as in `lr`; then the names are left out.

    Args:
      title: such as `learning_rate=0.01 conv1.filters=32`; a name that contains a space, such as
        `Small CNN`, is kept.
      width: number of columns; more are returned if the values have more.

    >>> title = "learning_rate=0.01 conv1.filters=32"
    >>> shortened(title, 35), shortened(title, 30), shortened(title, 8)
    ('learning_rate=0.01 conv1.filters=32', 'lr=0.01 filters=32', '0.01 32')
    """
    words = title.split(" ")
    brief = [_brief(word) for word in words]
    names = [word.partition("=")[0] for word in brief if "=" in word]
    values = [word.partition("=")[2] or word for word in words]
    forms = [words, brief, values] if len(set(names)) == len(names) else [words, values]
    texts = [" ".join(form) for form in forms]
    return next((text for text in texts if len(text) <= width), texts[-1])


def _brief(word: str) -> str:
    """Shortens the name of a setting.

    >>> _brief("weight_decay=0.1"), _brief("conv1.filters=32"), _brief("CNN")
    ('wd=0.1', 'filters=32', 'CNN')
    """
    name, equals, value = word.partition("=")
    parts = name.rpartition(".")[2].split("_")
    last = "".join(part[:1] for part in parts) if len(parts) > 1 else parts[0]
    return f"{last}={value}" if equals else word
