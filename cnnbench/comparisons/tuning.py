"""Results of ``run --tune``: the best trial of each experiment, and what its choice means."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from cnnbench.comparisons.comparison import Comparison
from cnnbench.comparisons.verdict import Finding, Verdict
from cnnbench.comparisons.verdict_text import size
from cnnbench.formatting import clean, enumeration, is_number
from cnnbench.statistics.best_of import expected_best
from cnnbench.statistics.estimates import Estimate, estimate

_TIE = 1e-12  # differences of expected values below it are rounding


@dataclass(frozen=True, slots=True)
class TunedAxis:
    """A tuned key, with the points that every experiment tried, such as ``x0.3`` or ``adam``."""

    key: str
    points: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial of one experiment.

    Args:
      point: index on each axis.
      overrides: what it changes in the file, as in ``train.batch_size=32``.
      written: True if that is what the file says already.
      values: the metric on the validation images, one per seed; NaN for a seed that diverged.
      run: its folder in the results.
      seconds: training and evaluation, over all seeds.
    """

    point: tuple[int, ...]
    overrides: tuple[str, ...]
    written: bool
    values: tuple[float, ...]
    run: str
    seconds: float = 0.0

    @property
    def value(self) -> Estimate:
        """The metric over seeds."""
        return estimate(self.values)


@dataclass(frozen=True, slots=True)
class TunedArm:
    """The trials of one experiment.

    Args:
      label: the experiment's title.
      trials: at least one, in the order of their points.
      higher: True if higher values of the metric are better.
    """

    label: str
    trials: tuple[Trial, ...]
    higher: bool

    @property
    def best(self) -> Trial | None:
        """The trial with the best mean; of equal ones that as written. None if all diverged."""
        finite = [trial for trial in self.trials if math.isfinite(trial.value.mean)]
        sign = 1 if self.higher else -1
        return max(finite, key=lambda t: (sign * t.value.mean, t.written), default=None)

    @property
    def expected(self) -> tuple[float, ...]:
        """Expected best mean of k trials, for each k; NaN while all of them may diverge."""
        return expected_best([t.value.mean for t in self.trials], higher=self.higher)


@dataclass(frozen=True, slots=True)
class TuningResult:
    """A tuning of several experiments with equal budgets.

    Args:
      axes: the tuned keys.
      metric: the metric that chose, on the validation images.
      seeds: the seeds of each trial.
      epochs: epochs of each seed.
      arms: the experiments, the baseline first.
    """

    axes: tuple[TunedAxis, ...]
    metric: str
    seeds: tuple[int, ...]
    epochs: int
    arms: tuple[TunedArm, ...]

    @property
    def budget(self) -> str:
        """The budget of each experiment, in words."""
        trials, seeds = len(self.arms[0].trials), len(self.seeds)
        return budget_text(trials, seeds, self.epochs)

    @property
    def keys(self) -> str:
        """The tuned keys, in words."""
        return " and ".join(axis.key for axis in self.axes)


def budget_text(trials: int, seeds: int, epochs: int) -> str:
    """Describes the budget of an experiment.

    >>> budget_text(5, 2, 3), budget_text(1, 1, 1)
    ('5 trials x 2 seeds x 3 epochs = 30 epochs', '1 trial x 1 seed x 1 epoch = 1 epoch')
    """
    counts = ((trials, "trial"), (seeds, "seed"), (epochs, "epoch"))
    product = " x ".join(f"{n:,} {word}{'s' * (n != 1)}" for n, word in counts)
    total = trials * seeds * epochs
    return f"{product} = {total:,} epoch{'s' * (total != 1)}"


def edge_warnings(tuning: TuningResult) -> Iterator[str]:
    """Warns of a best trial at the end of an axis, beyond which a better one may be."""
    for arm in tuning.arms:
        if arm.best is None:
            yield (
                f"every trial of {clean(arm.label)} diverged; tune other values, such as smaller"
                " learning rates"
            )
    for number, axis in enumerate(tuning.axes):
        at = [(clean(arm.label), arm.best.point[number]) for arm in tuning.arms if arm.best]
        for place in dict.fromkeys(place for _, place in at):
            if wider := _extended(axis, place):
                labels = [label for label, own in at if own == place]
                verb = "are" if len(labels) > 1 else "is"
                yield (
                    f"{enumeration(labels)} {verb} best at the edge of the space ({axis.key}"
                    f" {axis.points[place]}); {_remedy(axis, wider)} (finished trials are not"
                    " repeated)"
                )


def _remedy(axis: TunedAxis, wider: Sequence[str]) -> str:
    """How to extend an axis; only factors can be continued without knowing which values are valid.

    >>> _remedy(TunedAxis("momentum", ("0.5", "0.9")), ["0.5", "0.9", "2"])
    'try larger values, too'
    """
    if axis.points[0].startswith("x"):
        return f"extend it with --tune {axis.key}={':'.join(wider)}"
    return f"try {'smaller' if wider[-1] in axis.points else 'larger'} values, too"


