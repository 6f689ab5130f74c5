"""Search space of a sweep and its trials: a grid, a subset, or quasi-random points."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from cnnbench.errors import SpecError, UsageError
from cnnbench.formatting import enumeration
from cnnbench.runner.run import Request
from cnnbench.spec.sweeps import Choices, FileSweep, Range, Swept, parse_values

MOST_TRIALS = 1000
_TRIES = 64  # points of the sequence for each requested trial

TrialValues = Mapping[str, str]
"""The value of each key, as in an override."""


@dataclass(frozen=True, slots=True)
class SweepAxis:
    """A key of a sweep.

    Args:
      key: dotted path, as in an override.
      values: the values.
      whole: True for a range of integers.
    """

    key: str
    values: Swept
    whole: bool = False

    def at(self, share: float) -> str:
        """The value at a fraction of the axis, from 0 to 1."""
        if isinstance(self.values, Range):
            return self.values.at(share, whole=self.whole)
        number = len(self.values.values)
        return self.values.values[min(int(share * number), number - 1)]


def parse_axes(overrides: Sequence[str]) -> tuple[tuple[SweepAxis, ...], list[str]]:
    """Separates keys with several values from other overrides.

    Args:
      overrides: `key=value` each; the last one of a key counts.

    Returns:
      The keys with several values, and the other overrides.

    Raises:
      UsageError: the values of a key are invalid, or it is given twice.

    >>> axes, others = parse_axes(["train.epochs=2", "train.batch_size=8,16"])
    >>> axes[0].key, axes[0].values, others
    ('train.batch_size', Choices(values=('8', '16')), ['train.epochs=2'])
    """
    axes: dict[str, SweepAxis] = {}
    others: list[str] = []
    for text in overrides:
        key, equals, value = text.partition("=")
        values = parse_values(key.strip(), value) if equals else None
        if values is None:
            others.append(text)
            continue
        _check_key(key.strip(), axes)
        axes[key.strip()] = SweepAxis(key.strip(), values)
    for text in others:
        if (key := text.partition("=")[0].strip()) in axes:
            raise UsageError(f"{key}: is given twice, once with several values; remove one.")
    return tuple(axes.values()), others


def with_file_sweep(
    requests: Sequence[Request], axes: Sequence[SweepAxis]
) -> tuple[tuple[SweepAxis, ...], int | None]:
    """Adds the keys of `sweep` in the files; the command line takes precedence.

    Args:
      requests: the experiments.
      axes: keys with several values on the command line.

    Returns:
      The keys, and the number of trials of the files.

    Raises:
      UsageError: the files have different sweeps.
    """
    found = [_file_sweep(request) for request in requests]
    if any(sweep != found[0] for sweep in found):
        names = enumeration([str(request.path) for request in requests])
        message = f"sweep: {names} have different values"
        raise UsageError(f"{message}; give the values on the command line, with sweep=null.")
    if not (sweep := found[0]):
        return tuple(axes), None
    words = [text for request in requests for text in request.overrides]
    given = {axis.key for axis in axes} | {text.partition("=")[0].strip() for text in words}
    own, _ = parse_axes([t for t in sweep.overrides if t.partition("=")[0] not in given])
    return (*own, *axes), sweep.trials


def _file_sweep(request: Request) -> FileSweep | None:
    try:
        return request.load().sweep
    except SpecError:  # reported later
        return None


def _check_key(key: str, axes: Mapping[str, SweepAxis]) -> None:
    if key in axes:
        raise UsageError(f"{key}: has several values twice; remove one of them.")
    if key == "seeds":
        message = "seeds: every trial trains with all seeds, so they cannot be swept"
        raise UsageError(f"{message}; write seeds=[0,1,2] or --seeds 0,1,2.")
    if key == "extends":
        raise UsageError("extends: cannot be overridden; name several files instead.")


def choose_points(
    axes: Sequence[SweepAxis], trials: int | None, seed: int
) -> tuple[TrialValues, ...]:
    """The trials of a sweep, in order.

    Without `trials`, these are all combinations. With `trials`, they are points of a scrambled
    Halton sequence, which fills the space evenly; more trials with the same seed begin with the
    same points.

    Args:
      axes: the keys.
      trials: number of trials; None for all combinations.
      seed: scrambles the sequence.

    Raises:
      UsageError: a range lacks a number of trials, or there are too few different trials.

    References:
      Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR 13, 2012;
      Owen, "A randomized Halton algorithm in R", 2017.
    """
    ranges = [axis for axis in axes if isinstance(axis.values, Range)]
    if trials is None:
        if ranges:
            words = f"{ranges[0].key}: {ranges[0].values.text}"  # type: ignore[union-attr]
            raise UsageError(f"{words} needs a number of trials; add, for example, --trials 12.")
        return _grid(axes)
    if not ranges and trials > (size := _size(axes)):
        message = f"--trials: {trials} is more than the {size} combinations"
        raise UsageError(f"{message}; omit it to try all, or add values.")
    chosen: dict[tuple[str, ...], None] = {}
    for point in _sequence(axes, seed, _TRIES * max(trials, _size(axes) if not ranges else 1)):
        chosen[point] = None
        if len(chosen) == trials:
            break
    if not ranges and len(chosen) < trials:
        chosen.update(dict.fromkeys(tuple(p.values()) for p in _grid(axes)))
    if len(chosen) < trials:
        message = f"--trials: {trials} is more than the {len(chosen)} different trials found"
        raise UsageError(f"{message} in {_names(axes)}; write fewer, or wider ranges.")
    keys = [axis.key for axis in axes]
    return tuple(dict(zip(keys, p, strict=True)) for p in list(chosen)[:trials])


def _names(axes: Sequence[SweepAxis]) -> str:
    return enumeration([axis.key for axis in axes])


def _size(axes: Sequence[SweepAxis]) -> int:
    return math.prod(len(a.values.values) for a in axes if isinstance(a.values, Choices))


def _grid(axes: Sequence[SweepAxis]) -> tuple[TrialValues, ...]:
    if (size := _size(axes)) > MOST_TRIALS:
        message = f"{_names(axes)}: {size:,} combinations, at most {MOST_TRIALS:,}"
        raise UsageError(f"{message}; choose some of them with --trials N.")
    every = product(*(a.values.values for a in axes if isinstance(a.values, Choices)))
    return tuple(dict(zip([axis.key for axis in axes], point, strict=True)) for point in every)


def _sequence(axes: Sequence[SweepAxis], seed: int, number: int) -> Iterator[tuple[str, ...]]:
    """Points of a scrambled Halton sequence."""
    from scipy.stats.qmc import Halton

    sampler = Halton(len(axes), scramble=True, rng=seed)
    for place in sampler.random(number):
        yield tuple(axis.at(float(x)) for axis, x in zip(axes, place, strict=True))
