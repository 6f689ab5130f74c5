"""Measured values: seeds 0, 1, 2, ... of several networks.

`python -m benchmarks.calibration --write FILE RUN ...` writes the file of some run folders.
"""

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration.looks import LookRule, rules, stopped
from benchmarks.calibration.means import paired, unpaired
from benchmarks.calibration.tables import ALPHA, ROOT, generator, rate, section, table
from cnnbench.runs.folder import read_run
from cnnbench.statistics.estimates import pearson

RESULTS = ROOT / "benchmarks" / "results"
MEASURED, SIMILAR = RESULTS / "seeds_mnist_5k.csv", RESULTS / "seeds_similar.csv"
METRICS = ("accuracy", "loss")
TIES = 1 + 1e-9

SeedValues = Mapping[tuple[str, int, str], Any]


def write_measured(file: Path, runs: Sequence[Path]) -> None:
    """Writes the validation results of each seed of some runs after each epoch.

    Args:
      file: the file.
      runs: folders of runs; of an unfinished one, the seeds with all epochs.
    """
    with file.open("w", newline="") as opened:
        rows = csv.writer(opened, lineterminator="\n")
        rows.writerow(["network", "seed", "epoch", *METRICS])
        for path in runs:
            run = read_run(path)
            ended = {epoch.seed for epoch in run.epochs if epoch.epoch == run.record.epochs}
            for epoch in sorted(run.epochs, key=lambda each: (each.seed, each.epoch)):
                if epoch.seed in ended:
                    values = [f"{epoch.validation(metric):.6g}" for metric in METRICS]
                    rows.writerow([run.record.name, epoch.seed, epoch.epoch, *values])


@lru_cache
def measured(file: Path = MEASURED) -> SeedValues:
    """The values over seeds, by network, epoch and metric."""
    with file.open() as opened:
        lines = list(csv.DictReader(opened))
    found: dict[tuple[str, int, str], list[float]] = {}
    for line, metric in itertools.product(lines, METRICS):
        key = line["network"], int(line["epoch"]), metric
        found.setdefault(key, []).append(float(line[metric]))
    return {key: np.array(values) for key, values in found.items()}


def epochs_of(values: SeedValues) -> list[int]:
    """The epochs, in order."""
    return sorted({epoch for _, epoch, _ in values})


def pairs_of(values: SeedValues, metric: str) -> Iterator[tuple[str, int, Any, Any]]:
    """Two networks, an epoch, and their values of equal seeds."""
    names = list(dict.fromkeys(name for name, _, _ in values))
    for one, other in itertools.combinations(names, 2):
        for epoch in epochs_of(values):
            both = values[one, epoch, metric], values[other, epoch, metric]
            number = min(map(len, both))
            yield f"{one}, {other}", epoch, both[0][:number], both[1][:number]


def _correlation(first: Any, second: Any) -> str:
    return f"{pearson(first.tolist(), second.tolist()):z.2f}"


@section("correlations")
def correlations(_: int) -> str:
    """The correlation of equal seeds of two networks, by epoch."""
    values = measured()
    rows: dict[tuple[str, str], list[str]] = {}
    for metric in METRICS:
        for names, _epoch, *both in pairs_of(values, metric):
            rows.setdefault((names, metric), []).append(_correlation(*both))
    header = ["Networks", "Metric", *(f"epoch {epoch}" for epoch in epochs_of(values))]
    return table(header, [[*names, *cells] for names, cells in rows.items()])


@section("spreads")
def spreads(_: int) -> str:
    """The standard deviation over seeds of each network, by epoch."""
    rows: dict[tuple[str, str], list[str]] = {}
    for (network, _epoch, metric), values in sorted(measured().items(), key=lambda e: e[0][1]):
        scale, unit = (100, " points") if metric == "accuracy" else (1, "")
        text = f"{scale * np.std(values, ddof=1):.3g}{unit}"
        rows.setdefault((network, metric), []).append(text)
    header = ["Network", "Metric", *(f"epoch {epoch}" for epoch in epochs_of(measured()))]
    return table(header, [[*names, *cells] for names, cells in sorted(rows.items())])


