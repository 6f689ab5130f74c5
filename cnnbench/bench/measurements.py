"""A speed comparison as frozen values, and what may be concluded from it.

All variants of a network train on the same batches from the same weights, in
rounds that are timed one variant after another. What two variants took in one
round was taken on the same machine at nearly the same time, so ratios are made
round by round, and a machine that gets slower for a while does not favour one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from cnnbench.comparisons.statistics import Interval, mean, mean_interval
from cnnbench.spec.metrics import is_fraction

OWN = "cnnbench"  # our variant, and its family
IMAGES = 10_000  # times are told for so many training images
MIN_ROUNDS = 3
TOLERANCES = {"accuracy": 0.05, "loss": 0.1}  # points of accuracy as a fraction; share of our loss


class VariantStatus(StrEnum):
    """How far a variant came."""

    MEASURED = "measured"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one variant of a framework took for a network.

    Args:
      variant: its name, such as `torch-eager-nchw`.
      family: the framework, such as `torch`.
      outcome: how far it came.
      reason: why no further; empty if it was measured.
      seconds: of each timed round, in the order of the rounds.
      images: trained in each round.
      steps: training steps in all, with the untimed ones.
      prepare_s: seconds of importing the framework and building the network.
      compile_s: seconds of the first step, which compiles what the variant compiles.
      peak_memory_bytes: most memory resident in its process until training ended.
      metrics: values on the test images after the last step (`accuracy`, `loss`).
    """

    variant: str
    family: str
    outcome: VariantStatus = VariantStatus.MEASURED
    reason: str = ""
    seconds: tuple[float, ...] = ()
    images: int = 0
    steps: int = 0
    prepare_s: float = 0.0
    compile_s: float = 0.0
    peak_memory_bytes: int = 0
    metrics: Mapping[str, float] | None = None

    @property
    def seconds_per_10k(self) -> float:
        """Median seconds for 10,000 training images."""
        return median(self.seconds) * IMAGES / self.images


@dataclass(frozen=True, slots=True)
class Product:
    """The fastest float32 matrix product that the machine was seen to do.

    Args:
      library: which library did it.
      size: rows and columns of its square matrices.
      flops: floating-point operations a second.
    """

    library: str
    size: int
    flops: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Another variant's time over ours; larger than 1: we are faster.

    Args:
      value: geometric mean over the rounds.
      interval: its 95% interval (Student's t of the rounds' logarithms).
    """

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Band:
    """Whether all variants learnt the same.

    Args:
      metric: `accuracy` or `loss`.
      low: the smallest value of any variant.
      high: the largest.
      own: ours.
      tolerance: how far from ours a value may be.
      outside: variants that are further away.
    """

    metric: str
    low: float
    high: float
    own: float
    tolerance: float
    outside: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One network in several frameworks, measured in one run.

    Args:
      name: of the experiment.
      title: what tables call it.
      dataset: where the images came from.
      num_train: training images, of which an epoch consists.
      batch_size: images in a step.
      training_flops: floating-point operations for one training image.
      product: the machine's fastest matrix product in the same run; None if not measured.
      measurements: of each variant, ours first.
    """

    name: str
    title: str
    dataset: str
    num_train: int
    batch_size: int
    training_flops: int
    product: Product | None
    measurements: tuple[Measurement, ...]

    @property
    def measured(self) -> tuple[Measurement, ...]:
        """Those that came to the end."""
        return tuple(m for m in self.measurements if m.outcome is VariantStatus.MEASURED)

    @property
    def own(self) -> Measurement | None:
        """Ours, if it came to the end."""
        return self.find(OWN)

    def find(self, variant: str) -> Measurement | None:
        """The measurement of a variant, if it came to the end."""
        return next((m for m in self.measured if m.variant == variant), None)

    def best(self, family: str) -> Measurement | None:
        """The fastest variant of a framework, if any came to the end."""
        members = [m for m in self.measured if m.family == family]
        return min(members, key=lambda m: m.seconds_per_10k, default=None)

    def ratio(self, other: Measurement | None) -> Ratio | None:
        """How much longer than ours another variant takes; None where either is missing."""
        own = self.own
        return None if own is None or other is None else ratio(other.seconds, own.seconds)

    def product_share(self, measurement: Measurement) -> float | None:
        """A variant's arithmetic in training as a share of the fastest matrix product."""
        if self.product is None or not measurement.seconds_per_10k or not self.product.flops:
            return None
        flops = self.training_flops * IMAGES / measurement.seconds_per_10k
        return flops / self.product.flops

    def band(self) -> Band | None:
        """How close the variants' results are; None where ours is missing."""
        own = self.own
        if own is None or not own.metrics:
            return None
        metric = "accuracy" if "accuracy" in own.metrics else "loss"
        values = {m.variant: m.metrics[metric] for m in self.measured if m.metrics}
        return band(metric, values, own.metrics[metric])


def ratio(others: Sequence[float], ours: Sequence[float]) -> Ratio:
    """The ratio of paired times.

    Args:
      others: the other variant's seconds, round by round.
      ours: our seconds in the same rounds; at least two.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Ratio(value=2.0, interval=Interval(low=2.0, high=2.0))
    """
    pairs = list(zip(others, ours, strict=True))
    if len(pairs) < 2:
        raise ValueError("an interval needs two rounds or more")
    logs = [math.log(other / our) for other, our in pairs if other > 0 and our > 0]
    interval = mean_interval(logs)
    if interval is None:  # most rounds were too short for the clock
        return Ratio(math.nan, Interval(math.nan, math.nan))
    return Ratio(math.exp(mean(logs)), Interval(math.exp(interval.low), math.exp(interval.high)))


def band(metric: str, values: Mapping[str, float], own: float) -> Band:
    """Who is within the tolerance of our result; NaN never is.

    >>> band("accuracy", {"cnnbench": 0.90, "a": 0.93, "b": 0.80}, 0.90).outside
    ('b',)
    """
    tolerance = TOLERANCES[metric] * (1 if is_fraction(metric) else own)
    outside = tuple(name for name, value in values.items() if not abs(value - own) <= tolerance)
    finite = [value for value in values.values() if math.isfinite(value)] or [math.nan]
    return Band(metric, min(finite), max(finite), own, tolerance, outside)


def plan_rounds(seconds: float, step_s: float, rounds: int, most_steps: int) -> tuple[int, int]:
    """How many timed rounds of how many steps fit into a budget, with one round to warm up.

    Args:
      seconds: the budget.
      step_s: seconds of one step of every variant together.
      rounds: rounds wanted.
      most_steps: the most steps of a round.

    Returns:
      Rounds, from 3 to `rounds`, and steps, from 1 to `most_steps`: as many rounds as were
      asked for before a round gets a second step, and the least where even that takes longer.

    >>> plan_rounds(80, 1.0, rounds=7, most_steps=100)
    (7, 10)
    >>> plan_rounds(5, 1.0, rounds=7, most_steps=100)
    (4, 1)
    """
    affordable = int(seconds / step_s) if step_s > 0 else (rounds + 1) * most_steps
    fitting = max(MIN_ROUNDS, min(rounds, affordable - 1))
    return fitting, max(1, min(most_steps, affordable // (fitting + 1)))


def take_turns(variants: Sequence[str], round_number: int) -> tuple[str, ...]:
    """The order of a round: forwards and backwards by turns, so that drift favours nobody.

    >>> take_turns(["a", "b", "c"], 0), take_turns(["a", "b", "c"], 1)
    (('a', 'b', 'c'), ('c', 'b', 'a'))
    """
    return tuple(variants if round_number % 2 == 0 else reversed(variants))
