"""Stopwatch for the phases of a run, with a replaceable clock."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]
PARTS = ("compile_s", "data_s", "train_s", "eval_s")


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall-clock time of each part of a run, measured after the device has finished its work.

    Args:
      compile_s: compilation, all seeds.
      data_s: loading the images and moving them to the device; if they are streamed, also what the
        device waited for them during training and evaluation.
      train_s: training, all seeds and epochs.
      eval_s: evaluation, all seeds and epochs.
      total_s: the whole run, from start to end.
    """

    compile_s: float
    data_s: float
    train_s: float
    eval_s: float
    total_s: float


class Stopwatch:
    """Accumulates the seconds spent in each phase of a run.

    The body of `part` must synchronize the device before it ends, otherwise its work is
    attributed to a later phase.

    Args:
      clock: returns seconds since any fixed time.

    Attributes:
      first_step_s: seconds until `mark_first_step`; NaN before it is called.

    >>> ticks = iter([0.0, 1.0, 4.0, 5.0])
    >>> watch = Stopwatch(lambda: next(ticks))
    >>> with watch.part("train_s"):
    ...     pass
    >>> watch.timing()
    Timing(compile_s=0.0, data_s=0.0, train_s=3.0, eval_s=0.0, total_s=5.0)
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._start = clock()
        self._paused = math.nan  # time of the pause
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._last: dict[str, float] = {}
        self.first_step_s = math.nan

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measures its body as one of `PARTS`."""
        start = self._clock()
        try:
            yield
        finally:
            self._last[name] = self._clock() - start
            self._spent[name] += self._last[name]

    def pause(self) -> None:
        """Pauses the clock between two parts, until `resume`."""
        self._paused = self._clock()

    def resume(self) -> None:
        """Resumes the clock after `pause`."""
        self._start += self._clock() - self._paused
        self._paused = math.nan

    def now(self) -> float:
        """Seconds since the stopwatch was created, without pauses."""
        return (self._clock() if math.isnan(self._paused) else self._paused) - self._start

    def mark_first_step(self) -> None:
        """Records the time of the first training step; later calls have no effect."""
        if math.isnan(self.first_step_s):
            self.first_step_s = self.now()

    def last(self, name: str) -> float:
        """Seconds of the most recent measurement of a part."""
        return self._last[name]

    def spent(self, name: str) -> float:
        """Seconds of all measurements of a part so far."""
        return self._spent[name]

    def timing(self) -> Timing:
        """Seconds of each part, and the total."""
        parts = {name: self._spent[name] for name in PARTS}
        return Timing(**parts, total_s=self.now())