@section("measured-power")
def measured_power(simulations: int) -> str:
    """Power of both tests for measured values with an added difference."""
    rng, rows = generator("measured-power"), []
    for metric, d in itertools.product(METRICS, (0.0, 1.0, 1.5, 2.0)):
        pairs = [(a, b) for _, _, a, b in pairs_of(measured(), metric)]
        cells = [_powers(rng, pairs, n, d, simulations) for n in (4, 6, 8)]
        rows.append([metric, f"{d:g}", *cells])
    return table(["Metric", "Difference / sd", "4 seeds", "6 seeds", "8 seeds"], rows)


def _powers(
    rng: np.random.Generator,
    pairs: Sequence[tuple[Any, Any]],
    number: int,
    effect: float,
    simulations: int,
) -> str:
    """Rates of findings of the unpaired and of the paired test, for pairs of networks in turn."""
    counts = [0, 0]
    for first, second in itertools.islice(itertools.cycle(pairs), simulations):
        seeds = rng.choice(len(first), number, replace=False)
        spread = np.sqrt((np.var(first, ddof=1) + np.var(second, ddof=1)) / 2)
        a = (first - first.mean())[seeds]
        b = (second - second.mean() + effect * spread)[seeds]
        tests = (unpaired(a, b), paired(a, b))
        counts = [c + (t.p <= ALPHA * TIES) for c, t in zip(counts, tests, strict=True)]
    return " / ".join(f"{count / simulations:.1%}" for count in counts)


@section("similar")
def similar(simulations: int) -> str:
    """Correlations of equal seeds of a small network and its variants, and the tests' power."""
    values, rows, rng = measured(SIMILAR), [], generator("similar")
    last = epochs_of(values)[-1]
    names = list(dict.fromkeys(name for name, _, _ in values))
    for name, metric in itertools.product(names[1:], METRICS):
        cells = []
        for epoch in (1, last):
            cells.append(_correlation(values[names[0], epoch, metric], values[name, epoch, metric]))
        both = [(values[names[0], last, metric], values[name, last, metric])]
        cells += [_powers(rng, both, number, 1.5, simulations) for number in (6, 8)]
        rows.append([name, metric, *cells])
    head = ["Variant", "Metric", "Correlation, epoch 1", f"epoch {last}"]
    return table([*head, "Power, 6 seeds", "8 seeds"], rows)


@section("a-a")
def equal_halves(simulations: int) -> str:
    """Findings among random divisions of the seeds of one network into two halves."""
    divisions, rows = max(2, simulations // 10), []
    values = measured()
    for metric, epoch in itertools.product(METRICS, epochs_of(values)):
        seeds, rng = values["standard", epoch, metric], generator(f"a-a {metric} {epoch}")
        counts = np.zeros(4, int)
        for _ in range(divisions):
            halves = rng.permutation(seeds)[: len(seeds) // 2 * 2].reshape(2, -1)
            counts += _findings(*halves)
        rows.append([metric, str(epoch), *(rate(count, divisions) for count in counts)])
    head = ["Metric", "Epoch", "unpaired", "`--test paired`", "`--until-decided`", "`--anytime`"]
    return table(head, rows)


def _findings(first: Any, second: Any) -> list[bool]:
    """Whether each kind of verdict finds a difference."""
    number = len(first)
    usual, _, anytime = rules()
    fixed = [LookRule("", test, (number,), (ALPHA,)) for test in ("unpaired", "paired")]
    cut = _cut(usual, number)
    return [stopped(rule, first, second).decided for rule in (*fixed, cut, anytime)]


def _cut(rule: LookRule, number: int) -> LookRule:
    """The looks that this many seeds reach."""
    reached = sum(look <= number for look in rule.numbers)
    return rule._replace(numbers=rule.numbers[:reached], levels=rule.levels[:reached])