def _extended(axis: TunedAxis, place: int) -> list[str]:
    """The points of an axis with one more beyond an end; empty if the place is not an end.

    >>> _extended(TunedAxis("learning_rate", ("x1", "x3", "x10")), 2)
    ['x1', 'x3', 'x10', 'x30']
    >>> _extended(TunedAxis("weight_decay", ("0", "0.1")), 0)
    []
    """
    numbers = [point.removeprefix("x") for point in axis.points]
    if len(numbers) < 2 or not all(map(is_number, numbers)):
        return []
    ranked = sorted(range(len(numbers)), key=lambda i: float(numbers[i]))
    if place not in (ranked[0], ranked[-1]):
        return []
    inner = ranked[1] if place == ranked[0] else ranked[-2]
    last, before = float(numbers[place]), float(numbers[inner])
    if not last or not before or last * before < 0:
        return []
    prefix = "x" if axis.points[0].startswith("x") else ""
    new = f"{prefix}{float(f'{last * last / before:.1g}'):g}"
    ordered = [axis.points[i] for i in ranked]
    return [new, *ordered] if place == ranked[0] else [*ordered, new]


def crossings(tuning: TuningResult) -> Iterator[str]:
    """Compares the expected best of each experiment with that of the baseline, by budget."""
    base, *others = tuning.arms
    for arm in others:
        if text := _ahead(base, arm, tuning.metric):
            yield text


def _ahead(base: TunedArm, arm: TunedArm, metric: str) -> str:
    sign = 1 if arm.higher else -1
    pairs = enumerate(zip(base.expected, arm.expected, strict=True), 1)
    known = [(k, sign * (b - a)) for k, (a, b) in pairs if math.isfinite(b - a)]
    leads = [(k, difference) for k, difference in known if abs(difference) > _TIE]
    parts = [list(part) for _, part in groupby(leads, key=lambda lead: lead[1] > 0)]
    labels = clean(base.label), clean(arm.label)
    if not parts:
        return ""
    if len(parts) == 1:
        first, last = leads[0][0], leads[-1][0]
        return (
            f"{labels[leads[0][1] > 0]} has the better expected best at every budget from {first}"
            f" to {last} trials."
            if first < last
            else ""
        )
    said = [
        f"{labels[part[0][1] > 0]} is ahead {_range([k for k, _ in part])}"
        f" (by {size(metric, max(abs(d) for _, d in part)).lstrip('+')})"
        for part in parts
    ]
    return f"Which is better depends on the tuning budget: {', '.join(said)}."


def _range(budgets: Sequence[int]) -> str:
    """Names budgets.

    >>> _range([1]), _range([2, 3])
    ('with 1 trial', 'with 2 to 3 trials')
    """
    first, last = budgets[0], budgets[-1]
    if first == last:
        return f"with {first} trial{'s' * (first > 1)}"
    return f"with {first} to {last} trials"


def changed_finding(
    tuning: TuningResult, written: Sequence[Verdict], best: Sequence[Verdict]
) -> Iterator[str]:
    """Headlines: the verdicts that tuning changes.

    Args:
      tuning: the tuning.
      written: verdicts on the experiments as written.
      best: those on the experiments at their best, in the same order.
    """
    for before, after in zip(written, best, strict=True):
        if before.finding is not after.finding:
            yield (
                f"Tuning changes the finding: as written, {finding_text(before)}; each at its own"
                f" best {tuning.keys}, {finding_text(after)}."
            )


def finding_text(verdict: Verdict) -> str:
    """The finding in a few words, without evidence."""
    label, base = clean(verdict.label), clean(verdict.baseline)
    match verdict.finding:
        case Finding.BETTER | Finding.WORSE:
            return f"{label} is {verdict.finding} than {base}"
        case Finding.NOISE:
            return f"the difference of {label} from {base} is within the noise threshold"
        case Finding.NONE:
            return f"no difference between {label} and {base} is detected"
        case Finding.DIVERGED:
            return f"{label} cannot be compared with {base}, since training diverged"
    return f"there are too few seeds to compare {label} with {base}"


@dataclass(frozen=True, slots=True)
class TunedComparison:
    """The verdicts of a tuning, on seeds that it did not use and on the test images.

    Args:
      tuning: the tuning.
      written: the experiments as written; None for a single experiment.
      best: each at its own best; for a single experiment, that against as written. None if an
        experiment has no best or if they are all as written.
    """

    tuning: TuningResult
    written: Comparison | None
    best: Comparison | None

    @property
    def headlines(self) -> tuple[str, ...]:
        """Sentences on the verdicts that tuning changes; nothing if it changes none."""
        if self.written is None or self.best is None or len(self.tuning.arms) == 1:
            return ()
        return tuple(changed_finding(self.tuning, self.written.verdicts, self.best.verdicts))
