"""Measurements of a speed comparison, and the statistics derived from them.

All variants of a network train on the same batches from the same weights, in rounds that are
timed one variant after another. The times of one round are measured close together, so ratios are
computed per round, and a machine that slows down for a while does not favor any variant.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from cnnbench.bench.frameworks.interface import FLOAT32, TorchSettings, settings_of
from cnnbench.spec.metrics import is_fraction
from cnnbench.statistics.estimates import Interval, mean, mean_interval

OWN = "cnnbench"  # our variant and its family
OWN_BFLOAT16 = f"{OWN}-{TorchSettings.BFLOAT16}"
IMAGES = 10_000  # training images per reported time
MIN_ROUNDS = 3
TOLERANCES = {"accuracy": 0.05, "loss": 0.1}  # absolute for accuracy; relative to our loss


class VariantStatus(StrEnum):
    """Outcome of measuring a variant."""

    MEASURED = "measured"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Measurement of one variant of a framework for a network.

    Args:
      variant: name of the variant, such as `torch-eager-nchw`.
      family: name of the framework, such as `torch`.
      outcome: whether it was measured, skipped or failed.
      reason: reason for skipping or failing; empty if it was measured.
      seconds: seconds of each timed round, in order.
      images: training images per round.
      steps: total number of training steps, including untimed ones.
      prepare_s: seconds to import the framework and build the network.
      compile_s: seconds of the first step, which includes compilation.
      peak_memory_bytes: peak resident memory of the process at the end of training.
      metrics: `accuracy` and `loss` on the test images after the last step.
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
    def settings(self) -> TorchSettings:
        """Settings of the variant."""
        return settings_of(self.variant)

    @property
    def seconds_per_10k(self) -> float:
        """Median seconds per 10,000 training images."""
        return median(self.seconds) * IMAGES / self.images


@dataclass(frozen=True, slots=True)
class Product:
    """The fastest float32 matrix product measured on the machine.

    Args:
      library: the library that computed it.
      size: number of rows and columns of the square matrices.
      flops: floating-point operations per second.
    """

    library: str
    size: int
    flops: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Another variant's time relative to ours; above 1, ours is faster.

    Args:
      value: geometric mean over the rounds.
      interval: its 95% confidence interval (Student's t on the logarithms).
    """

    value: float
    interval: Interval


@dataclass(frozen=True, slots=True)
class Band:
    """Agreement of the variants' results.

    Args:
      metric: `accuracy` or `loss`.
      low: smallest value of any variant.
      high: largest value of any variant.
      own: our value.
      tolerance: largest difference from our value allowed.
      outside: variants outside the tolerance.
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
      name: name of the experiment.
      title: its title in tables.
      dataset: name of the dataset.
      num_train: number of training images, one epoch.
      batch_size: images per step.
      training_flops: floating-point operations per training image.
      product: the machine's fastest matrix product in the same run; None if not measured.
      measurements: one for each variant, ours first.
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
        """Measurements of the variants that completed."""
        return tuple(m for m in self.measurements if m.outcome is VariantStatus.MEASURED)

    @property
    def own(self) -> Measurement | None:
        """Our measurement, if it completed."""
        return self.find(OWN)

    def find(self, variant: str) -> Measurement | None:
        """The measurement of a variant, if it completed."""
        return next((m for m in self.measured if m.variant == variant), None)

    def best(
        self, family: str, settings: Collection[TorchSettings] = FLOAT32
    ) -> Measurement | None:
        """The fastest variant of a framework with one of some settings, if any completed."""
        members = [m for m in self.measured if m.family == family and m.settings in settings]
        return min(members, key=lambda m: m.seconds_per_10k, default=None)

    def ratio(self, other: Measurement | None, own: str = OWN) -> Ratio | None:
        """Another variant's time relative to one of ours; None if either is missing."""
        ours = self.find(own)
        return None if ours is None or other is None else ratio(other.seconds, ours.seconds)

    def product_share(self, measurement: Measurement) -> float | None:
        """Training FLOP/s of a variant as a fraction of the fastest matrix product."""
        if self.product is None or not measurement.seconds_per_10k or not self.product.flops:
            return None
        flops = self.training_flops * IMAGES / measurement.seconds_per_10k
        return flops / self.product.flops

    def band(self) -> Band | None:
        """Agreement of the variants' results; None if ours is missing."""
        own = self.own
        if own is None or not own.metrics:
            return None
        metric = "accuracy" if "accuracy" in own.metrics else "loss"
        values = {m.variant: m.metrics[metric] for m in self.measured if m.metrics}
        return band(metric, values, own.metrics[metric])


def ratio(others: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Geometric mean of the ratios of paired times.

    Args:
      others: the other variant's seconds, by round.
      ours: our seconds in the same rounds; at least two.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    Ratio(value=2.0, interval=Interval(low=2.0, high=2.0))
    """
    pairs = list(zip(others, ours, strict=True))
    if len(pairs) < 2:
        raise ValueError("an interval needs at least two rounds")
    logs = [math.log(other / our) for other, our in pairs if other > 0 and our > 0]
    interval = mean_interval(logs)
    if interval is None:  # most rounds were below the clock's resolution
        return Ratio(math.nan, Interval(math.nan, math.nan))
    return Ratio(math.exp(mean(logs)), Interval(math.exp(interval.low), math.exp(interval.high)))


def band(metric: str, values: Mapping[str, float], own: float) -> Band:
    """Check which results are within the tolerance of ours; NaN never is.

    >>> band("accuracy", {"cnnbench": 0.90, "a": 0.93, "b": 0.80}, 0.90).outside
    ('b',)
    """
    tolerance = TOLERANCES[metric] * (1 if is_fraction(metric) else own)
    outside = tuple(name for name, value in values.items() if not abs(value - own) <= tolerance)
    finite = [value for value in values.values() if math.isfinite(value)] or [math.nan]
    return Band(metric, min(finite), max(finite), own, tolerance, outside)


def plan_rounds(seconds: float, step_s: float, rounds: int, most_steps: int) -> tuple[int, int]:
    """Number of timed rounds and of steps per round that fit a budget, with one warm-up round.

    Args:
      seconds: the budget.
      step_s: seconds of one step, summed over all variants.
      rounds: requested number of rounds.
      most_steps: largest number of steps per round.

    Returns:
      Rounds, from 3 to `rounds`, and steps, from 1 to `most_steps`. Rounds take precedence over
      steps; the minimum of both may exceed the budget.

    >>> plan_rounds(80, 1.0, rounds=7, most_steps=100)
    (7, 10)
    >>> plan_rounds(5, 1.0, rounds=7, most_steps=100)
    (4, 1)
    """
    affordable = int(seconds / step_s) if step_s > 0 else (rounds + 1) * most_steps
    fitting = max(MIN_ROUNDS, min(rounds, affordable - 1))
    return fitting, max(1, min(most_steps, affordable // (fitting + 1)))


def take_turns(variants: Sequence[str], round_number: int) -> tuple[str, ...]:
    """Order of the variants in a round, alternately forward and backward to cancel drift.

    >>> take_turns(["a", "b", "c"], 0), take_turns(["a", "b", "c"], 1)
    (('a', 'b', 'c'), ('c', 'b', 'a'))
    """
    return tuple(variants if round_number % 2 == 0 else reversed(variants))
