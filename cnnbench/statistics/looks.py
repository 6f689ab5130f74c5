"""How a run decides after how many seeds to stop: `--until-decided` and `--anytime`."""

from dataclasses import dataclass, replace
from enum import StrEnum


class Reason(StrEnum):
    """Why no more seeds were trained."""

    DECIDED = "decided"
    SMALL = "within min_effect"
    FUTILE = "futile"
    LAST = "last look"


@dataclass(frozen=True, slots=True)
class Looks:
    """The rule that stops a run, fixed before training, and its results.

    Args:
      numbers: numbers of seeds after which there is a verdict; empty for `--anytime`, which judges
        after every seed.
      thresholds: the p-value that decides at each of them; empty for `--anytime`.
      alpha: probability of finding a difference at any look if there is none.
      test: the test over seeds: `paired` or `unpaired`.
      comparisons: number of runs that are compared with the baseline and share alpha.
      metric: the metric that is judged; empty for the default of the task.
      min_effect: value of `--min-effect`.
      planned: the seeds that are trained if nothing is decided before.
      p_values: the p-value at each look; none for the baseline. It is NaN if a seed diverged.
      reason: why training stopped: `decided`, `within min_effect`, `futile`, or `last look`; null
        until it did.
    """

    numbers: tuple[int, ...]
    thresholds: tuple[float, ...]
    alpha: float
    test: str
    comparisons: int
    metric: str
    min_effect: str
    planned: tuple[int, ...]
    p_values: tuple[float, ...] = ()
    reason: Reason | None = None

    @property
    def anytime(self) -> bool:
        """True if there is a verdict after every seed."""
        return not self.numbers

    @property
    def rule(self) -> "Looks":
        """What was fixed before training."""
        return replace(self, p_values=(), reason=None)

    @property
    def stops(self) -> tuple[int, ...]:
        """Numbers of seeds after which training may stop."""
        return self.numbers or tuple(range(1, len(self.planned) + 1))

    def threshold(self, number: int) -> float:
        """The p-value that decides with a number of seeds: that of the next look, or of the last.

        >>> looks = Looks((6, 10), (0.03, 0.02), 0.05, "paired", 1, "", "0", ())
        >>> looks.threshold(5), looks.threshold(6), looks.threshold(7), looks.threshold(12)
        (0.03, 0.03, 0.02, 0.02)
        """
        pairs = zip(self.numbers, self.thresholds, strict=True)
        return next((p for look, p in pairs if number <= look), self.thresholds[-1])
